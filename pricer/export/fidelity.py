"""Is an exported model the one that was trained? Both price the same products, in dollars."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricer.errors import PricerError
from pricer.judging.paired import Bootstrap, Gap, paired_gaps
from pricer.prices.distribution import crps, median
from pricer.tables import signed_interval, table, usd

BOOTSTRAP = Bootstrap(2_000, 42)


@dataclass(frozen=True)
class Fidelity:
    """How the prices of an exported model differ from those of the one that was trained.

    Attributes:
        n: products that both have priced.
        mae: mean absolute error of the medians, USD: of the trained and of the exported model.
        crps: likewise.
        mae_change: the exported model's less the trained one's, paired.
        crps_change: likewise.
        total_variation: mean over the products of the largest difference in the probability that
            the two give any set of prices: 0 where they are the same, 1 where nothing is shared.
        log_probability: mean absolute difference of the log probability of the true price, in
            whole dollars.
    """

    n: int
    mae: tuple[float, float]
    crps: tuple[float, float]
    mae_change: Gap
    crps_change: Gap
    total_variation: float
    log_probability: float


def compare_prices(
    products: pd.DataFrame, trained: NDArray[np.float64], exported: NDArray[np.float64]
) -> Fidelity:
    """Return how two models' prices of the same products differ.

    Args:
        products: n, with id and price (USD).
        trained: (n, values) probabilities of each whole-dollar price.
        exported: likewise.
    """
    price = products["price"].to_numpy(float)
    errors = [np.abs(median(one) - price) for one in (trained, exported)]
    scores = [crps(price, one) for one in (trained, exported)]
    gaps = paired_gaps(
        products["id"],
        {"mae": errors[1] - errors[0], "crps": scores[1] - scores[0]},
        BOOTSTRAP,
    )
    return Fidelity(
        n=len(products),
        mae=(float(errors[0].mean()), float(errors[1].mean())),
        crps=(float(scores[0].mean()), float(scores[1].mean())),
        mae_change=gaps["mae"],
        crps_change=gaps["crps"],
        total_variation=float(np.abs(exported - trained).sum(axis=1).mean() / 2),
        log_probability=float(
            np.abs(_of_truth(exported, price) - _of_truth(trained, price)).mean()
        ),
    )


def _of_truth(
    probabilities: NDArray[np.float64], price: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the log probability of each product's price, to the dollar."""
    column = np.rint(price).astype(int).clip(0, probabilities.shape[1] - 1)
    found = probabilities[np.arange(len(price)), column]
    return np.asarray(np.log(found.clip(np.finfo(float).tiny)))


def check_fidelity(fidelity: Fidelity, tolerance: float, name: object) -> None:
    """Raise PricerError if an exported model is worse than the trained one by more than allowed.

    Args:
        fidelity: of it.
        tolerance: USD, of mean absolute error and of CRPS.
        name: what the error calls it.
    """
    changes = (fidelity.mae_change.value, fidelity.crps_change.value)
    if not all(change <= tolerance for change in changes):  # NaN is no fidelity either
        raise PricerError(
            f"{name}: the exported model is worse than the trained one by {usd(max(changes))} on "
            f"{fidelity.n} validation products (MAE {usd(fidelity.mae[0])} to "
            f"{usd(fidelity.mae[1])}, CRPS {usd(fidelity.crps[0])} to {usd(fidelity.crps[1])}), "
            f"{usd(tolerance)} is allowed (--tolerance): it was not kept"
        )


def fidelity_text(fidelity: Fidelity, *, markdown: bool = False) -> str:
    """Return the comparison as a table, for a terminal or a card."""
    rows = [
        [
            name,
            usd(values[0]),
            usd(values[1]),
            signed_interval(change.value, change.interval.low, change.interval.high),
        ]
        for name, values, change in (
            ("MAE", fidelity.mae, fidelity.mae_change),
            ("CRPS", fidelity.crps, fidelity.crps_change),
        )
    ]
    header = [f"{fidelity.n} validation products", "trained", "exported", "change (95% interval)"]
    return (
        f"{table(header, rows, markdown=markdown)}\n\n"
        f"Mean total variation between their distributions: {fidelity.total_variation:.3f}; "
        f"mean difference of the true price's log probability: {fidelity.log_probability:.3f}"
    )
