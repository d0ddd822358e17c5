"""Is B better than A? Two predictors on the products that both have judged."""

import math
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricer.errors import ItemsError
from pricer.judging.metrics import (
    category_groups,
    percentile_interval,
    price_bands,
    resampled_means,
)
from pricer.tables import signed, table, usd

Floats = NDArray[np.float64]

MOVED = 10  # products whose errors differ most, told one by one
# normal quantiles of a two-sided test at 5% that finds a true difference in 80% of the cases
DETECTION = 1.960 + 0.842


def compare(
    a: pd.DataFrame,
    b: pd.DataFrame,
    items: pd.DataFrame | None,
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Return how the errors of `b` differ from those of `a`, product by product.

    Differences are B less A: below zero, B is better. Their 95% intervals are of a paired
    bootstrap; p values of a sign-flip test, exact in the limit of many flips where the two are
    equally good. Neither depends on the order of rows.

    Args:
        a: id, price, point (USD; NaN counts as $0), and where known crps (USD).
        b: the same.
        items: id, title and category of the products, where known.
        resamples: of the bootstrap, and flips of the test.
        seed: of both.

    Returns:
        n, only_a, only_b (products that one of the two has judged alone); a, b and delta by
        metric; win_rate (share of products on which B is nearer, half of the ties); slices by
        price and category; moved, the products whose error changed most; products_needed, where
        no difference can be told; verdict, one sentence.

    Raises:
        ItemsError: no product is in both, or a product has two different true prices.
    """
    both = a.merge(b, on="id", suffixes=("_a", "_b")).sort_values("id", ignore_index=True)
    if both.empty:
        raise ItemsError(
            f"A and B share no product (A has judged {len(a)}, B {len(b)}): "
            "they come from different items and cannot be compared"
        )
    truth = both["price_a"].to_numpy(float)
    differ = truth != both["price_b"].to_numpy(float)
    if differ.any():
        raise ItemsError(
            f"A and B have different true prices for {int(differ.sum())} of {len(both)} shared "
            f"products, the first is id {both['id'][differ].iloc[0]}: "
            "they come from different items"
        )
    losses = {
        name: (_losses(both, name, "_a", truth), _losses(both, name, "_b", truth))
        for name in ("mae", "mse", "crps")
        if name != "crps" or {"crps_a", "crps_b"} <= set(both)
    }
    result: dict[str, Any] = {
        "n": len(both),
        "only_a": len(a) - len(both),
        "only_b": len(b) - len(both),
        "a": {name: float(one.mean()) for name, (one, _) in losses.items()},
        "b": {name: float(other.mean()) for name, (_, other) in losses.items()},
        "delta": {
            name: _difference(other - one, resamples=resamples, seed=seed)
            for name, (one, other) in losses.items()
        },
    }
    error_a, error_b = losses["mae"]
    difference = error_b - error_a
    result["win_rate"] = float(((difference < 0) + 0.5 * (difference == 0)).mean())
    groups = {"price": price_bands(truth)}
    if items is not None:
        both = both.merge(items[["id", "title", "category"]], on="id", how="left")
        groups["category"] = category_groups(both["category"].fillna("unknown"))
    result["slices"] = {
        kind: _slices(difference, group, resamples=resamples, seed=seed)
        for kind, group in groups.items()
    }
    result["moved"] = _moved(both, truth, difference)
    result["products_needed"] = _products_needed(difference, result["delta"]["mae"])
    result["verdict"] = verdict(result)
    return result


def _losses(both: pd.DataFrame, name: str, side: str, truth: Floats) -> Floats:
    if name == "crps":
        return both[f"crps{side}"].to_numpy(float)
    error = np.abs(both[f"point{side}"].fillna(0).to_numpy(float) - truth)
    return error if name == "mae" else np.square(error)


def _difference(difference: Floats, *, resamples: int, seed: int) -> dict[str, float]:
    low, high = _interval(difference, resamples=resamples, seed=seed)
    return {
        "value": float(difference.mean()),
        "ci_low": low,
        "ci_high": high,
        "p_value": sign_flip_p(difference, flips=resamples, seed=seed),
    }


def _interval(difference: Floats, *, resamples: int, seed: int) -> tuple[float, float]:
    return percentile_interval(resampled_means(difference[:, None], resamples=resamples, seed=seed))


def sign_flip_p(difference: Floats, *, flips: int, seed: int) -> float:
    """Return the p value of a mean difference of zero, by flipping signs at random.

    Where two predictors are equally good, which of them a paired difference favours is a coin
    toss (Fisher 1935; with the observed one counted, Phipson and Smyth 2010).
    """
    rng = np.random.default_rng(seed)
    # products without a difference change nothing
    moved = difference[difference != 0]
    observed = abs(moved.sum()) * (1 - 1e-12)  # sums of floats in another order
    step = max(2_000_000 // max(len(moved), 1), 1)
    extreme = 0
    for start in range(0, flips, step):
        signs = rng.integers(2, size=(min(step, flips - start), len(moved)), dtype=np.int8)
        extreme += int((np.abs((2.0 * signs - 1) @ moved) >= observed).sum())
    return (1 + extreme) / (1 + flips)


def _slices(
    difference: Floats, groups: pd.Categorical, *, resamples: int, seed: int
) -> dict[str, dict[str, float | int]]:
    result: dict[str, dict[str, float | int]] = {}
    for code, name in enumerate(groups.categories):
        own = difference[groups.codes == code]
        if len(own):
            low, high = _interval(own, resamples=resamples, seed=seed)
            result[name] = {
                "n": len(own),
                "mae": float(own.mean()),
                "mae_ci_low": low,
                "mae_ci_high": high,
            }
    return result


def _moved(both: pd.DataFrame, truth: Floats, difference: Floats) -> list[dict[str, Any]]:
    order = np.argsort(-np.abs(difference), kind="stable")[:MOVED]
    return [
        {
            "id": int(both["id"].iloc[row]),
            "title": str(both["title"].iloc[row]) if "title" in both else "",
            "price": float(truth[row]),
            "a": float(both["point_a"].fillna(0).iloc[row]),
            "b": float(both["point_b"].fillna(0).iloc[row]),
            "error_change": float(difference[row]),
        }
        for row in order
        if difference[row] != 0
    ]


def _products_needed(difference: Floats, delta: dict[str, float]) -> int | None:
    """Return how many products would tell a difference of the observed size in 80% of cases.

    None where it can be told already, or there is none. Of the normal approximation of a paired
    test at 5%: n = ((z_0.975 + z_0.8) * deviation / difference)².
    """
    if delta["ci_low"] > 0 or delta["ci_high"] < 0 or delta["value"] == 0 or len(difference) < 2:
        return None
    deviation = float(difference.std(ddof=1))
    return max(math.ceil((DETECTION * deviation / delta["value"]) ** 2), len(difference) + 1)


def verdict(result: dict[str, Any]) -> str:
    """Say in a sentence whether B is better than A by mean absolute error."""
    delta, n = result["delta"]["mae"], result["n"]
    low, high = sorted((abs(delta["ci_low"]), abs(delta["ci_high"])))
    if delta["ci_low"] > 0 or delta["ci_high"] < 0:
        word = "better" if delta["value"] < 0 else "worse"
        return (
            f"B is {word} by ${abs(delta['value']):.2f}, "
            f"95% interval ${low:.2f} to ${high:.2f} (mean absolute error, n={n})"
        )
    if delta["value"] == 0 and delta["ci_low"] == 0 == delta["ci_high"]:
        return f"A and B are equally good: their errors do not differ (n={n})"
    needed = result["products_needed"]
    cure = f"; about {round_up(needed):,} products would be needed" if needed else ""
    return f"no difference can be told at n={n}{cure}"


def round_up(count: int) -> int:
    """Return `count` rounded up to two significant digits."""
    unit = int(10 ** max(len(str(count)) - 2, 0))
    return -(-count // unit) * unit


def comparison_text(result: dict[str, Any], a: str, b: str, *, markdown: bool) -> str:
    """Return a comparison for people, as plain text or Markdown.

    Args:
        result: from `compare`.
        a: what A is.
        b: what B is.
        markdown: tables in Markdown, else in aligned columns.
    """
    left_out = f"; {result['only_a']} only in A, {result['only_b']} only in B"
    alone = left_out if result["only_a"] or result["only_b"] else ""
    rows = [
        [
            name.upper(),
            *(_told(result[side][name], name) for side in ("a", "b")),
            _told(delta["value"], name, sign="+"),
            " to ".join(_told(delta[end], name, sign="+") for end in ("ci_low", "ci_high")),
            f"{delta['p_value']:.4f}",
        ]
        for name, delta in result["delta"].items()
    ]
    parts = [
        f"A: {a}\nB: {b}\n{result['n']} products judged by both{alone}",
        result["verdict"],
        table(["", "A", "B", "B less A", "95% interval", "p"], rows, markdown=markdown),
        f"B is nearer to the price on {result['win_rate']:.0%} of the products.",
    ]
    for kind, groups in result["slices"].items():
        rows = [
            [
                name,
                str(own["n"]),
                signed(own["mae"]),
                f"{signed(own['mae_ci_low'])} to {signed(own['mae_ci_high'])}",
            ]
            for name, own in groups.items()
        ]
        parts.append(table([kind, "n", "MAE, B less A", "95% interval"], rows, markdown=markdown))
    if result["moved"]:
        rows = [
            [
                " ".join(row["title"].split())[:60] or str(row["id"]),
                usd(row["price"]),
                usd(row["a"]),
                usd(row["b"]),
                signed(row["error_change"]),
            ]
            for row in result["moved"]
        ]
        header = ["moved most", "price", "A", "B", "error, B less A"]
        parts.append(table(header, rows, markdown=markdown))
    return "\n\n".join(parts) + "\n"


def _told(value: float, metric: str, *, sign: Literal["", "+"] = "") -> str:
    """Return a value of a metric, in dollars where it is: a squared error is in none."""
    if metric == "mse":
        return f"{value:{sign},.2f}"
    return signed(value) if sign else usd(value)


def worsening(result: dict[str, Any]) -> float:
    """Return by what share of A's mean absolute error B's is above it; infinite from an A of 0."""
    delta = result["delta"]["mae"]["value"]
    if result["a"]["mae"] == 0:
        return math.inf if delta > 0 else 0.0
    return float(delta / result["a"]["mae"])
