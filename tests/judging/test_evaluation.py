import numpy as np
import pytest

from pricer.errors import ItemsError
from pricer.judging.evaluation import evaluate_run, scores_json
from pricer.judging.paired import Bootstrap
from pricer.prices.predictions import no_number_is_zero
from tests.judging.conftest import make_evidence, make_predictions

BOOTSTRAP = Bootstrap(resamples=20, seed=0)


def test_predictions_without_a_number_count_as_zero_everywhere_and_are_reported(items):
    test = items.head(12).reset_index(drop=True)
    tuned = make_predictions(test, 0.4, 0).assign(estimate_usd=np.nan, greedy=np.nan)
    tuned.loc[0, "estimate_usd"] = test.loc[0, "price"]
    tables = {"tuned": no_number_is_zero(tuned), "base": no_number_is_zero(tuned)}
    baselines = test[["id", "price"]].assign(mean_price=50.0, ridge_log=60.0)
    told = scores_json(evaluate_run(test, tables, baselines, make_evidence(test), BOOTSTRAP))
    lost = test["price"].iloc[1:].sum()
    assert told["mae"] == pytest.approx(lost / 12)
    assert told["unparsed_rate"] == 11 / 12 and told["n"] == 12
    assert told["mean_price"]["unparsed_rate"] == 0
    assert told["points"]["greedy"]["mae"] == pytest.approx(test["price"].mean())


def test_other_products_are_refused(items):
    test = items.head(12).reset_index(drop=True)
    tables = {name: no_number_is_zero(make_predictions(test, 1, 0)) for name in ("tuned", "base")}
    other = items[["id", "price"]].iloc[1:13].assign(mean_price=50.0)
    with pytest.raises(ItemsError, match="the baselines predictions are not of these items"):
        evaluate_run(test, tables, other, make_evidence(test), BOOTSTRAP)
