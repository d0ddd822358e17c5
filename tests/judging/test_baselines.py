import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.neural_network import MLPRegressor

from pricer.evidence.folds import make_evidence
from pricer.judging.baselines import BASELINES, Split, category_median, mlp, predict_baselines
from pricer.judging.leaderboard import published_scores
from pricer.judging.metrics import mae
from pricer.params import Baselines, Evidence
from tests.conftest import ROOT

SETTINGS = Baselines(svd_components=16, trees=30, seed=1)
EVIDENCE = Evidence(neighbors=3, words=True, folds=5, ridge_alpha=0.1, seed=1)


def split_of(train, test):
    tables, models = make_evidence({"train": train, "test": test}, EVIDENCE)
    test_x = models.vectors_of(test["summary"].tolist())
    return Split(train, test, models.vectors, test_x, tables["test"], 0.1, SETTINGS)


@pytest.fixture(scope="module")
def split(items):
    return split_of(items.iloc[:160], items.iloc[160:])


@pytest.fixture(scope="module")
def estimates(split):
    return predict_baselines(split)


def test_every_baseline_judges_every_product_within_the_training_prices(split, estimates):
    train, test = split.train, split.test
    assert list(estimates) == ["id", "price", *BASELINES]
    assert estimates["id"].tolist() == test["id"].tolist()
    values = estimates[list(BASELINES)].to_numpy()
    assert np.isfinite(values).all()
    assert train["price"].min() <= values.min() and values.max() <= train["price"].max()


def test_what_reads_the_text_beats_what_does_not(estimates):
    """The catalogue's prices follow from what its texts say."""
    errors = {name: mae(estimates["price"], estimates[name]) for name in BASELINES}
    assert errors["category_median"] < errors["median_price"]
    for name in ("ridge", "ridge_log", "boosted_trees", "mlp", "nearest_neighbors"):
        assert errors[name] < errors["median_price"], name


def test_constants_are_the_best_ones_for_their_score(split, estimates):
    train = split.train
    assert set(estimates["mean_price"]) == {train["price"].mean()}
    assert set(estimates["median_price"]) == {train["price"].median()}


def test_the_same_items_give_the_same_estimates(split, estimates):
    pd.testing.assert_frame_equal(predict_baselines(split), estimates)


def test_ctrl_c_ends_the_networks_and_makes_no_other_estimates(split, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(MLPRegressor, "_backprop", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mlp(split)


def test_an_unknown_category_gets_the_overall_median():
    train = pd.DataFrame({"category": ["a", "a", "b"], "price": [1.0, 3.0, 10.0]})
    test = pd.DataFrame({"category": ["b", "a", "c"]})
    nothing = csr_matrix((3, 0))
    split = Split(train, test, nothing, nothing, pd.DataFrame(), 0.1, SETTINGS)
    assert category_median(split).tolist() == [10, 2, 3]


@pytest.mark.parametrize("n", [1, 4])
def test_few_items_are_enough(split, n):
    few = predict_baselines(split_of(split.train.head(n), split.test.head(2)))
    assert np.isfinite(few[list(BASELINES)].to_numpy()).all()


def test_every_baseline_is_on_the_page_beside_its_published_counterpart():
    page = (ROOT / "docs/evaluation.md").read_text()
    published = published_scores("ed-donner/items_lite").scores
    for name, baseline in BASELINES.items():
        counterpart = baseline.published or "none"
        assert f"| `{name}` | {baseline.description} | {counterpart} |" in page
        assert counterpart in (*published, "none")
