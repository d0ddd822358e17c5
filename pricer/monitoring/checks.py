"""What is compared with the reference, and what is said and done where it has shifted."""

from collections.abc import Callable
from dataclasses import astuple, dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricer.escaping import shortened
from pricer.monitoring.observed import Observed
from pricer.monitoring.shift import FEWEST, Shift, shift, wasserstein
from pricer.monitoring.since import Since, since
from pricer.monitoring.texts import MOST, Wording, wording

Floats = NDArray[np.float64]
SHOWN, LONGEST = 3, 100  # products that show a shift, and characters of each
WORDS = "words"
SEED = 42

LOOK = "look at what feeds the service: has a source, a language or a template changed?"
RETRAIN = "retrain on newer products, `pricer monitor --export-items` writes those that sold"
RECALIBRATE = "calibrate on the newest outcomes, `pricer monitor --recalibrate`"


@dataclass(frozen=True)
class Check:
    """A number of each product, compared in two samples.

    Attributes:
        title: what it is of.
        values: of each product, NaN where there is none.
        above: what is said where the period has more high values.
        below: where it has more low ones.
        advice: what to do then.
        in_usd: whether the values are dollars.
        outcomes: whether it is of products whose price is known.
    """

    title: str
    values: Callable[[pd.DataFrame], Floats]
    above: str
    below: str
    advice: str
    in_usd: bool = False
    outcomes: bool = False


def _column(name: str) -> Callable[[pd.DataFrame], Floats]:
    return lambda table: np.asarray(table[name], dtype=float)


def _of_model(values: Callable[[pd.DataFrame], Floats]) -> Callable[[pd.DataFrame], Floats]:
    """Return values of what the model itself answered."""
    return lambda table: np.where(table["fallback"].to_numpy(float) > 0, np.nan, values(table))


def errors(table: pd.DataFrame) -> Floats:
    """Return estimate less price, USD."""
    return (table["estimate_usd"] - table["price_usd"]).to_numpy(float)


def inside(table: pd.DataFrame) -> Floats:
    """Return 1 where an interval of 80% holds the price, 0 where it does not."""
    price, low, high = (table[name] for name in ("price_usd", "low_usd", "high_usd"))
    known = (table["level"] == 80) & low.notna() & high.notna() & price.notna()
    return np.where(known, price.between(low, high), np.nan)


def _log_ratio(table: pd.DataFrame) -> Floats:
    price, estimate = (table[name].to_numpy(float) for name in ("price_usd", "estimate_usd"))
    return np.asarray(np.log1p(price) - np.log1p(estimate))


# beside WORDS; `unknown_category` is a column that `compare` adds
CHECKS = {
    WORDS: Check(
        "words of descriptions",
        _column("newness"),
        "descriptions are worded in another way",
        "descriptions are worded in another way",
        LOOK,
    ),
    "similarity": Check(
        "similarity to the nearest training product",
        _column("similarity"),
        "products are nearer to training products",
        "products are farther from all training products",
        RETRAIN,
    ),
    "unknown_category": Check(
        "categories that training has not seen",
        _column("unknown_category"),
        "more products are of categories that training has not seen",
        "fewer products are of categories that training has not seen",
        f"{RETRAIN}; or mend the feed's names of categories",
    ),
    "truncated": Check(
        "descriptions that were cut",
        _column("truncated"),
        "more descriptions are longer than the prompt takes",
        "fewer descriptions are longer than the prompt takes",
        "raise prompts.cutoff and retrain, or shorten what the feed sends",
    ),
    "estimate": Check(
        "estimates",
        _of_model(_column("estimate_usd")),
        "estimates are higher",
        "estimates are lower",
        "see which products are asked for now: other products are no fault of the model",
        in_usd=True,
    ),
    "width": Check(
        "width of the model's own 80% interval",
        _of_model(_column("width_usd")),
        "the model is less sure",
        "the model is surer",
        "see which products are asked for now; where it is less sure, retrain on such",
        in_usd=True,
    ),
    "price_mass": Check(
        "probability that the model says a price at all",
        _of_model(_column("price_mass")),
        "the model says a price more surely",
        "the model is less sure to say a price at all",
        "see whether descriptions hold what is no product, and whether the model was replaced",
    ),
    "expected_error": Check(
        "error that the model expects",
        _of_model(_column("expected_error_usd")),
        "the model expects larger errors",
        "the model expects smaller errors",
        "see which products are asked for now; where errors grow, retrain on such",
        in_usd=True,
    ),
    "fallback": Check(
        "answers that the model did not give",
        _column("fallback"),
        "more answers are the fallback's",
        "fewer answers are the fallback's",
        "see the reasons in the log and at /metrics: time, memory, or what is no product",
    ),
    "error": Check(
        "size of errors",
        _of_model(lambda table: np.abs(errors(table))),
        "errors are larger",
        "errors are smaller",
        RETRAIN,
        in_usd=True,
        outcomes=True,
    ),
    "bias": Check(
        "price against estimate, as log ratio",
        _of_model(_log_ratio),
        "prices are higher than estimates",
        "prices are lower than estimates",
        f"{RETRAIN}; see first whether the feed's currency or units have changed",
        outcomes=True,
    ),
    "coverage": Check(
        "80% intervals that hold the price",
        _of_model(inside),
        "intervals hold more often than they say",
        "intervals hold less often",
        RECALIBRATE,
        outcomes=True,
    ),
    "rank": Check(
        "place of the price in the model's distribution",
        _of_model(lambda table: table["rank"].to_numpy(float)),
        "prices lie higher in the model's distributions",
        "prices lie lower in the model's distributions",
        f"{RECALIBRATE}; and retrain where they lie to one side",
        outcomes=True,
    ),
}


@dataclass(frozen=True)
class Finding:
    """What a check has found.

    Attributes:
        check: which.
        shift: the comparison; None where there were too few products.
        mean: of the values in the period; NaN without any.
        mean_reference: likewise in the reference.
        wasserstein_usd: how far the values are apart, rank by rank; None of what is not in dollars.
        since: when it began; None without an alarm, where chance may have made it.
        at: the time of that product, where times are known.
        category: where it shows most, and how often; None without one.
        products: that show it most.
    """

    check: Check
    shift: Shift | None
    mean: float
    mean_reference: float
    wasserstein_usd: float | None = None
    since: Since | None = None
    at: pd.Timestamp | None = None
    category: str | None = None
    products: tuple[str, ...] = ()

    @property
    def alarmed(self) -> bool:
        """Whether chance alone is too rare to have made the shift."""
        return self.since is not None


def compare(
    reference: Observed, period: Observed, categories: set[str], alpha: float
) -> tuple[dict[str, Finding], Wording | None]:
    """Compare a period with the reference.

    Args:
        reference: what the model was judged on.
        period: what it prices now.
        categories: that training has seen.
        alpha: of one check at one look.

    Returns:
        What each of CHECKS has found, and what tells the words of both apart, where there are
        enough texts.
    """
    tables = [_prepared(side.estimates, categories) for side in (reference, period)]
    told = _wording(*tables)
    found = {}
    for number, (name, check) in enumerate(CHECKS.items()):
        pair = (reference.outcomes, period.outcomes) if check.outcomes else tables
        old, new = (check.values(table) for table in pair)
        compared = shift(old, new, alpha=alpha, seed=SEED + number)
        if name == WORDS and compared and told:
            compared = replace(compared, p_value=told.p_value)
        apart = wasserstein(old, new) if compared and check.in_usd else None
        found[name] = Finding(check, compared, _mean(new), _mean(old), apart)
        if compared and compared.p_value <= alpha:
            found[name] = _alarm(found[name], compared, old, new, pair[1])
    return found, told


def _mean(values: Floats) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _prepared(table: pd.DataFrame, categories: set[str]) -> pd.DataFrame:
    """Return a table with what is not in it as it is read."""
    known = table["category"].isin(categories).to_numpy()
    unknown = np.where(table["category"].isna(), np.nan, ~known)
    return table.assign(unknown_category=unknown, newness=np.nan)


def _wording(old: pd.DataFrame, new: pd.DataFrame) -> Wording | None:
    """Tell the words of two tables apart, and give each text its `newness` there."""
    old_texts, new_texts = (_thinned(table["text"].dropna()) for table in (old, new))
    if min(len(old_texts), len(new_texts)) < FEWEST:
        return None
    told = wording(old_texts.tolist(), new_texts.tolist(), SEED)
    if told:
        old.loc[old_texts.index, "newness"] = told.reference
        new.loc[new_texts.index, "newness"] = told.period
    return told


def _thinned(texts: "pd.Series[str]") -> "pd.Series[str]":
    """Return MOST texts at most, evenly from all."""
    if len(texts) <= MOST:
        return texts
    return texts.iloc[np.linspace(0, len(texts) - 1, MOST).astype(int)]


def _alarm(
    finding: Finding, found: Shift, reference: Floats, values: Floats, table: pd.DataFrame
) -> Finding:
    """Return a finding with when, where and in which products a shift shows.

    Args:
        finding: without these.
        found: the shift.
        reference: (m,) values of the reference.
        values: (n,) of the period.
        table: of the n products.
    """
    known = ~np.isnan(values)
    places = np.flatnonzero(known)  # among all products of the period
    table, values = table[known], values[known]
    beyond = (values > found.cut) == found.more_above
    before = (reference[~np.isnan(reference)] > found.cut) == found.more_above
    began = since(before, beyond, SEED)
    order = np.argsort(-values if found.more_above else values, kind="stable")
    texts = table["text"].iloc[order].dropna().head(SHOWN)
    return replace(
        finding,
        since=Since(*(int(places[one]) if one else 0 for one in astuple(began))),
        at=None if table["at"].isna().all() else table["at"].iloc[began.place],
        category=_where(table["category"], beyond, float(before.mean())),
        products=tuple(shortened(text, LONGEST) for text in texts),
    )


def _where(categories: "pd.Series[str]", beyond: NDArray[np.bool_], usual: float) -> str | None:
    """Return the category with the most products beyond what is usual, None without categories."""
    named = pd.DataFrame({"category": categories.to_numpy(), "beyond": beyond}).dropna()
    if named.empty:
        return None
    counted = named.groupby("category")["beyond"].agg(["sum", "count"])
    most = int((counted["sum"] - usual * counted["count"]).to_numpy().argmax())
    beyond_usual, there = (int(counted[name].iloc[most]) for name in ("sum", "count"))
    return f"{shortened(str(counted.index[most]), 60)} ({beyond_usual:,} of {there:,})"
