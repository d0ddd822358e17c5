"""Adapters that `pricer compare` is given, in folders or on the Hub, price the test products."""

import re
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd

from pricer.commands.runs import ON_THE_HUB
from pricer.errors import PricerError, quoted
from pricer.files import read_parquet, write_parquet
from pricer.model.adapter_sources import fetch_hub_adapter
from pricer.model.adapters import adapter_sha256, card_settings
from pricer.model.base import base_model_sha256, choose_device, choose_dtype
from pricer.params import REPOSITORY
from pricer.prices.distribution import crps
from pricer.prices.predictor import Predictor
from pricer.prices.record import record_of
from pricer.provenance import code_hashes, digest, file_sha256, folder_digest
from pricer.workspace import Workspace, require


def price_with_adapters(names: list[str], left: Workspace) -> dict[str, pd.DataFrame]:
    """Return each adapter's estimates of the test products, by its name.

    All are put on the base model of the workspace, loaded once for those that it is quantized alike
    for; each is asked as its card says. What an adapter has priced before is not priced again.

    Args:
        names: of adapters, see `is_adapter`.
        left: the project.

    Returns:
        Tables of id, price, estimate_usd and crps (USD).

    Raises:
        PricerError: an adapter cannot be had, is of another base model, or its card does not say
            how it is asked.
    """
    items = left.items / "test.parquet"
    require(left.base_model, items)
    tables: dict[str, pd.DataFrame] = {}
    with ExitStack() as folders:
        shared: Predictor | None = None
        for name in names:
            folder = _folder(name, folders)
            kept = _kept(folder, name, left, items)
            if not kept.is_file():
                shared = _predictor(folder, left, shared)
                write_parquet(kept, _estimates(shared, items))
            tables[name] = read_parquet(kept)
    return tables


def _folder(name: str, folders: ExitStack) -> Path:
    """Return an adapter's folder; of one on the Hub, a temporary one."""
    if not name.startswith(ON_THE_HUB):
        return Path(name)
    repo, _, revision = name.removeprefix(ON_THE_HUB).partition("@")
    if not re.fullmatch(REPOSITORY, repo):
        raise PricerError(f"{quoted(name)} is no adapter, must be hub:OWNER/NAME@REVISION")
    folder = Path(folders.enter_context(tempfile.TemporaryDirectory()))
    fetch_hub_adapter(repo, revision or "main", folder)
    return folder


def _kept(folder: Path, name: str, left: Workspace, items: Path) -> Path:
    """Return the file that an adapter's estimates are kept in, by all that they depend on."""
    if "cutoff" not in card_settings(folder):
        raise PricerError(
            f"{name}: its card does not say how it is asked (pricer: cutoff, evidence): "
            "adapter.source judges it with adapter.cutoff and adapter.evidence"
        )
    asked, device = record_of(folder), choose_device("auto")
    hashes = {
        "adapter": adapter_sha256(folder),
        "settings": asked.sha256(),
        "base model": base_model_sha256(left.base_model),
        "evidence": folder_digest(left.evidence_models) if asked.evidence else "none",
        "items": file_sha256(items),
        "computed": f"{device.type} {choose_dtype(asked.dtype, device)}",
        **code_hashes(),
    }
    return left.root / "data/compared" / f"{digest(hashes)[:16]}.parquet"


def _predictor(folder: Path, left: Workspace, shared: Predictor | None) -> Predictor:
    asked = record_of(folder)
    evidence = left.evidence_models if asked.evidence else None
    if shared and shared.settings.quantization == asked.quantization:
        return shared.beside(folder, evidence=evidence, settings=asked)
    return Predictor(left.base_model, folder, evidence=evidence)


def _estimates(predictor: Predictor, items_file: Path) -> pd.DataFrame:
    items = read_parquet(items_file, ["id", "price", "summary"])
    said = predictor.predict(items["summary"].tolist(), distribution=True)
    probabilities = np.stack([np.asarray(one.probabilities) for one in said])
    return items[["id", "price"]].assign(
        estimate_usd=[one.estimate_usd for one in said],
        crps=crps(items["price"], probabilities),
    )
