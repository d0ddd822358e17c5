"""What `pricer init` writes: a project that has the library installed, and not its files."""

import json
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution, requires, version
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo

from pricer.commands.presets import (
    BUILT_IN,
    DEFAULTS,
    dump,
    preset_files,
    preset_text,
    round_trip,
    with_knobs,
)
from pricer.errors import PricerError, first_line, quoted
from pricer.escaping import markdown
from pricer.library import HASHES, write_hashes
from pricer.params import parse_params
from pricer.products.file_source import file_items, read_products
from pricer.products.items import clean_products, drop_duplicates
from pricer.products.splits import split_and_count
from pricer.provenance import PACKAGE

TEMPLATE = PACKAGE / "project"
PIPELINE_HEAD = f"""\
# The pipeline, in the order data flows. `library` notes what code the installed pricer runs in each
# stage; the others depend on that, so that an upgrade reruns what it changes and nothing else.

stages:
  library:
    desc: Hashes of the installed code, by stage; takes a second
    cmd: python -m pricer.stages library {HASHES}
    always_changed: true
    outs:
      - {HASHES}:
          cache: false

"""
NOT_ON_PYPI = "# install its wheel first: what PyPI has under this name is another project's"
PARTIAL = ".begun"  # in the project's folder, where it is put together
HELD_OUT = ("validation", "test")
SMALLEST, LARGEST = 10, 2_000  # products of each that are held out


@contextmanager
def beginning(folder: Path) -> Iterator[Path]:
    """Yield a folder whose content moves to `folder` when the block ends, or vanishes if it fails.

    Args:
        folder: new, or empty: it may be the current one, which must stay the same folder.

    Raises:
        PricerError: it is no folder, or not an empty one.
    """
    if folder.exists() and not folder.is_dir():
        raise PricerError(f"{quoted(str(folder))} is a file: name a new folder")
    new, partial = not folder.exists(), folder / PARTIAL
    if not new and {path.name for path in folder.iterdir()} - {PARTIAL}:
        raise PricerError(f"{quoted(str(folder))} is not empty: name a new folder, nothing written")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in list(partial.iterdir()):
            path.rename(folder / path.name)
        partial.rmdir()
    except BaseException:
        shutil.rmtree(folder if new else partial)
        raise


def project_params(items: Path | None, folder: Path) -> str:
    """Return the text of a project's `params.yaml`: the defaults, with one's own products.

    Args:
        items: a file of products or a folder of splits; None for the built-in catalogue.
        folder: of the project, which the path of `items` will be relative to.

    Raises:
        PricerError: the products cannot be read or are too few.
    """
    text = preset_text(BUILT_IN, DEFAULTS)
    if items is None:
        return text
    params = parse_params(text, preset_files(BUILT_IN)[DEFAULTS]).items
    cleaning: Any = {
        "on_invalid": params.files.on_invalid,
        "min_price": params.min_price,
        "max_price": params.max_price,
    }
    files: dict[str, Any] = {"path": os.path.relpath(items.resolve(), folder.resolve())}
    if items.is_dir():
        file_items(items, {}, seed=params.files.seed, **cleaning)  # says if it will not do
    else:
        sizes = split_sizes(items, seed=params.files.seed, **cleaning)
        files |= {f"{split}_size": size for split, size in sizes.items()}
    return with_knobs(text, {"items": {"source": "files", "files": files}})


def split_sizes(file: Path, *, seed: int, **cleaning: Any) -> dict[str, int]:
    """Return sizes of splits that use every product of a file, most of them for training.

    Args:
        file: of products.
        seed: of the splits.
        cleaning: see `clean_products`.

    Raises:
        PricerError: the products cannot be read or are too few.
    """
    rows = read_products(file)
    items, left_out = clean_products(rows, where=str(file), **cleaning)
    n = len(drop_duplicates(items))
    held_out = min(max(n // 10, SMALLEST), LARGEST)
    sizes = {"train": max(n - 2 * held_out, SMALLEST)} | dict.fromkeys(HELD_OUT, held_out)
    split_and_count(items, left_out, sizes, seed=seed, where=str(file), read=len(rows))
    return sizes


def create(folder: Path, name: str, params: str) -> str:
    """Make an empty folder a project with git and DVC; return what became of git.

    Args:
        folder: to write to.
        name: of the project.
        params: text of its `params.yaml`.
    """
    with_git = shutil.which("git") is not None
    around = _git(folder, "rev-parse", "--show-toplevel").stdout.strip() if with_git else ""
    if with_git and not around:
        _git(folder, "init")
    logging.getLogger("dvc.repo.init").setLevel(logging.WARNING)  # it has hints of its own
    try:
        with Repo.init(str(folder), no_scm=not with_git, subdir=bool(around)) as repo:
            with repo.config.edit("repo") as config:
                config["core"]["analytics"] = False
    except DvcException as error:  # as where git ignores what is there
        raise PricerError(f"DVC cannot be set up in {folder.parent}: {first_line(error)}") from None
    if around:  # DVC has staged files under a name that they will not keep
        _git(folder, "rm", "-r", "--cached", "--force", "--quiet", ".")
    shutil.copytree(TEMPLATE, folder, dirs_exist_ok=True)
    dvc_yaml, readme = (
        (folder / file).read_text(encoding="utf-8") for file in ("dvc.yaml", "README.md")
    )
    for file, text in {
        "dvc.yaml": pipeline(dvc_yaml),
        "params.yaml": params,
        "requirements.txt": requirements(),
        "README.md": readme.replace("NAME", markdown(name), 1),
    }.items():
        (folder / file).write_text(text, encoding="utf-8")
    write_hashes(folder / HASHES)
    if not with_git:
        return "git is not installed: nothing is committed, and there are no experiments"
    if around:
        return f"it lies in the git repository {around}: commit it there, nothing is yet"
    _git(folder, "add", "--all")
    done = _git(folder, "commit", "--message", "pricer init")
    if done.returncode:
        why = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]
        return (
            f"git could not commit it ({why}): mend that, as by `git config --global user.name`, "
            "user.email, then `git commit`"
        )
    return "committed to a git repository of its own"


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def pipeline(text: str) -> str:
    """Return `dvc.yaml` for a project that has none of the library's files.

    Args:
        text: of the library's own, whose stages depend on its files.
    """
    whole = round_trip().load(text)
    for stage in whole["stages"].values():
        for key, item in stage.get("foreach", {}).items():
            del item["package"]
            if item["also"].startswith("pricer/"):
                item["also"] = f"{HASHES}/fetch_{key}.json"
        stage = stage.get("do", stage)
        script = stage["cmd"].split()[3]
        data = [dep for dep in stage["deps"] if not dep.startswith(("pricer/", "${item.package}"))]
        stage["deps"] = [*data, f"{HASHES}/{script}.json"]
    return PIPELINE_HEAD + dump(whole).partition("stages:\n")[2]


def requirements() -> str:
    """Return what pip needs for the same library elsewhere, and what it runs on here, pinned."""
    needed = [line for line in requires("pricer") or [] if "extra ==" not in line]
    names = [re.split(r"[^\w.-]", line)[0] for line in needed]
    pins = [f"{name}=={version(name).partition('+')[0]}" for name in names]
    told = "# what it runs on: with other versions, results may differ"
    return "\n".join([_library(), told, *pins, ""])


def _library() -> str:
    """Return where this library came from, if pip has noted that, or else its version."""
    noted = json.loads(distribution("pricer").read_text("direct_url.json") or "{}")
    url = noted.get("url", "")
    if "vcs_info" in noted:
        return f"pricer @ {noted['vcs_info']['vcs']}+{url}@{noted['vcs_info']['commit_id']}"
    if url.startswith("http"):
        return f"pricer @ {url}"
    return f"{NOT_ON_PYPI}\npricer=={version('pricer')}"
