"""`pricer init`: what it writes, and what it refuses. tests/pipeline/test_wheel.py runs one."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pricer.commands import projects
from pricer.commands.presets import BUILT_IN, preset_params
from pricer.files import write_json
from pricer.library import HASHES, is_current
from pricer.params import read_params
from pricer.products.file_source import file_items
from pricer.products.items import SPLITS
from pricer.provenance import PACKAGE
from tests.conftest import ROOT
from tests.test_project import load_yaml, script_of, stage_definitions

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def pricer(commands: Path, tmp_path: Path) -> Run:
    """Run `pricer ARGUMENTS` in a temporary folder."""

    def run(*arguments: str, folder: Path = tmp_path, **environment: str):
        who = {f"GIT_{role}_{what}": "tests" for role in ("AUTHOR", "COMMITTER") for what in WHO}
        known = os.environ | {"PYTHONPATH": str(ROOT), "GIT_CONFIG_GLOBAL": os.devnull} | who
        return subprocess.run(
            [str(commands / "pricer"), *arguments],
            cwd=folder,
            env=known | environment,
            capture_output=True,
            text=True,
        )

    return run


WHO = ("NAME", "EMAIL")
ALL = {".dvc", ".dvcignore", ".env.example", ".gitignore", "README.md", "docs", "dvc.yaml"}
ALL |= {"examples", "metrics", "params.yaml", "requirements.txt"}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_project_is_complete_committed_and_the_same_pipeline(pricer, tmp_path):
    done = pricer("init", "my shop")
    assert done.returncode == 0 and done.stderr == "" and "\n  cd 'my shop'\n" in done.stdout
    folder = tmp_path / "my shop"
    assert names(folder) == ALL | {".git"} and git(folder, "status", "--porcelain") == ""
    assert (folder / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()
    assert (folder / "README.md").read_text().startswith("# my shop\n")
    required = (folder / "requirements.txt").read_text()
    assert (
        re.search(r"^# pricer==[\d.]+: install its wheel", required, re.M)
        and "\ntorch==2.13.0\n" in required
    )
    ours, theirs = stage_definitions(), stage_definitions(folder)
    library = theirs.pop("library")
    assert library["outs"] == [HASHES] and set(theirs) == set(ours)
    for name, stage in theirs.items():
        data = [dep for dep in ours[name]["deps"] if not dep.startswith("pricer/")]
        hashes = f"{HASHES}/{script_of(stage['cmd']).stem}.json"
        assert (folder / hashes).is_file()
        assert set(stage["deps"]) == {*data, hashes}, name
        assert (stage["cmd"], stage["outs"]) == (ours[name]["cmd"], ours[name]["outs"])
    # what `pricer publish` asks
    assert is_current(folder / HASHES)
    write_json(folder / HASHES / "train.json", {"pricer/files.py": "of an earlier version"})
    assert not is_current(folder / HASHES)
    (folder / HASHES / "train.json").unlink()
    assert not is_current(folder / HASHES)


def test_the_current_folder_may_be_one_if_it_is_empty(pricer, tmp_path):
    done = pricer("init", ".")
    assert done.returncode == 0 and "cd " not in done.stdout
    assert names(tmp_path) == ALL | {".git"}
    again = pricer("init", ".")
    assert again.returncode == 1
    assert again.stderr == "pricer: '.' is not empty: name a new folder, nothing written\n"


def test_in_a_repository_it_is_left_to_that(pricer, tmp_path):
    git(tmp_path, "init", "-q")
    done = pricer("init", "shops/one")
    assert done.returncode == 0 and f"lies in the git repository {tmp_path}" in done.stdout
    assert names(tmp_path / "shops/one") == ALL
    assert git(tmp_path, "status", "--porcelain") == "?? shops/\n"


def test_without_git_there_is_a_project_all_the_same(pricer, tmp_path):
    done = pricer("init", "shop", PATH=str(tmp_path))
    assert done.returncode == 0 and "git is not installed: nothing is committed" in done.stdout
    assert "git add" not in done.stdout
    assert names(tmp_path / "shop") == ALL


def test_a_commit_that_git_refuses_is_told(pricer, tmp_path):
    done = pricer("init", "shop", GIT_AUTHOR_NAME="<>", GIT_COMMITTER_NAME="<>")
    assert done.returncode == 0 and "git could not commit it (fatal: name consists only of" in (
        done.stdout
    )
    assert names(tmp_path / "shop") == ALL | {".git"}


def test_ones_own_products_are_all_used(pricer, tmp_path):
    source = ROOT / "examples/products.jsonl"
    (tmp_path / "mine.jsonl").write_bytes(source.read_bytes())
    done = pricer("init", "shop", "--items", "mine.jsonl")
    assert done.returncode == 0, done.stderr
    params = read_params(tmp_path / "shop/params.yaml")
    items = params.items
    assert (items.source, items.files.path) == ("files", "products/mine.jsonl")
    own = preset_params(BUILT_IN, "own")
    assert (params.prompts, params.train, params.evidence) == (own.prompts, own.train, own.evidence)
    assert (tmp_path / "shop/products/mine.jsonl").read_bytes() == source.read_bytes()
    assert "a copy of mine.jsonl is in its folder products\n" in done.stdout
    assert items.files.on_invalid == "error"
    sizes = (items.files.train_size, items.files.validation_size, items.files.test_size)
    assert sizes == (40, 10, 10) and sum(sizes) == len(source.read_text().splitlines())


def test_products_that_cannot_be_used_are_told_and_sizes_are_those_that_can_be_filled(
    pricer, tmp_path
):
    # titles of the same words stay in one split
    rows = [
        {"title": f"lamp {n // 2}", "category": "", "price": 5 + n, "summary": f"lamp number {n}"}
        for n in range(110)
    ]
    lines = [json.dumps(row) for row in [*rows, rows[0] | {"price": "?"}]]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    done = pricer("init", "shop", "--items", "mine.jsonl")
    assert done.returncode == 0 and "1 of 111 rows" in done.stdout, done.stderr
    items = read_params(tmp_path / "shop/params.yaml").items
    sizes = {split: getattr(items.files, f"{split}_size") for split in SPLITS}
    assert sum(sizes.values()) == 110 and items.files.on_invalid == "drop"
    cleaning = {"min_price": items.min_price, "max_price": items.max_price, "on_invalid": "drop"}
    splits, _ = file_items(tmp_path / "mine.jsonl", sizes, seed=items.files.seed, **cleaning)
    assert {split: len(table) for split, table in splits.items()} == sizes


def test_products_too_large_for_git_are_held_by_dvc(pricer, tmp_path):
    source = (ROOT / "examples/products.jsonl").read_text()
    (tmp_path / "mine.jsonl").write_text(source + "\n" * 5_000_000)
    done = pricer("init", "shop", "--items", "mine.jsonl")
    assert done.returncode == 0 and "products, which DVC holds" in done.stdout, done.stderr
    shop = tmp_path / "shop"
    assert "products.dvc" in git(shop, "ls-files") and "mine.jsonl" not in git(shop, "ls-files")
    assert git(shop, "status", "--porcelain") == ""
    [output] = load_yaml(str(shop / "products.dvc"))["outs"]
    assert (shop / ".dvc/cache/files/md5" / output["md5"][:2] / output["md5"][2:]).is_file()


def test_a_hook_that_says_nothing_is_told(pricer, tmp_path):
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "pre-commit").write_text("#!/bin/sh\nexit 1\n")
    (hooks / "pre-commit").chmod(0o755)
    (tmp_path / "gitconfig").write_text(f"[core]\nhooksPath = {hooks}\n")
    done = pricer("init", "shop", GIT_CONFIG_GLOBAL=str(tmp_path / "gitconfig"))
    assert done.returncode == 0 and "could not commit it (it says nothing" in done.stdout


@pytest.mark.parametrize(
    ("noted", "expected"),
    [
        ("{}", "# pricer==1.2: install its wheel"),
        ('{"url": "file:///home/me/pricer.whl"}', "# pricer==1.2: install"),
        ('{"url": "https://host/pricer.whl?X-Amz-Signature=secret"}', "# pricer==1.2: install"),
        ('{"url": "https://me:secret@host/pricer.whl"}', "pricer @ https://host/pricer.whl"),
        (
            '{"url": "ssh://git@host/a.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}',
            "pricer @ git+ssh://git@host/a.git@c0ffee",
        ),
    ],
)
def test_where_the_library_is_from_is_told_without_secrets(monkeypatch, noted, expected):
    class Noted:
        def read_text(self, name):
            return noted

    monkeypatch.setattr(projects, "distribution", lambda name: Noted())
    monkeypatch.setattr(projects, "version", lambda name: "1.2")
    line = projects._library()
    assert line.startswith(expected) and "secret" not in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["there"], "'there' is not empty: name a new folder, nothing written"),
        (["there/file"], "'there/file' is a file: name a new folder"),
        (["a\nb"], "'a\\nb' has characters that show nothing: name another"),
        (["new", "--items", "no.csv"], "--items 'no.csv': no such file or folder"),
        (
            ["new", "--items", "few.jsonl"],
            "few.jsonl: of 1 rows 1 distinct products are usable, in 1",
        ),
        (["new", "--items", "caf\udce9.csv"], "has characters that show nothing or are no text"),
        (["new", "--items", "there"], "there: must hold one train file"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(pricer, tmp_path, arguments, says):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").touch()
    row = {"title": "Lamp", "category": "", "price": 5, "summary": "A lamp"}
    (tmp_path / "few.jsonl").write_text(json.dumps(row) + "\n")
    done = pricer("init", *arguments)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and says in done.stderr
    assert names(tmp_path) == {"there", "few.jsonl"} and names(tmp_path / "there") == {"file"}


@pytest.mark.parametrize("name", ["cars.jsonl", "cars"], ids=["file", "splits"])
def test_products_dearer_than_the_defaults_allow_are_told_with_a_way(pricer, tmp_path, name):
    car = {"category": "Cars", "price": 5_000}
    cars = [car | {"title": f"Car {n}", "summary": f"A car of {n} doors"} for n in range(60)]
    (tmp_path / "cars").mkdir()
    for file in ("cars.jsonl", *(f"cars/{split}.jsonl" for split in SPLITS)):
        (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in cars))
    done = pricer("init", "shop", "--items", name)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "$999.49: for others begin without --items, and set items.min_price" in done.stderr
    assert not (tmp_path / "shop").exists()


def test_what_else_lies_beside_splits_stays_there(pricer, tmp_path):
    (tmp_path / "mine").mkdir()
    for place, split in enumerate(SPLITS):
        row = {"title": f"Lamp {place}", "category": "", "price": 5, "summary": f"Lamp {place}"}
        (tmp_path / f"mine/{split}.jsonl").write_text(json.dumps(row))
    (tmp_path / "mine/train.jsonl.bak").write_text("{}")
    (tmp_path / "mine/train.txt").write_text("notes")
    assert pricer("init", "shop", "--items", "mine").returncode == 0
    assert names(tmp_path / "shop/products") == {f"{split}.jsonl" for split in SPLITS}


def test_what_a_killed_run_left_is_no_content(pricer, tmp_path):
    (tmp_path / "shop/.begun/half").mkdir(parents=True)
    assert pricer("init", "shop").returncode == 0
    assert names(tmp_path / "shop") == ALL | {".git"}


def test_what_projects_take_over_is_what_is_here():
    copies = re.search(r"^COPIES := (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert copies and len(copies[1].split()) > 5
    for name in copies[1].split():
        same = (PACKAGE / "project" / name).read_bytes() == (ROOT / name).read_bytes()
        assert same, f"{name} has changed: `make format`"
