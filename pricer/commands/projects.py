"""What `pricer init` writes: a project that has the library installed, and not its files."""

import json
import logging
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution, requires, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
from dvc.exceptions import DvcException
from dvc.repo import Repo

from pricer.commands.presets import (
    BUILT_IN,
    DEFAULTS,
    dump,
    preset_params,
    preset_text,
    round_trip,
    with_knobs,
)
from pricer.errors import PricerError, first_line, quoted
from pricer.escaping import markdown
from pricer.library import HASHES, write_hashes
from pricer.params import Items
from pricer.products.file_source import file_items, read_products, split_file
from pricer.products.items import (
    OUTSIDE,
    SPLITS,
    clean_products,
    drop_duplicates,
    split_items,
    title_key,
)
from pricer.products.splits import told
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
NOT_ON_PYPI = (
    "# pricer=={}: install its wheel or its repository, PyPI's pricer is another project's"
)
PARTIAL = ".begun"  # in the project's folder, where it is put together
OWN = "own"  # preset
HELD_OUT = ("validation", "test")
SMALLEST, LARGEST = 10, 2_000  # products of each that are held out
LARGEST_IN_GIT = 5_000_000  # bytes of products; DVC holds more than that


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


def project_params(items: Path | None) -> tuple[str, str]:
    """Return the text of a project's `params.yaml`: the defaults, or what suits one's own products.

    Args:
        items: a file of products or a folder of splits, which `create` copies; None for the
            built-in catalogue.

    Returns:
        The text; what of the products is not used and why, empty if all are.

    Raises:
        PricerError: the products cannot be read or are too few.
    """
    if items is None:
        return preset_text(BUILT_IN, DEFAULTS), ""
    text = preset_text(BUILT_IN, OWN)
    params = preset_params(BUILT_IN, OWN).items
    try:
        sizes, left_out, read = _sizes(items, params)
    except PricerError as error:
        if OUTSIDE not in str(error):
            raise
        raise PricerError(
            f"{error}; the limits are ${params.min_price:,g} and ${params.max_price:,g}: for "
            "others begin without --items, and set items.min_price, items.max_price, "
            "predict.max_price, items.source and items.files.path in its params.yaml"
        ) from None
    files: dict[str, Any] = {"path": _place(items).as_posix()}
    files |= {f"{split}_size": size for split, size in sizes.items()}
    if any(left_out[reason] for reason in left_out if reason != OUTSIDE):
        files["on_invalid"] = "drop"
    text = with_knobs(text, {"items": {"files": files}})
    dropped = ", as items.files.on_invalid: drop has it" if "on_invalid" in files else ""
    return text, f"{left_out.total()} of {read} rows{told(left_out)}{dropped}" if +left_out else ""


def _sizes(items: Path, settings: Items) -> tuple[dict[str, int], "Counter[str]", int]:
    """Return the sizes of splits, what of the products is not used, and how many there are.

    A folder has its splits already.
    """
    seed = settings.files.seed
    cleaning: Any = {
        "on_invalid": "drop",
        "min_price": settings.min_price,
        "max_price": settings.max_price,
    }
    if items.is_dir():
        _, counts = file_items(items, {}, seed=seed, **cleaning)
        left_out = Counter(counts["left_out"])
        left_out["in two splits"] = counts["shared_between_splits"]
        return {}, left_out, counts["read"]
    rows = read_products(items)
    usable, left_out = clean_products(rows, where=str(items), **cleaning)
    where = f"{items}: of {len(rows)} rows{told(left_out)}"
    return split_sizes(drop_duplicates(usable), seed, where), left_out, len(rows)


def split_sizes(items: pd.DataFrame, seed: int, where: str) -> dict[str, int]:
    """Return sizes of splits that use every product, most of them for training.

    Args:
        items: distinct products, of which those with near-identical titles stay together.
        seed: of the splits.
        where: what is split, for messages.

    Raises:
        PricerError: there are too few, or too many of them have to stay together.
    """
    n = len(items)
    # in the order in which splits are filled: with room in one alone, each group goes there
    order = split_items(items, {"train": n, "validation": 0, "test": 0}, seed=seed, where=where)
    titles = order["train"]["title"].map(title_key)
    groups = titles.groupby(titles, sort=False).size()
    held_out = min(max(n // 10, SMALLEST), LARGEST)
    for size in range(held_out, n // 3 + 1):
        room = {"test": size, "validation": size, "train": n}
        for group in groups:
            room[next(split for split, left in room.items() if group <= left)] -= group
        # what fits when there is a little more room fits the same way where there is none left
        sizes = {"train": n - room["train"]} | {split: size - room[split] for split in HELD_OUT}
        if min(sizes.values()) >= SMALLEST:
            return {split: int(size) for split, size in sizes.items()}
    raise PricerError(
        f"{where} {n} distinct products are usable, in {len(groups)} groups of near-identical "
        f"titles, which stay together: that is too few for {SMALLEST} each to train, to validate "
        "and to test"
    )


def _place(items: Path) -> Path:
    """Return where a project has one's own products, from its root."""
    products = Path("products")
    return products if items.is_dir() else products / items.name


def take_products(items: Path, folder: Path) -> bool:
    """Copy one's own products into a project; tell whether they are for DVC, not git, to hold.

    Args:
        items: a file, or a folder of splits: what else lies there is left.
        folder: of the project.
    """
    files = [split_file(items, split) for split in SPLITS] if items.is_dir() else [items]
    target = folder / "products"
    target.mkdir()
    for file in files:
        shutil.copyfile(file, target / file.name)
    return sum(file.stat().st_size for file in target.iterdir()) > LARGEST_IN_GIT


def create(folder: Path, name: str, params: str, items: Path | None) -> str:
    """Make an empty folder a project with git and DVC; return what became of git.

    Args:
        folder: to write to.
        name: of the project.
        params: text of its `params.yaml`.
        items: one's own products, which are copied to `products/`.
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
    dvc_yaml, readme, knobs = (
        (folder / file).read_text(encoding="utf-8")
        for file in ("dvc.yaml", "README.md", "docs/params.md")
    )
    for file, text in {
        "dvc.yaml": pipeline(dvc_yaml),
        "params.yaml": params,
        "requirements.txt": requirements(),
        "README.md": readme.replace("NAME", markdown(name), 1),
        "docs/params.md": params_page(knobs),
    }.items():
        (folder / file).write_text(text, encoding="utf-8")
    write_hashes(folder / HASHES)
    if items is not None and take_products(items, folder):
        with Repo(str(folder)) as repo:
            repo.add(str(folder / "products"))
    if not with_git:
        return "git is not installed: nothing is committed, and there are no experiments"
    if around:
        return f"it lies in the git repository {around}: commit it there, nothing is yet"
    _git(folder, "add", "--all")
    if items is not None and not (folder / "products.dvc").exists():
        _git(folder, "add", "--force", "products")  # though git may be told to ignore *.csv
    done = _git(folder, "commit", "--message", "pricer init")
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        why = said[-1] if said else "it says nothing, as a hook may have it"
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


def params_page(text: str) -> str:
    """Return the page on params for a project that has none of the pages it links to.

    Args:
        text: of the library's own page.
    """
    text = re.sub(r"\n\nThis page is made from .*", "", text, count=1)
    return re.sub(r"\[([\w.-]+)\]\(\1\)", r"`docs/\1` of the library's repository", text)


def requirements() -> str:
    """Return what pip needs for the same library elsewhere, and what it runs on here, pinned."""
    needed = [line for line in requires("pricer") or [] if "extra ==" not in line]
    names = [re.split(r"[^\w.-]", line)[0] for line in needed]
    pins = [f"{name}=={version(name).partition('+')[0]}" for name in names]
    told = "# what it runs on: with other versions, results may differ"
    return "\n".join([_library(), told, *pins, ""])


def _library() -> str:
    """Return where this library came from, if pip has noted an address for all, or its version.

    No password and no signature gets out: who begins a project shares it.
    """
    noted = json.loads(distribution("pricer").read_text("direct_url.json") or "{}")
    url = urlsplit(noted.get("url", ""))
    user, is_user, host = url.netloc.rpartition("@")
    if url.scheme == "ssh" and is_user:  # a name that all use, as git's
        host = f"{user.partition(':')[0]}@{host}"
    address = f"{url.scheme}://{host}{url.path}"
    if url.scheme in ("http", "https", "ssh") and not url.query:
        if "vcs_info" in noted:
            return f"pricer @ {noted['vcs_info']['vcs']}+{address}@{noted['vcs_info']['commit_id']}"
        return f"pricer @ {address}"
    return NOT_ON_PYPI.format(version("pricer"))
