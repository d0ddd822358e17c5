"""The serving record: all that pricing another product needs, as the predict stage left it."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pricer.errors import PricerError
from pricer.files import read_json, write_json
from pricer.params import (
    Count,
    Dtype,
    Evidence,
    Neighbors,
    Point,
    Quantization,
    Share,
    first_problem,
)
from pricer.provenance import digest, folder_digest

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

# as the committed params are
QUANTIZATION = Quantization(
    load_in_4bit=True,
    load_in_8bit=False,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
)


class Calibration(BaseModel):
    """What makes estimates right on average and intervals hold what they say, and of what n."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    method: str
    n: Count
    """Validation products."""
    offsets: dict[Annotated[str, Field(pattern="^[1-9][0-9]?$")], float]
    """Conformal offset on the scale of log(1 + price), by level in percent."""
    intercept: Annotated[float, Field(ge=-1e9, le=1e9)] = 0.0
    """Of the medians on that scale, see `recentered`; 0 and a slope of 1 leave them."""
    slope: Annotated[float, Field(ge=0, le=1e9)] = 1.0


class ToldEvidence(BaseModel):
    """What prompts say of similar products and of words, see `pricer.evidence.wording`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    neighbors: Neighbors
    words: bool
    models_sha256: Digest | None = None
    """Of the models that it comes from, see `folder_digest`."""


def told_evidence(settings: Evidence) -> ToldEvidence | None:
    """Return what prompts are told with some params; None where that is nothing."""
    if not (settings.neighbors or settings.words):
        return None
    return ToldEvidence(neighbors=settings.neighbors, words=settings.words)


class ServingRecord(BaseModel):
    """How a model is asked for prices; what is not given is as in the committed `params.yaml`.

    The hashes say which base model, and which adapter on it, the rest belongs to; without them
    nothing is compared.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    cutoff: Count = 96
    """Tokens of a description that are kept."""
    evidence: ToldEvidence | None = None
    """What prompts tell beside the description; None for the description alone."""
    quantization: Quantization = QUANTIZATION
    dtype: Dtype = "auto"
    """Of the computation, see `choose_dtype`."""
    point: Point = "median"
    """The estimate that is given where a call does not say."""
    max_price: Count = 999
    """Highest price that is considered, USD."""
    max_dropped_mass: Share = 0.2
    """See `read_prices`."""
    max_new_tokens: Count = 8
    """Of the greedy text."""
    batch_size: Count = 32
    """Products a forward pass."""
    calibration: Calibration | None = None
    """Without one, intervals are what the model itself says, and marked so."""
    base_model_sha256: Digest | None = None
    adapter_sha256: Digest | None = None

    @model_validator(mode="after")
    def _offsets_are_of_prices(self) -> "ServingRecord":
        most = math.log1p(self.max_price + 1)  # no two prices are further apart, rounding included
        offsets = self.calibration.offsets if self.calibration else {}
        for level, offset in offsets.items():
            if abs(offset) > most:
                raise ValueError(
                    f"calibration.offsets.{level} must be {-most:.1f} to {most:.1f} "
                    f"for prices up to ${self.max_price}, got {offset:g}"
                )
        return self

    def sha256(self) -> str:
        """Return one hash over all of it: of models, calibration, precision and all else."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def model_sha256(record: ServingRecord, adapter: str | None = None) -> str:
    """Return one hash of an adapter and of all that says how it is asked.

    Base model and evidence are in it by the serving record, where there is one.

    Args:
        record: of it.
        adapter: its `adapter_sha256`, where the record does not say.
    """
    known = adapter or record.adapter_sha256 or "none"
    return digest({"adapter": known, "settings": record.sha256()})


def read_record(file: Path) -> ServingRecord:
    """Read a serving record.

    Raises:
        PricerError: the file is damaged, or not a serving record.
    """
    try:
        return ServingRecord.model_validate(read_json(file))
    except ValueError as error:  # of JSON, of the encoding, of pydantic
        raise PricerError(
            f"{file} is no serving record ({first_problem(error)}): "
            "`dvc checkout` or `dvc repro predict` brings it back"
        ) from None


def write_record(file: Path, record: ServingRecord) -> None:
    """Write a serving record as JSON."""
    write_json(file, record.model_dump())


def record_of(adapter: Path | None, among: ServingRecord | None = None) -> ServingRecord:
    """Return how an adapter is asked by its card, and else by another record, or the defaults.

    It has no hashes and no calibration: those are of the one who made a record.

    Raises:
        PricerError: the card is damaged.
    """
    card = _card(adapter)
    told = {name: getattr(card, name) for name in card.model_fields_set}
    if "cutoff" in told:  # a card of ours, which says where there is evidence
        told = {"evidence": None} | told
    hashes = ("base_model_sha256", "adapter_sha256", "calibration")
    return (among or card).model_copy(update=told | dict.fromkeys(hashes))


def _card(adapter: Path | None) -> ServingRecord:
    """Return what an adapter's card says, as a record.

    Raises:
        PricerError: the card is damaged.
    """
    from pricer.model.adapters import card_settings  # imports torch, as those below

    settings: Mapping[str, Any] = card_settings(adapter) if adapter else {}
    try:
        return ServingRecord.model_validate(settings)
    except ValidationError as error:
        raise PricerError(f"{adapter}/README.md: pricer.{first_problem(error)}") from None


def check_belongs(
    record: ServingRecord, base: Path, adapter: Path | None, evidence: Path | None = None
) -> None:
    """Raise PricerError unless base model, adapter and evidence are those that a record is of.

    Also where an adapter's card names another base model than the one it is put on, and where
    prompts tell evidence and there is none.
    """
    from pricer.model.adapters import adapter_sha256
    from pricer.model.base import base_model_sha256

    if record.evidence and evidence is None:
        raise PricerError(
            f"{adapter or base} is asked with evidence in its prompts (what similar products "
            "cost): give the folder of its models, evidence=..., or settings without"
        )
    if record.evidence and evidence and not evidence.is_dir():
        raise PricerError(
            f"{evidence} is no folder, must hold the models of evidence: "
            "`dvc checkout` or `dvc repro evidence` brings them back"
        )
    if record.evidence and evidence and record.evidence.models_sha256:
        which = "the one that the serving record is of"
        _compare(evidence, folder_digest(evidence), record.evidence.models_sha256, which)
    trained_on = _card(adapter).base_model_sha256
    wanted = {
        f"the one that {adapter} was trained on": trained_on,
        "the one that the serving record is of": record.base_model_sha256,
    }
    base_sha256 = base_model_sha256(base) if any(wanted.values()) else None
    for which, sha256 in wanted.items():
        if sha256:
            _compare(base, base_sha256, sha256, which)
    if record.base_model_sha256:
        adapter_hash = adapter_sha256(adapter) if adapter else None
        which = "the one that the serving record is of"
        _compare(adapter or "no adapter", adapter_hash, record.adapter_sha256, which)


def _compare(what: Path | str, found: str | None, wanted: str | None, which: str) -> None:
    if found != wanted:
        raise PricerError(
            f"{what} is not {which} (SHA-256 {found}, must be {wanted}): "
            "`dvc checkout` brings back what belongs together"
        )
