"""`pricer init`: what it writes, and what it refuses. tests/pipeline/test_wheel.py runs one."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pricer.files import write_json
from pricer.library import HASHES, is_current
from pricer.params import read_params
from pricer.provenance import PACKAGE
from tests.conftest import ROOT
from tests.test_project import script_of, stage_definitions

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
    assert re.search(r"^pricer==[\d.]+$", required, re.M) and "\ntorch==2.13.0\n" in required
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
    items = read_params(tmp_path / "shop/params.yaml").items
    assert (items.source, items.files.path) == ("files", "../mine.jsonl")
    sizes = (items.files.train_size, items.files.validation_size, items.files.test_size)
    assert sizes == (40, 10, 10) and sum(sizes) == len(source.read_text().splitlines())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["there"], "'there' is not empty: name a new folder, nothing written"),
        (["there/file"], "'there/file' is a file: name a new folder"),
        (["a\nb"], "'a\\nb' has characters that show nothing: name another"),
        (["new", "--items", "no.csv"], "--items 'no.csv': no such file or folder"),
        (["new", "--items", "few.jsonl"], "few.jsonl: train 10, validation 10, test 10 asked for"),
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
