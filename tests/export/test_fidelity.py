"""An exported model that prices like the trained one is kept, another is not."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricer.errors import PricerError
from pricer.export.fidelity import check_fidelity, compare_prices, fidelity_text

PRODUCTS = pd.DataFrame({"id": [1, 2], "price": [1.0, 3.0]})


def points(*values: int) -> np.ndarray:
    """All probability on one value each, of 0 to 4 dollars."""
    return np.eye(5)[list(values)]


def test_the_same_prices_do_not_differ():
    found = compare_prices(PRODUCTS, points(1, 3), points(1, 3))
    assert found.total_variation == found.log_probability == found.mae_change.value == 0
    check_fidelity(found, 0.0, "same")


def test_what_differs_is_told_in_dollars():
    found = compare_prices(PRODUCTS, points(1, 3), points(1, 0))
    assert found.mae == (0, 1.5) and found.crps == (0, 1.5)
    assert found.total_variation == 0.5
    assert found.mae_change.value == 1.5 and found.mae_change.n == 2
    with pytest.raises(PricerError) as caught:
        check_fidelity(found, 1.0, "here/merged")
    assert str(caught.value) == (
        "here/merged: the exported model is worse than the trained one by $1.50 on 2 validation "
        "products (MAE $0.00 to $1.50, CRPS $0.00 to $1.50), $1.00 is allowed (--tolerance): "
        "it was not kept"
    )
    check_fidelity(found, 1.5, "here/merged")
    assert "+$1.50" in fidelity_text(found)


def test_no_numbers_are_no_fidelity():
    found = compare_prices(PRODUCTS, points(1, 3), points(1, 3) * np.nan)
    with pytest.raises(PricerError, match="was not kept"):
        check_fidelity(found, 100.0, "broken")


@given(st.lists(st.lists(st.floats(0.01, 1), min_size=5, max_size=5), min_size=4, max_size=4))
def test_total_variation_is_a_distance(rows):
    one, other = (
        np.array(part) / np.sum(part, axis=1, keepdims=True) for part in (rows[:2], rows[2:])
    )
    there, back = compare_prices(PRODUCTS, one, other), compare_prices(PRODUCTS, other, one)
    assert 0 <= there.total_variation <= 1
    assert there.total_variation == pytest.approx(back.total_variation)
    assert there.mae_change.value == pytest.approx(-back.mae_change.value)
