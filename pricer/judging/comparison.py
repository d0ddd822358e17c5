"""Is B better than A? Two predictors on the products that both have judged."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricer.errors import ItemsError
from pricer.judging.metrics import category_groups, price_bands
from pricer.judging.paired import Bootstrap, Gap, flat, gaps_by_group, paired_gaps
from pricer.tables import cell, signed, table, usd

Floats = NDArray[np.float64]

MOVED = 10  # products whose errors differ most, told one by one
# normal quantiles of a two-sided test at 5% that finds a true difference in 80% of the cases
DETECTION = 1.960 + 0.842


@dataclass(frozen=True)
class Comparison:
    """How the errors of B differ from those of A: below zero, B is better.

    Attributes:
        n: products that both have judged.
        only_a: products that A alone has judged.
        only_b: products that B alone has judged.
        a: A's mean losses by metric: mae and where known crps, USD; mse, USD².
        b: B's.
        delta: B's less A's.
        p_values: of these, by a sign-flip test.
        win_rate: share of products on which B is nearer, half of the ties.
        slices: B's MAE less A's by kind ("price", "category") and group, USD.
        moved: the products whose error changed most.
        detectable_usd: true difference of the mean absolute errors that so many products tell in
            80% of cases; None of one product.
        products_needed: to tell a difference of this size, where none can be told.
        verdict: one sentence.
    """

    n: int
    only_a: int
    only_b: int
    a: dict[str, float]
    b: dict[str, float]
    delta: dict[str, Gap]
    p_values: dict[str, float]
    win_rate: float
    slices: dict[str, dict[str, Gap]]
    moved: list[dict[str, Any]]
    detectable_usd: float | None
    products_needed: int | None
    verdict: str


def compare(
    a: pd.DataFrame, b: pd.DataFrame, items: pd.DataFrame | None, bootstrap: Bootstrap
) -> Comparison:
    """Return how the errors of `b` differ from those of `a`, product by product.

    The 95% intervals are of a paired bootstrap; p values of a sign-flip test, exact in the limit
    of many flips where the two are equally good. Neither depends on the order of rows.

    Args:
        a: id, price, estimate_usd, and where known crps (USD).
        b: the same.
        items: id, title and category of the products, where known.
        bootstrap: how products are drawn; the test flips as often.

    Raises:
        ItemsError: no product is in both, or a product has two different true prices.
    """
    both = _judged_by_both(a, b)
    losses = {
        metric: (_losses(both, metric, "_a"), _losses(both, metric, "_b"))
        for metric in ("mae", "mse", "crps")
        if metric != "crps" or {"crps_a", "crps_b"} <= set(both)
    }
    differences = {metric: other - one for metric, (one, other) in losses.items()}
    difference = differences["mae"]
    delta = paired_gaps(both["id"], differences, bootstrap)
    groups = {"price": price_bands(both["price_a"])}
    if items is not None and items["id"].dtype == both["id"].dtype:
        told = items[["id", "title", "category"]].drop_duplicates("id")
        both = both.merge(told, on="id", how="left")
        groups["category"] = category_groups(both["category"].fillna("unknown"))
    detectable = _detectable(difference)
    needed = _products_needed(detectable, delta["mae"])
    return Comparison(
        n=len(both),
        only_a=len(a) - len(both),
        only_b=len(b) - len(both),
        a={metric: float(one.mean()) for metric, (one, _) in losses.items()},
        b={metric: float(other.mean()) for metric, (_, other) in losses.items()},
        delta=delta,
        p_values={name: sign_flip_p(own, bootstrap) for name, own in differences.items()},
        win_rate=float(((difference < 0) + 0.5 * (difference == 0)).mean()),
        slices={
            kind: gaps_by_group(both["id"], difference, group, bootstrap)
            for kind, group in groups.items()
        },
        moved=_moved(both, difference),
        detectable_usd=detectable,
        products_needed=needed,
        verdict=verdict(delta["mae"], needed),
    )


def _judged_by_both(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Return the shared products in the order of their ids, columns with _a and _b."""
    if a["id"].dtype != b["id"].dtype:
        raise ItemsError(
            "A and B share no product: the ids of one are numbers, of the other text, so that "
            "they come from different items and cannot be compared"
        )
    both = a.merge(b, on="id", suffixes=("_a", "_b")).sort_values("id", ignore_index=True)
    if both.empty:
        raise ItemsError(
            f"A and B share no product (A has judged {len(a)}, B {len(b)}): "
            "they come from different items and cannot be compared"
        )
    # JSON keeps six digits
    differ = ~np.isclose(both["price_a"], both["price_b"], rtol=1e-5, atol=0)
    if differ.any():
        raise ItemsError(
            f"A and B have different true prices for {int(differ.sum())} of {len(both)} shared "
            f"products, the first is id {both['id'][differ].iloc[0]}: "
            "they come from different items"
        )
    return both


def _losses(both: pd.DataFrame, metric: str, side: str) -> Floats:
    if metric == "crps":
        return both[f"crps{side}"].to_numpy(float)
    error: Floats = both[f"estimate_usd{side}"].to_numpy(float) - both["price_a"].to_numpy(float)
    return np.abs(error) if metric == "mae" else np.square(error)


def sign_flip_p(difference: Floats, bootstrap: Bootstrap) -> float:
    """Return the p value of a mean difference of zero, by flipping signs at random.

    Where two predictors are equally good, which of them a paired difference favours is a coin
    toss (Fisher 1935; with the observed one counted, Phipson and Smyth 2010).
    """
    rng, flips = np.random.default_rng(bootstrap.seed), bootstrap.resamples
    # products without a difference change nothing
    moved = difference[difference != 0]
    observed = abs(moved.sum()) * (1 - 1e-12)  # sums of floats in another order
    step = max(2_000_000 // max(len(moved), 1), 1)
    extreme = 0
    for start in range(0, flips, step):
        signs = rng.integers(2, size=(min(step, flips - start), len(moved)), dtype=np.int8)
        extreme += int((np.abs((2.0 * signs - 1) @ moved) >= observed).sum())
    return (1 + extreme) / (1 + flips)


def _moved(both: pd.DataFrame, difference: Floats) -> list[dict[str, Any]]:
    order = np.argsort(-np.abs(difference), kind="stable")[:MOVED]
    return [
        {
            "id": both["id"].iloc[[row]].tolist()[0],  # a number or text, as Python has it
            "title": _title(both, row),
            "price": float(both["price_a"].iloc[row]),
            "a": float(both["estimate_usd_a"].iloc[row]),
            "b": float(both["estimate_usd_b"].iloc[row]),
            "error_change": float(difference[row]),
        }
        for row in order
        if difference[row] != 0
    ]


def _title(both: pd.DataFrame, row: int) -> str:
    title = both["title"].iloc[row] if "title" in both else ""
    return title if isinstance(title, str) else ""  # a product that is not of these items has none


def _detectable(difference: Floats) -> float | None:
    """Return the true mean difference that such differences of n products tell in 80% of cases.

    Of the normal approximation of a paired test at 5%: (z_0.975 + z_0.8) * deviation / sqrt(n).
    """
    if len(difference) < 2:
        return None
    return DETECTION * float(difference.std(ddof=1)) / math.sqrt(len(difference))


def _products_needed(detectable: float | None, gap: Gap) -> int | None:
    """Return how many products would tell a difference of the observed size in 80% of cases.

    None where it can be told already, or there is none. What n products tell falls with the root
    of n.
    """
    if gap.is_clear or gap.value == 0 or detectable is None:
        return None
    return max(math.ceil(gap.n * (detectable / gap.value) ** 2), gap.n + 1)


def verdict(gap: Gap, products_needed: int | None) -> str:
    """Say in a sentence whether B is better than A by mean absolute error."""
    low, high = sorted((abs(gap.interval.low), abs(gap.interval.high)))
    if gap.is_clear:
        word = "better" if gap.value < 0 else "worse"
        return (
            f"B is {word} by {usd(abs(gap.value))}, "
            f"95% interval {usd(low)} to {usd(high)} (mean absolute error, n={gap.n})"
        )
    if gap.value == low == high == 0:
        return f"A and B are equally good: their errors do not differ (n={gap.n})"
    cure = ""
    if products_needed:
        cure = f"; about {round_up(products_needed):,} products would be needed"
    return f"no difference can be told at n={gap.n}{cure}"


def round_up(count: int) -> int:
    """Return `count` rounded up to two significant digits."""
    unit = int(10 ** max(len(str(count)) - 2, 0))
    return -(-count // unit) * unit


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as `--format json` prints it."""
    delta = {
        metric: {
            "value": gap.value,
            "ci_low": gap.interval.low,
            "ci_high": gap.interval.high,
            "p_value": comparison.p_values[metric],
        }
        for metric, gap in comparison.delta.items()
    }
    slices = {
        kind: {group: {"n": gap.n} | flat(gap) for group, gap in groups.items()}
        for kind, groups in comparison.slices.items()
    }
    result = asdict(comparison) | {"delta": delta, "slices": slices}
    del result["p_values"]
    return result


def comparison_text(comparison: Comparison, a: str, b: str, *, markdown: bool) -> str:
    """Return a comparison for people, as plain text or Markdown.

    Args:
        comparison: from `compare`.
        a: what A is.
        b: what B is.
        markdown: tables in Markdown, else in aligned columns.
    """
    named = [cell(name, markdown=markdown, longest=200) for name in (a, b)]
    left_out = f"; {comparison.only_a} only in A, {comparison.only_b} only in B"
    alone = left_out if comparison.only_a or comparison.only_b else ""
    parts = [
        f"A: {named[0]}\nB: {named[1]}\n{comparison.n} products judged by both{alone}",
        comparison.verdict,
        _metric_table(comparison, markdown=markdown),
        f"B is nearer to the price on {comparison.win_rate:.0%} of the products.",
        *(
            _slice_table(kind, groups, markdown=markdown)
            for kind, groups in comparison.slices.items()
        ),
    ]
    if comparison.detectable_usd:
        parts.insert(
            3,
            f"n={comparison.n} tells a true difference of {usd(comparison.detectable_usd)} in 80% "
            "of cases, four times as many products half of that.",
        )
    if comparison.moved:
        parts.append(_moved_table(comparison.moved, markdown=markdown))
    return "\n\n".join(parts) + "\n"


def _metric_table(comparison: Comparison, *, markdown: bool) -> str:
    rows = [
        [
            metric.upper(),
            _told(comparison.a[metric], metric),
            _told(comparison.b[metric], metric),
            _told(gap.value, metric, sign="+"),
            " to ".join(
                _told(end, metric, sign="+") for end in (gap.interval.low, gap.interval.high)
            ),
            f"{comparison.p_values[metric]:.4f}",
        ]
        for metric, gap in comparison.delta.items()
    ]
    return table(["", "A", "B", "B less A", "95% interval", "p"], rows, markdown=markdown)


def _slice_table(kind: str, groups: dict[str, Gap], *, markdown: bool) -> str:
    rows = [
        [
            cell(group, markdown=markdown),
            str(gap.n),
            signed(gap.value),
            "-" if gap.n == 1 else f"{signed(gap.interval.low)} to {signed(gap.interval.high)}",
        ]
        for group, gap in groups.items()
    ]
    return table([kind, "n", "MAE, B less A", "95% interval"], rows, markdown=markdown)


def _moved_table(moved: list[dict[str, Any]], *, markdown: bool) -> str:
    rows = [
        [
            cell(row["title"], markdown=markdown) or str(row["id"]),
            usd(row["price"]),
            usd(row["a"]),
            usd(row["b"]),
            signed(row["error_change"]),
        ]
        for row in moved
    ]
    header = ["moved most", "price", "A", "B", "error, B less A"]
    return table(header, rows, markdown=markdown)


def _told(value: float, metric: str, *, sign: Literal["", "+"] = "") -> str:
    """Return a value of a metric, in dollars where it is: a squared error is in none."""
    if metric == "mse":
        return f"{value:{sign},.2f}"
    return signed(value) if sign else usd(value)


def worsening(comparison: Comparison) -> float:
    """Return by what share of A's mean absolute error B's is above it; infinite from an A of 0."""
    delta = comparison.delta["mae"].value
    if comparison.a["mae"] == 0:
        return math.inf if delta > 0 else 0.0
    return delta / comparison.a["mae"]
