"""Adapters that answer side by side: which one for whom, and which one unseen."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pricer.errors import PricerError, quoted
from pricer.workspace import Workspace, require

if TYPE_CHECKING:
    from pricer.prices.predictor import Predictor

MAIN = "tuned"  # the project's own adapter
WORDS = "words"  # what answers in a service without a model
WARM_UP = "A kettle"
NAME = "^[A-Za-z0-9_-]{1,40}$"
DEFAULT, SPLIT, NAMED, SHADOW = "default", "split", "named", "shadow"


@dataclass(frozen=True)
class Variant:
    """A model that answers.

    Attributes:
        name: that callers and the log know it by.
        predictor: None in a service without a model.
        model_sha256: of the adapter and how it is asked, see `Predictor.sha256`.
    """

    name: str
    predictor: "Predictor | None"
    model_sha256: str | None


@dataclass(frozen=True)
class Variants:
    """Which variants there are, and who is answered by which.

    Attributes:
        by_name: the main one first.
        shares: of subjects, by name; the main one has the rest.
        shadow: name of the one that answers unseen.
    """

    by_name: Mapping[str, Variant]
    shares: Mapping[str, float] = field(default_factory=dict)
    shadow: str | None = None

    @property
    def main(self) -> Variant:
        """The project's own."""
        return next(iter(self.by_name.values()))

    def of(self, subject: str, name: str | None) -> tuple[Variant, str]:
        """Return who answers for a subject, and why: DEFAULT, SPLIT or NAMED.

        The same subject has the same one while shares stay as they are. The first share keeps its
        subjects when it grows; those after it move.

        Args:
            subject: SHA-256 of the caller's key.
            name: of a variant that the caller wants.
        """
        if name is not None:
            return self.by_name[name], NAMED
        if not self.shares:
            return self.main, DEFAULT
        place, end = fraction(subject), 0.0
        for other, share in self.shares.items():
            end += share
            if place < end:
                return self.by_name[other], SPLIT
        return self.main, SPLIT


def fraction(subject: str) -> float:
    """Return a number from 0 to below 1, evenly spread over subjects and always the same of one."""
    digest = hashlib.sha256(f"split:{subject}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def load_variants(
    root: Path,
    record: Path,
    folders: Mapping[str, Path],
    shares: Mapping[str, float],
    shadow: str | None,
) -> Variants:
    """Load the project's adapter, and others on the same base weights.

    Args:
        root: the project.
        record: the serving record of its adapter.
        folders: of the others, by name: an adapter's, or another project's with a serving record.
        shares: see `Variants`.
        shadow: see `Variants`.

    Raises:
        PricerError: something is missing, damaged or does not fit.
    """
    # torch takes seconds to import: a service without a model does without it
    from pricer.prices.predictor import Predictor

    main = Predictor.from_pipeline(root, record=record)
    predictors = {MAIN: main}
    for name, folder in folders.items():
        predictors[name] = _beside(main, folder)
    for one in predictors.values():
        one.predict([WARM_UP])  # the first one takes longer, and tells what is broken
    by_name = {name: Variant(name, one, one.sha256()) for name, one in predictors.items()}
    return Variants(by_name, shares, shadow)


def _beside(main: "Predictor", folder: Path) -> "Predictor":
    from pricer.prices.record import read_record

    project = Workspace(folder)
    if not project.record.exists():
        return main.beside(folder)
    settings = read_record(project.record)
    evidence = project.evidence_models if settings.evidence else None
    return main.beside(project.adapter, evidence=evidence, settings=settings)


def check_variants(
    folders: Sequence[str], splits: Sequence[str], shadow: str | None
) -> tuple[dict[str, Path], dict[str, float]]:
    """Return the folders and the shares of variants by name.

    Args:
        folders: NAME=FOLDER of each.
        splits: NAME=SHARE of some.
        shadow: name of one.

    Raises:
        PricerError: one is not of this form, has no such folder, or names none of the variants.
    """
    named = {name: Path(folder) for name, folder in _pairs(folders, "--variant NAME=FOLDER")}
    for name, folder in named.items():
        if name in (MAIN, WORDS) or not re.fullmatch(NAME, name):
            raise PricerError(
                f"--variant {quoted(name)}: a name has up to 40 letters, digits, - and _, and is "
                f"not {MAIN} or {WORDS}"
            )
        require(folder)
    shares = {}
    for name, share in _pairs(splits, "--split NAME=SHARE"):
        _check_known("--split", name, named)
        try:
            shares[name] = float(share)
        except ValueError:
            shares[name] = -1
        if not 0 < shares[name] <= 1:
            raise PricerError(f"--split {name}: a share is above 0 to 1, got {quoted(share)}")
    if sum(shares.values()) > 1 + 1e-9:
        raise PricerError(f"--split: shares are 1 together at most, got {sum(shares.values()):g}")
    if shadow is not None:
        _check_known("--shadow", shadow, named)
    return named, shares


def _pairs(given: Sequence[str], form: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for one in given:
        name, equals, value = one.partition("=")
        if not (name and equals and value):
            raise PricerError(f"{form}: got {quoted(one)}")
        if name in dict(pairs):
            raise PricerError(f"{form}: {quoted(name)} is given twice")
        pairs.append((name, value))
    return pairs


def _check_known(option: str, name: str, named: Mapping[str, Path]) -> None:
    if name not in named:
        known = ", ".join(named) or "none, see --variant"
        raise PricerError(f"{option}: no variant {quoted(name)}, there are: {known}")
