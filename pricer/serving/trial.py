"""Which variant is better, by what products really sold for."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pricer.judging.paired import Gap
from pricer.judging.sequential import FEWEST, paired_gap, unpaired_gap
from pricer.serving.log import Row
from pricer.serving.variants import SHADOW, SPLIT

Losses = dict[str, float]  # absolute error, USD, by what it is one value of


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
    """Return what outcomes say of each variant.

    A shadow is compared with the answers that it was beside, product by product; a split with the
    subjects that the main variant answered in the same split, each subject being one value, the
    mean of its errors. What callers asked of a variant by name is in no comparison.

    Args:
        rows: from `Log.judged`.
        main: the variant that others are compared with.
    """
    errors: dict[str, list[float]] = defaultdict(list)
    answers: Losses = {}
    shadows: dict[str, Losses] = defaultdict(dict)
    subjects: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        variant, error = row["variant"], abs(row["estimate_usd"] - row["price_usd"])
        errors[variant].append(error)
        if row["assignment"] == SHADOW:
            shadows[variant][row["shadow_of"]] = error
            continue
        if variant == main:
            answers[row["id"]] = error
        if row["assignment"] == SPLIT:
            subjects[variant][row["subject_sha256"]].append(error)
    found = {}
    for variant, losses in sorted(errors.items()):
        trial = Trial(len(losses), float(np.mean(losses)))
        gap, against = None, None
        if variant in shadows:
            gap, against = _beside(shadows[variant], answers), SHADOW
        elif variant != main and variant in subjects:
            gap, against = unpaired_gap(_means(subjects[variant]), _means(subjects[main])), SPLIT
        found[variant] = Trial(trial.n, trial.mae, against, gap)
    return found


def _beside(shadow: Losses, answers: Losses) -> Gap | None:
    both = [one for one in shadow if one in answers]
    return paired_gap([shadow[one] for one in both], [answers[one] for one in both])


def _means(errors: dict[str, list[float]]) -> list[float]:
    return [float(np.mean(values)) for values in errors.values()]
