"""Where adapters come from that were not trained here: a folder or the Hugging Face Hub."""

import shutil
from pathlib import Path
from typing import Any

from pricer.errors import BaseModelError
from pricer.hub import download, file_names, resolve, revision_notice
from pricer.model.adapters import WEIGHTS, check_adapter
from pricer.model.folder import ADAPTER_CONFIG
from pricer.params import Adapter

CARD = "README.md"
FILES = (ADAPTER_CONFIG, WEIGHTS, CARD)
TRAINED_HERE = {"adapter": "trained here"}


def fetch_adapter(adapter: Adapter, out: Path) -> dict[str, Any]:
    """Put the configured adapter into `out`, and return the record of where it comes from.

    Args:
        adapter: the params.
        out: an empty folder, which stays so if the adapter is to be trained.

    Returns:
        `adapter`, the source in words; of one on the Hub also `commit`, and in `moved` what to
        tell of a revision that is no commit.

    Raises:
        BaseModelError: the source has no adapter that can be used here.
        HubError: what the Hub refuses or cannot deliver.
    """
    match adapter.source:
        case "train":
            return TRAINED_HERE
        case "path":
            _copy(Path(str(adapter.path)), out)
            return {"adapter": f"folder {adapter.path}"}
        case "hub":
            repo, revision = adapter.hub.id, adapter.hub.revision
            commit = fetch_hub_adapter(repo, revision, out)
            words = f"{repo} at commit {commit} on the Hugging Face Hub"
            notice = revision_notice(repo, "adapter", revision, commit)
            return {"adapter": words, "commit": commit} | notice


def fetch_hub_adapter(repo: str, revision: str, out: Path) -> str:
    """Put an adapter on the Hub into a folder, and return the commit that it is of.

    Raises:
        BaseModelError: the repository holds no adapter, or one in pickled weights.
        HubError: some of it cannot be had.
    """
    commit = resolve(repo, "adapter", revision)
    folder = download(repo, "adapter", commit, [ADAPTER_CONFIG, CARD], whole=False)
    names = file_names(repo, "adapter", commit, folder)
    if lacking := [name for name in (ADAPTER_CONFIG, WEIGHTS) if name not in names]:
        pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
        raise BaseModelError(
            f"{repo}: no {lacking[0]} at commit {commit[:7]} "
            f"(has {', '.join((pickled or names)[:2]) or 'no files'}): only adapters of PEFT in "
            "safetensors are loaded, take a repository that has one"
        )
    _copy(download(repo, "adapter", commit, list(FILES), whole=False), out)
    return commit


def _copy(source: Path, out: Path) -> None:
    check_adapter(source)
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
