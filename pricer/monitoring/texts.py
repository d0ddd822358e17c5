"""Whether descriptions are still worded alike: can a classifier tell new from old?

A two-sample test by a classifier (Lopez-Paz and Oquab 2017): where it tells texts that it has not
seen apart better than by chance, they differ, and its words say in what. Folds share what they were
fitted on, which makes a cross-validated area vary more than its formula says (at 5% it would raise
15% false alarms); so how far it gets by chance is measured, on texts that are dealt anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.stats import norm, rankdata, t

from pricer.escaping import shortened
from pricer.judging.paired import CONFIDENCE, Interval

Floats = NDArray[np.float64]

LONGEST_WORD = 40  # characters that are shown
MOST = 5_000  # texts of each side that are compared
FOLDS = 5
DEALS = 100
RAREST = 3  # texts that a word is in
SHOWN_WORDS = 10
MARGIN = float(norm.ppf((1 + CONFIDENCE) / 2))  # standard errors of an interval
CLEAR = 3.5  # standard errors: of thousands of words some are off by less than that by chance


@dataclass(frozen=True)
class Wording:
    """How well new texts are told from old ones.

    Attributes:
        auc: probability that a new text looks newer than an old one; 0.5 is chance.
        interval: of it.
        p_value: of an area as large by chance.
        reference: (m,) how new each old text looks, 0 to 1, by a classifier that has not seen it.
        period: (n,) likewise each new one.
        more: words that new texts have more often, those that differ most first.
        less: words that they have less often.
    """

    auc: float
    interval: Interval
    p_value: float
    reference: Floats
    period: Floats
    more: list[str]
    less: list[str]


def wording(reference: Sequence[str], period: Sequence[str], seed: int) -> Wording | None:
    """Tell the texts of a period from those of the reference, cross-validated.

    Args:
        reference: m texts, MOST at most; at least FOLDS.
        period: n texts likewise.
        seed: of folds and deals.

    Returns:
        None where no words are shared by RAREST texts.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    rng = np.random.default_rng(seed)
    vectorizer = CountVectorizer(binary=True, dtype=np.float32, token_pattern=r"(?u)\b\w+\b")
    try:
        words = csr_matrix(vectorizer.fit_transform([*reference, *period]))
    except ValueError:  # not one word in any
        return None
    often = words.getnnz(axis=0) >= RAREST
    words, names = words[:, often], vectorizer.get_feature_names_out()[often]
    if not len(names):
        return None
    m, n = len(reference), len(period)
    new = np.repeat([0.0, 1.0], [m, n])
    dealt = np.stack([new, *(rng.permutation(new) for _ in range(DEALS))], axis=1)
    # equal texts in one fold: the others' twins would teach it the other side's name
    same = pd.factorize(np.array([*reference, *period], dtype=object))[0]
    newness = _newness(words, dealt, rng.permutation(m + n)[same] % FOLDS)
    areas = np.array([_area(newness[:, k], dealt[:, k] > 0) for k in range(DEALS + 1)])
    auc, by_chance = float(areas[0]), areas[1:]
    spread = float(by_chance.std(ddof=1))
    # no spread: the same words in every text
    far = (auc - by_chance.mean()) / (spread * np.sqrt(1 + 1 / DEALS)) if spread else 0.0
    old, fresh = newness[:m, 0], newness[m:, 0]
    widened = spread / np.sqrt((m + n + 1) / (12 * m * n))
    margin = MARGIN * _area_error(old, fresh) * widened
    more, less = _telling(words, new > 0, names)
    return Wording(
        auc=auc,
        interval=Interval(max(auc - margin, 0.0), min(auc + margin, 1.0)),
        p_value=float(t.sf(far, DEALS - 1)),
        reference=old,
        period=fresh,
        more=more,
        less=less,
    )


def _newness(words: csr_matrix, new: Floats, folds: NDArray[np.int64]) -> Floats:
    """Return how new each text looks, as its rank in its fold, 0 to 1, for each way of dealing.

    Naive Bayes on which words are there and which are not, so that texts that were cut show too;
    all ways of dealing at once, which a library's would fit one by one.

    Args:
        words: (texts, words), 1 where a text has a word.
        new: (texts, ways), 1 for new texts.
        folds: (texts,) the fold of each.
    """
    newness = np.empty(new.shape)
    for fold in range(FOLDS):
        judged = folds == fold
        seen, side = words[~judged], new[~judged]
        shares = [(seen.T @ those + 1) / (those.sum(axis=0) + 2) for those in (side, 1 - side)]
        weights = np.log(shares[0] / shares[1]) - np.log((1 - shares[0]) / (1 - shares[1]))
        newness[judged] = (rankdata(words[judged] @ weights, axis=0) - 0.5) / judged.sum()
    return newness


def _area(newness: Floats, new: NDArray[np.bool_]) -> float:
    """Return the area under the curve: how often a new text is above an old one."""
    n = int(new.sum())
    ranks = float(rankdata(newness)[new].sum())
    return (ranks - n * (n + 1) / 2) / (n * (len(new) - n))


def _area_error(old: Floats, fresh: Floats) -> float:
    """Return the standard error of the area for values that are independent.

    Source: DeLong, DeLong and Clarke-Pearson (1988), by ranks as Sun and Xu (2014).
    """
    m, n = len(old), len(fresh)
    ranks = rankdata(np.concatenate([old, fresh]))
    above = (ranks[m:] - rankdata(fresh)) / m  # share of the old below each new one
    below = 1 - (ranks[:m] - rankdata(old)) / n
    return float(np.sqrt(above.var(ddof=1) / n + below.var(ddof=1) / m))


def _telling(
    words: csr_matrix, new: NDArray[np.bool_], names: NDArray[np.str_]
) -> tuple[list[str], list[str]]:
    """Return the words that new texts have more often, and less often, the clearest first."""
    sizes = np.array([[(~new).sum()], [new.sum()]])
    counts = np.array([np.asarray(words[side].sum(axis=0))[0] for side in (~new, new)])
    pooled = counts.sum(axis=0) / len(new)
    error = np.sqrt(pooled * (1 - pooled) * (1 / sizes).sum())
    old, fresh = counts / sizes
    far = np.divide(fresh - old, error, out=np.zeros(len(names)), where=error > 0)
    order = np.argsort(-far, kind="stable")
    more = [
        shortened(names[word], LONGEST_WORD) for word in order[:SHOWN_WORDS] if far[word] > CLEAR
    ]
    less = [
        shortened(names[word], LONGEST_WORD)
        for word in order[::-1][:SHOWN_WORDS]
        if far[word] < -CLEAR
    ]
    return more, less
