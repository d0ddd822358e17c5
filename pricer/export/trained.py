"""The model that the last run trained, and the products that an export of it is judged on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricer.errors import PricerError
from pricer.files import read_parquet
from pricer.model.base import choose_device
from pricer.params import Dtype
from pricer.prices.predictor import Predictor
from pricer.prices.record import ServingRecord, check_belongs, read_record
from pricer.workspace import Workspace, require


@dataclass(frozen=True)
class Trained:
    """A base model, an adapter on it, how they are asked, and products to compare prices on.

    Attributes:
        base: folder of the base model.
        adapter: folder of the adapter.
        evidence: folder of the models of evidence, where prompts tell any.
        record: how the model is asked.
        products: of the validation split: id, price (USD) and prompt.
    """

    base: Path
    adapter: Path
    evidence: Path | None
    record: ServingRecord
    products: pd.DataFrame

    @property
    def prompts(self) -> list[str]:
        """Of the products, in order."""
        return list(self.products["prompt"])

    def prices(self, adapter: Path | None = None) -> NDArray[np.float64]:
        """Return the probability of each price of each product, (n, values), all of them read.

        Args:
            adapter: in the place of the trained one.
        """
        asked = _without_hashes(self.record)
        predictor = Predictor(self.base, adapter or self.adapter, settings=asked)
        return predictor.distributions(self.prompts, progress=True).probabilities

    def prices_of_merged(self, folder: Path, stored: Dtype) -> NDArray[np.float64]:
        """Return the same of a merged model, computed in the type that its weights are stored in.

        But bfloat16 as `choose_dtype` has it where it is not multiplied, and float16 in float32 on
        a CPU, which multiplies it ten times as slowly.
        """
        on_cpu = choose_device("auto").type == "cpu"
        computed: Dtype = "auto" if stored == "bfloat16" else "float32" if on_cpu else "float16"
        asked = merged_settings(_without_hashes(self.record)).model_copy(update={"dtype": computed})
        return Predictor(folder, settings=asked).distributions(self.prompts).probabilities


def read_trained(left: Workspace, products: int) -> Trained:
    """Return what a run left.

    Args:
        left: the project.
        products: at most so many of those that intervals were calibrated on.

    Raises:
        PricerError: there is no whole run.
    """
    calibrated_on = left.predictions / "tuned_validation.parquet"
    prompts = left.prompts / "validation.parquet"
    require(left.base_model, left.adapter, left.record, calibrated_on, prompts)
    record = read_record(left.record)
    evidence = left.evidence_models if record.evidence else None
    require(*([evidence] if evidence else []))
    check_belongs(record, left.base_model, left.adapter, evidence)
    ids = read_parquet(calibrated_on, ["id"])["id"].head(products)
    table = read_parquet(prompts, ["id", "price", "prompt"])
    judged = table[table["id"].isin(ids)].reset_index(drop=True)
    if judged.empty:
        raise PricerError(f"{prompts} has other products than {calibrated_on}: `dvc repro predict`")
    return Trained(left.base_model, left.adapter, evidence, record, judged)


def merged_settings(record: ServingRecord) -> ServingRecord:
    """Return how a merged model is asked: as the adapter, on weights that are not quantized."""
    whole = record.quantization.model_copy(update={"load_in_4bit": False, "load_in_8bit": False})
    return record.model_copy(update={"quantization": whole, "base_model_sha256": None})


def _without_hashes(record: ServingRecord) -> ServingRecord:
    """Return a record for prompts that are made already, of which every price is read."""
    freed = dict.fromkeys(("evidence", "base_model_sha256", "adapter_sha256", "calibration"))
    return record.model_copy(update={**freed, "max_dropped_mass": 0.0})
