"""Which variant is better, by what products really sold for."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pricer.judging.paired import Gap
from pricer.judging.sequential import FEWEST, paired_gap, unpaired_gap
from pricer.serving.log import Row
from pricer.serving.variants import NAMED, SHADOW, SPLIT


@dataclass(frozen=True)
class Trial:
    """What outcomes say of a variant.

    Attributes:
        n: estimates with an outcome, those seen by nobody included.
        mae: mean absolute error of these, USD.
        against: of the comparison: how subjects were parted, `shadow` or `split`; None for the
            variant that others are compared with, and where there is too little to compare.
        gap: its mean absolute error less that of the main one, where they are compared.
    """

    n: int
    mae: float
    against: str | None = None
    gap: Gap | None = None

    @property
    def verdict(self) -> str:
        """In words, what the comparison says."""
        if self.gap is None:
            return f"too few outcomes to compare, {FEWEST} of each are needed"
        if not self.gap.is_clear:
            return "no difference that is more than chance"
        return "better" if self.gap.value < 0 else "worse"


def trials(rows: Iterable[Row], main: str) -> dict[str, Trial]:
    """Return what outcomes say of each variant, as it is now: of a name's newest model.

    A shadow is compared with the answers that it was beside, a split with the subjects that the
    main variant answered since the split began. Each subject is one value, the mean of its errors
    or differences: its prices say the same again. A subject that a share has moved from one variant
    to another counts for the first. What callers asked of a variant by name, and what no model
    answered beside a shadow, is in no comparison.

    Args:
        rows: from `Log.judged`.
        main: the variant that others are compared with.
    """
    judged = _of_newest_models(rows)
    found = {}
    for variant in sorted({row["variant"] for row in judged}):
        own = [row for row in judged if row["variant"] == variant]
        gap, against = None, None
        if any(row["assignment"] == SHADOW for row in own):
            gap, against = _beside(own, judged, main), SHADOW
        elif variant != main and any(row["assignment"] == SPLIT for row in own):
            gap, against = _apart(variant, judged, main), SPLIT
        errors = [_error(row) for row in own]
        found[variant] = Trial(len(own), float(np.mean(errors)), against, gap)
    return found


def _of_newest_models(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of each variant's newest model: a name may have been given to several."""
    judged = sorted(rows, key=lambda row: row["created_at"])
    newest = {row["variant"]: row["model_sha256"] for row in judged}
    return [row for row in judged if row["model_sha256"] == newest[row["variant"]]]


def _error(row: Row) -> float:
    return float(abs(row["estimate_usd"] - row["price_usd"]))


def _beside(shadows: Sequence[Row], judged: Sequence[Row], main: str) -> Gap | None:
    answers = {
        row["id"]: row
        for row in judged
        if row["variant"] == main and row["assignment"] != NAMED and not row["fallback"]
    }
    pairs = [
        (row, answers[row["shadow_of"]])
        for row in shadows
        if row["shadow_of"] in answers and not row["fallback"]
    ]
    shadow, answered = (
        _by_subject((pair[0]["subject_sha256"], _error(pair[which])) for pair in pairs)
        for which in (0, 1)
    )
    return paired_gap(list(shadow.values()), list(answered.values()))


def _apart(variant: str, judged: Sequence[Row], main: str) -> Gap | None:
    """Return the gap of a split's subjects, each counted for the variant it was first given."""
    split = [row for row in judged if row["assignment"] == SPLIT]
    begin = next(row["created_at"] for row in split if row["variant"] == variant)
    since = [row for row in split if row["created_at"] >= begin]
    first: dict[str, str] = {}
    for row in split:
        first.setdefault(row["subject_sha256"], row["variant"])
    losses, others = (
        _by_subject(
            (row["subject_sha256"], _error(row))
            for row in since
            if row["variant"] == name == first[row["subject_sha256"]]
        )
        for name in (variant, main)
    )
    return unpaired_gap(list(losses.values()), list(others.values()))


def _by_subject(errors: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return the mean error of each subject, in the order that they came."""
    gathered: dict[str, list[float]] = defaultdict(list)
    for subject, error in errors:
        gathered[subject].append(error)
    return {subject: float(np.mean(values)) for subject, values in gathered.items()}
