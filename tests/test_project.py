"""The project's own rules: who imports whom, what a stage depends on, what is committed."""

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pricer.library import code_of, imports, library_files
from pricer.params import Params, flat
from tests.conftest import PIPELINE, ROOT

HEAVY = {"torch", "transformers", "peft", "trl", "bitsandbytes"}
# what each package may import of the library, beside itself
GROUND = ("errors", "escaping", "files", "hub", "launch", "library", "params", "provenance")
GROUND += ("stage", "tables", "workspace")
MAY_IMPORT = {
    "ground": {"ground"},
    "products": {"ground"},
    "evidence": {"ground", "products"},
    "model": {"ground", "products"},
    "prices": {"ground", "products", "evidence", "model"},
    "training": {"ground", "products", "model", "prices"},
    "judging": {"ground", "products", "evidence", "prices"},
    "serving": {"ground", "products", "evidence", "prices", "judging"},
    "monitoring": {"ground", "products", "evidence", "prices", "judging", "serving"},
    "export": {"ground", "products", "model", "prices", "judging"},
    "commands": {"ground", "products", "evidence", "model", "prices", "training", "judging"}
    | {"serving", "monitoring", "export"},
    "stages": {"ground", "products", "evidence", "model", "prices", "training", "judging"},
}
WITHOUT_TORCH = ("products", "evidence", "judging", "monitoring")
MODULES = sorted(path.relative_to(ROOT) for path in (ROOT / "pricer").rglob("*.py"))
STAGES = sorted(path.stem for path in (ROOT / "pricer/stages").glob("[!_]*.py"))


def load_yaml(name: str):
    return YAML(typ="safe", pure=True).load((ROOT / name).read_text())


def stage_definitions(folder: Path = ROOT) -> dict[str, dict]:
    """Every stage as DVC resolves it, by name."""
    from dvc.repo import Repo

    with Repo(folder) as repo:
        return {
            stage.name: {
                "cmd": stage.cmd,
                "deps": [dep.def_path for dep in stage.deps],
                "outs": [out.def_path for out in stage.outs],
            }
            for stage in repo.index.stages
        }


def package(path: str) -> str:
    """The package that a file of the library belongs to; the modules beside them are the ground."""
    parts = Path(path).relative_to("pricer").parts
    return parts[0] if len(parts) > 1 else "ground"


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_go_one_way(module):
    own = package(str(module))
    assert own != "ground" or module.stem in (*GROUND, "__init__")
    files = {str(file.relative_to(ROOT)) for file in library_files(ROOT / module)}
    assert {package(file) for file in files} <= {own} | MAY_IMPORT[own]
    names = {name.split(".")[0] for name in imports(ROOT / module)}
    assert own not in WITHOUT_TORCH or not names & HEAVY


@pytest.mark.parametrize("stage", STAGES)
def test_stages_import_the_library_and_no_other_stage(stage):
    imported = imports(ROOT / "pricer/stages" / f"{stage}.py")
    assert not any(name.startswith("pricer.stages") for name in imported)


def test_importing_the_package_alone_is_light():
    code = f"import pricer, sys; sys.exit(bool(set(sys.modules) & {HEAVY | {'pandas'}!r}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def covered(deps: list[str]) -> set[str]:
    """Files of code that a stage's dependencies are, or hold."""
    code = [dep for dep in deps if dep.startswith("pricer/")]
    folders = {dep for dep in code if (ROOT / dep).is_dir()}
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    inside = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    return (set(code) - folders) | inside


def script_of(command: str) -> Path:
    """The file that a stage's command runs."""
    [name] = re.findall(r"^python -m pricer\.stages (\w+) ", command)
    return ROOT / "pricer/stages" / f"{name}.py"


def test_dvc_yaml_lists_what_a_stage_imports():
    """Every file; folders may hold others, but for training: hours are at stake."""
    definitions = stage_definitions()
    assert set(definitions) == set(PIPELINE)
    for name, stage in definitions.items():
        needed = code_of(script_of(stage["cmd"]))
        code = [dep for dep in stage["deps"] if dep.startswith("pricer/")]
        assert needed <= covered(code), (name, needed - covered(code))
        for dep in code:
            assert any(file == dep or file.startswith(f"{dep}/") for file in needed), (name, dep)
        if name == "train":
            assert set(code) == needed


def dvc_md5(path: Path) -> str:
    """The hash that DVC has of a file, or of a folder of code."""
    if path.is_file():
        return hashlib.md5(path.read_bytes()).hexdigest()
    files = [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    listed = [
        {"md5": dvc_md5(file), "relpath": file.relative_to(path).as_posix()}
        for file in sorted(files, key=lambda file: file.relative_to(path).parts)
    ]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"


def test_committed_results_come_from_committed_code_and_params():
    """`dvc.lock` holds the hashes of what made the committed metrics."""
    lock, params = load_yaml("dvc.lock")["stages"], load_yaml("params.yaml")
    assert set(lock) == set(stage_definitions())
    for name, stage in lock.items():
        for dep in stage["deps"]:
            if dep["path"].startswith(("pricer/", "examples/")):
                md5 = dvc_md5(ROOT / dep["path"])
                assert md5 == dep["md5"], f"{dep['path']} changed since {name} ran: dvc repro"
        for section, values in stage["params"]["params.yaml"].items():
            found = params
            for key in section.split("."):
                found = found[key]
            assert found == values, f"{section} changed since {name} ran: dvc repro"
        for out in stage["outs"]:
            path = ROOT / out["path"]
            if out["path"].startswith("metrics/") and path.is_file():
                md5 = hashlib.md5(path.read_bytes()).hexdigest()
                assert md5 == out["md5"], f"{out['path']} is not what {name} wrote"


def test_pins_cover_every_dependency():
    pins = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    project = (ROOT / "pyproject.toml").read_text()
    wanted = re.findall(r'^    "([a-z0-9.-]+?)[>=]', project, re.MULTILINE)
    assert len(wanted) > 20 and not {name.replace(".", "-") for name in wanted} - {
        pin.replace(".", "-") for pin in pins
    }
    assert "torch==2.13.0\n" in (ROOT / "constraints.txt").read_text()


def test_the_readmes_results_are_the_committed_ones():
    # of git's index: `make repro` on another CPU has left other last digits in metrics/
    show = ["git", "-C", str(ROOT), "show"]
    report, readme = (
        subprocess.run([*show, f":{name}"], check=True, capture_output=True, text=True).stdout
        for name in ("metrics/report.md", "README.md")
    )
    leaderboard = report.split("\n## ")[0]
    assert leaderboard.startswith("The tuned model") and leaderboard.count("\n| ") >= 9
    assert leaderboard in readme


def test_the_readmes_defaults_are_the_committed_params():
    params = load_yaml("params.yaml")
    rows = re.findall(
        r"^\| `([a-z_0-9.]+)` \| `([^`]+)` \|", (ROOT / "README.md").read_text(), re.M
    )
    assert len(rows) >= 10
    for key, default in rows:
        value = params
        for part in key.split("."):
            value = value[part]
        assert default in (str(value), str(value).lower()), key


def test_the_readme_says_what_every_package_is():
    named = re.findall(r"^\| `pricer/(\w+)/` \|", (ROOT / "README.md").read_text(), re.M)
    assert set(named) == set(MAY_IMPORT) - {"ground"} | {"presets", "project"}


def test_the_params_page_is_made_from_the_params_and_names_every_knob():
    page = (ROOT / "docs/params.md").read_text()
    for knob in flat(load_yaml("params.yaml")):
        assert f"| `{knob}` | `" in page, knob
    done = subprocess.run(
        [sys.executable, "docs/make_params.py", "--check"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def told(path: Path) -> str:
    """What a file says in words: of Python code the strings, f-strings and docstrings included."""
    text = path.read_text()
    if path.suffix != ".py":
        return text
    constants = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    return "\n".join(value for value in constants if isinstance(value, str))


PATTERNS = ("pricer/**/*.py", "pricer/**/*.jinja", "bench/*.py", "docs/**/*.md", "docs/*.py")
PATTERNS += ("pricer/presets/*.yaml", "*.md", "params.yaml", "Makefile")
# `train.json` is a file, `data/train.parquet` and `products.prompts.f` lie in something else
FILES = ("csv", "json", "jsonl", "md", "parquet", "safetensors", "yaml")
DOTTED = re.compile(rf"(?<![\w./-])(?:{'|'.join(Params.model_fields)})(?:\.[a-z_0-9]+)+")


def test_every_knob_that_is_named_anywhere_exists():
    knobs = list(flat(load_yaml("params.yaml")))
    found = {
        (str(path.relative_to(ROOT)), name)
        for pattern in PATTERNS
        for path in ROOT.glob(pattern)
        if path.is_file() and path.suffix != ".pyc"
        for name in DOTTED.findall(told(path))
        if name.split(".")[-1] not in FILES and path.name != "CHANGELOG.md"
    }
    assert len(found) > 200
    gone = {
        (path, name)
        for path, name in found
        if not any(f"{knob}.".startswith(f"{name}.") for knob in knobs)
    }
    assert not gone


def test_what_contributing_names_is_there():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    files = re.findall(r"`((?:pricer|docs|tests)/[\w/.]+|\w+\.yaml)`", page)
    assert len(files) > 15
    assert not [file for file in files if "NAME" not in file and not (ROOT / file).exists()]


def test_every_stage_is_in_the_page_and_the_diagram():
    page, readme = (ROOT / "docs/pipeline.md").read_text(), (ROOT / "README.md").read_text()
    for name in PIPELINE:
        assert f"`{name}`" in page, name
        assert re.search(rf"\b{name}\b", readme), name


def test_importing_stages_does_nothing_to_the_process(commands, tmp_path):
    """No handler, no exit, no environment: these belong to where a stage starts."""
    (tmp_path / ".env").write_text("READ_FROM_DOTENV=1\n")
    code = (
        "import os, signal, sys, peft;"  # torch notes a folder of its own in the environment
        "before = signal.getsignal(signal.SIGINT), dict(os.environ);"
        "import pricer.stages.baselines, pricer.stages.train, pricer.stages.__main__;"
        "sys.exit(before != (signal.getsignal(signal.SIGINT), dict(os.environ)))"
    )
    command = [str(commands / "python"), "-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, cwd=tmp_path, env=environment).returncode == 0


@pytest.mark.parametrize("arguments", [[], ["trian", "data/prompts"]])
def test_a_stage_that_does_not_exist_is_told_in_one_line(arguments):
    command = [sys.executable, "-m", "pricer.stages", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "no stage" in done.stderr and "fetch_items" in done.stderr


def test_one_module_reads_who_a_process_is():
    named = re.compile(r"\b(?:LOCAL_)?RANK\b|\bWORLD_SIZE\b")
    code = ROOT.glob("pricer/**/*.py")
    found = [str(path.relative_to(ROOT)) for path in code if named.search(path.read_text())]
    assert found == ["pricer/launch.py"]
