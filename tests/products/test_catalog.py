import math
from statistics import mean, median

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from pricer.products.catalog import charm_price, generate_products
from pricer.products.families import CATALOG


def products(n: int, *, seed: int = 3, noise: float = 0.15) -> list[dict]:
    return list(generate_products(n, seed=seed, noise=noise, min_price=0.5, max_price=999.49))


def test_the_same_seed_gives_the_same_products_and_more_only_add_to_the_end():
    assert products(50) == products(80)[:50]
    assert products(50) != products(50, seed=4)


def test_it_is_a_large_shop():
    assert len(CATALOG) >= 24
    assert all(len(families) >= 4 for families in CATALOG.values())
    assert any(family.accessory_of for families in CATALOG.values() for family in families)


def test_prices_have_a_long_tail_within_the_range():
    prices = [product["price"] for product in products(5000)]
    assert 0.5 <= min(prices) and max(prices) <= 999.49
    assert median(prices) < 0.6 * mean(prices)
    assert max(prices) > 900


def test_the_text_has_its_five_lines_and_no_price():
    for product in products(500):
        names = [line.split(":")[0] for line in product["summary"].splitlines()]
        assert names == ["Title", "Category", "Brand", "Description", "Details"]
        assert product["title"] in product["summary"]
        assert "$" not in product["summary"]


def test_titles_are_distinct_enough_to_split_by():
    titles = [product["title"] for product in products(5000)]
    assert len(set(titles)) > 4990


def test_noise_has_the_size_asked_for():
    ratios = [math.log(p["price"] / p["noise_free_price"]) for p in products(4000, noise=0.2)]
    deviation = math.sqrt(mean(ratio**2 for ratio in ratios))
    assert deviation == pytest.approx(0.2, rel=0.1)
    exact = products(200, noise=0)
    assert all(p["price"] == charm_price(p["noise_free_price"]) for p in exact)


def test_the_text_tells_the_price():
    """A plain linear reader of words gets far below what knowing nothing costs."""
    texts = [product["summary"] for product in products(8000, noise=0)]
    prices = np.array([product["noise_free_price"] for product in products(8000, noise=0)])
    reader = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), Ridge(alpha=0.3))
    reader.fit(texts[:6000], np.log(prices[:6000]))
    error = np.abs(np.exp(reader.predict(texts[6000:])) - prices[6000:]).mean()
    constant = np.abs(np.median(prices[:6000]) - prices[6000:]).mean()
    assert error < 0.5 * constant


def test_accessories_cost_a_fraction_of_what_they_name():
    named = [p for p in products(20_000) if "aptop" in p["summary"]]
    accessories = [p["price"] for p in named if "(laptop not included)" in p["summary"]]
    laptops = [p["price"] for p in named if "not included" not in p["summary"]]
    assert len(accessories) > 20 and median(accessories) < 0.1 * median(laptops)


@pytest.mark.parametrize(
    ("price", "charm"), [(0.2, 0.49), (3.3, 3.49), (9.8, 9.99), (41.2, 40.99), (603, 604.99)]
)
def test_charm_prices(price, charm):
    assert charm_price(price) == pytest.approx(charm)
