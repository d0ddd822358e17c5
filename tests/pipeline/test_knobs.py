"""What reruns when: every knob and every file of code, against what stages declare and read."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from dvc.dependency import ParamsDependency
from dvc.repo import Repo
from ruamel.yaml import YAML

from tests.conftest import PIPELINE, ROOT
from tests.test_project import covered, stage_definitions

from .conftest import set_params

# while a switch has a value, the knobs below what it does not choose are read by nobody
SWITCHES = {
    "items.source": ("items.catalog", "items.files", "items.raw", "items.hub"),
    "model.source": ("model.pypi", "model.path", "model.hub"),
    "adapter.source": ("adapter.path", "adapter.hub", "adapter.cutoff", "adapter.evidence"),
    "compute.processes": ("compute.machines", "compute.strategy"),
}

# run in place of a stage's own `main`: notes the params that are looked at meanwhile
RECORDER = """
import json, runpy, sys
from pathlib import Path
from pricer import params

names, read = {}, set()  # of sections, by their identity; dotted keys of knobs

def name(section, prefix=""):
    names[id(section)] = prefix
    for key, value in section.__dict__.items():
        if isinstance(value, params.Section):
            name(value, f"{prefix}{key}.")

def note(section, key):
    value = section.__dict__[key]
    if isinstance(value, params.Section):
        for inner in value.__dict__:
            note(value, inner)
    else:
        read.add(names[id(section)] + key)

def attribute(self, key):
    value = object.__getattribute__(self, key)
    if id(self) in names and key in type(self).model_fields:
        if not isinstance(value, params.Section):
            note(self, key)
    return value

def model_dump(self, **options):
    for key in set(self.__dict__) - set(options.get("exclude") or ()):
        note(self, key)
    return dump(self, **options)

found = params.read_params()
name(found)
dump = params.Section.model_dump
params.Section.__getattribute__ = attribute
params.Section.model_dump = model_dump
params.read_params = lambda *_: found
out, module, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=False)
finally:
    Path(out).write_text(json.dumps(sorted(read)))
"""


def leaves(section: dict, prefix: str = "") -> list[str]:
    return [
        leaf
        for key, value in section.items()
        for leaf in (
            leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
        )
    ]


def below(knob: str, sections) -> bool:
    return any(knob == section or knob.startswith(f"{section}.") for section in sections)


KNOBS = leaves(YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text()))


@pytest.fixture(scope="module")
def keys(reproduced) -> dict[str, set[str]]:
    """The knobs and sections that each stage names in `dvc.yaml`."""
    with Repo(str(reproduced.folder)) as repo:
        return {
            stage.name: {
                key for dep in stage.deps if isinstance(dep, ParamsDependency) for key in dep.params
            }
            for stage in repo.index.stages
        }


@pytest.fixture(scope="module")
def declared(keys) -> dict[str, set[str]]:
    """The knobs that each stage declares in `dvc.yaml`."""
    return {stage: {knob for knob in KNOBS if below(knob, named)} for stage, named in keys.items()}


def changed_dependencies(folder: Path) -> dict[str, set[str]]:
    """What has changed of code and params that each stage depends on itself, as it names them.

    Stages of which nothing has are left out: `dvc repro` would not run them for their own sake.
    """
    with Repo(str(folder)) as repo:
        told = repo.status()
    changed = {}
    for stage, reasons in told.items():
        [reason] = reasons
        [files] = reason.values()
        params = files.pop("params.yaml", {})
        # stages of another folder than the current one are told with theirs
        changed[stage.rpartition(":")[2]] = {*files, *params}
    return changed


def groups(held: dict[str, set[str]]) -> list[list[str]]:
    """Spread names over few groups, in none of which two are held by the same dependency."""
    spread: list[list[str]] = []
    for name, holding in held.items():
        for group in spread:
            if all(holding.isdisjoint(held[other]) for other in group):
                group.append(name)
                break
        else:
            spread.append([name])
    return spread


def of_stages(stages: dict[str, set[str]], held: dict[str, set[str]], names) -> dict[str, set[str]]:
    """The dependencies of each stage that hold one of `names`, where there are any."""
    holding = set().union(*(held[name] for name in names))
    return {stage: named & holding for stage, named in stages.items() if named & holding}


def test_nothing_has_changed_after_a_run(reproduced):
    assert changed_dependencies(reproduced.folder) == {}


def test_every_knob_changes_exactly_the_stages_that_declare_it(reproduced, keys):
    every = set().union(*keys.values())
    held = {knob: {key for key in every if below(knob, [key])} for knob in KNOBS}
    assert all(held.values())
    file = reproduced.folder / "params.yaml"
    before = file.read_text()
    try:
        for some in groups(held):
            file.write_text(before)
            set_params(reproduced.folder, dict.fromkeys(some, "something else"))
            changed = changed_dependencies(reproduced.folder)
            if "items.files.path" in some:  # is a dependency too
                changed["fetch@items"].remove("something else")
            assert changed == of_stages(keys, held, some), some
    finally:
        file.write_text(before)
    assert changed_dependencies(reproduced.folder) == {}


def test_every_file_of_code_changes_exactly_the_stages_that_list_it(reproduced):
    stages = {name: set(stage["deps"]) for name, stage in stage_definitions().items()}
    code = {str(path.relative_to(ROOT)) for path in ROOT.glob("pricer/**/*.py")}
    files = {dependency: covered([dependency]) for dependency in set().union(*stages.values())}
    held = {
        name: {dependency for dependency, inside in files.items() if name in inside}
        for name in sorted(code)
    }
    listed = {name: holding for name, holding in held.items() if holding}
    assert len(listed) > 40
    # those that no stage lists change none, however many of them change
    for some in [*groups(listed), sorted(code - listed.keys())]:
        before = {name: (reproduced.folder / name).read_text() for name in some}
        for name, text in before.items():
            (reproduced.folder / name).write_text(f"{text}# a comment\n")
        try:
            assert changed_dependencies(reproduced.folder) == of_stages(stages, held, some), some
        finally:
            for name, text in before.items():
                (reproduced.folder / name).write_text(text)
    assert changed_dependencies(reproduced.folder) == {}


@pytest.fixture(scope="module")
def copy(reproduced, tmp_path_factory):
    """The project once more, for stages to write to."""
    folder = tmp_path_factory.mktemp("knobs") / "project"
    shutil.copytree(reproduced.folder, folder, symlinks=True)
    return replace(
        reproduced,
        folder=folder,
        environment=reproduced.environment | {"PYTHONPATH": str(folder)},
    )


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_reads_what_it_declares_and_nothing_else(copy, declared, stage, tmp_path):
    """For real: the stage runs, and its params note who looks at them."""
    recorder, out = tmp_path / "recorder.py", tmp_path / "read.json"
    recorder.write_text(RECORDER)
    python, _, module, *paths = copy.command_of(stage)
    copy.run(python, str(recorder), str(out), module, *paths)
    read = set(json.loads(out.read_text()))
    assert read and read <= declared[stage], f"read, not declared: {read - declared[stage]}"
    switched = [section for sections in SWITCHES.values() for section in sections]
    unread = {knob for knob in declared[stage] - read if not below(knob, switched)}
    assert not unread, f"declared, never read: {unread}"
