"""Models that were asked elsewhere: in the leaderboard with their own n, of these products."""

import json

import numpy as np
import pytest

from pricer.errors import ItemsError, PricerError
from pricer.judging.asked import Answer, Asked, read_all_asked, read_asked, write_asked
from pricer.judging.evaluation import scores_json, with_asked
from pricer.judging.leaderboard import leaderboard
from pricer.judging.paired import Bootstrap
from pricer.judging.report import sentence
from tests.judging.conftest import make_evaluation

BOOTSTRAP = Bootstrap(200, 0)


def answers(products, say) -> Asked:
    return Asked(
        model="m1",
        url="http://here/v1",
        endpoint="chat",
        asked_on="2026-11-26",
        input_tokens=10,
        output_tokens=1,
        cost_usd=None,
        answers=[
            Answer(id=one, price=price, text=say(price))
            for one, price in zip(products["id"].tolist(), products["price"].tolist(), strict=True)
        ],
    )


def test_it_stands_in_the_leaderboard_with_its_own_products(items, tmp_path):
    evaluation = make_evaluation(items)
    some = evaluation.products.head(20)[["id", "price"]]
    write_asked(tmp_path / "m1.json", answers(some, lambda price: f"${price + 1:.2f}, I think"))
    found = with_asked(evaluation, read_all_asked(tmp_path, evaluation.products), BOOTSTRAP)
    assert found.asked == ("m1",) and found.scores["m1"].n == 20
    assert found.scores["m1"].values["mae"] == pytest.approx(1)
    tuned = np.abs(evaluation.products["error_usd"].head(20)).mean()
    assert found.tuned_less["m1"].value == pytest.approx(tuned - 1)
    assert found.tuned_less["m1"].n == 20
    rows = {row.name: row.label for row in leaderboard(found, None)}
    assert rows["m1"] == "m1 (asked, n = 20)"
    assert scores_json(found)["asked"]["m1"]["unparsed_rate"] == 0
    # it is no predictor without a language model
    assert sentence(found) == sentence(evaluation)


def test_answers_of_other_products_are_refused(items, tmp_path):
    products = make_evaluation(items).products[["id", "price"]]
    write_asked(tmp_path / "m1.json", answers(products.head(3), str))
    for other in (products.tail(5), products.assign(price=products["price"] + 1)):
        with pytest.raises(ItemsError, match="m1.json is of other products than the test split"):
            read_all_asked(tmp_path, other)
    twice = answers(products.head(2), str)
    write_asked(tmp_path / "m1.json", twice.model_copy(update={"answers": twice.answers * 2}))
    with pytest.raises(ItemsError, match="of other products"):
        read_all_asked(tmp_path, products)


@pytest.mark.parametrize("damage", ["{", "[]", '{"model": 3}', '{"answers": []}'])
def test_a_damaged_file_is_told(tmp_path, damage):
    (tmp_path / "m1.json").write_text(damage)
    with pytest.raises(PricerError, match="m1.json holds no answers of a model"):
        read_asked(tmp_path / "m1.json")


def test_a_file_is_read_as_it_was_written(items, tmp_path):
    asked = answers(items.head(4), lambda price: "\u202e nothing")
    write_asked(tmp_path / "m1.json", asked)
    assert read_asked(tmp_path / "m1.json") == asked
    assert json.loads((tmp_path / "m1.json").read_text())["asked_on"] == "2026-11-26"
