from decimal import Decimal

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricer.errors import ItemsError
from pricer.products.items import (
    clean_products,
    clean_text,
    drop_duplicates,
    parse_amount,
    split_items,
    text_key,
    title_key,
)

SIZES = {"train": 120, "validation": 20, "test": 30}


def clean(rows: list[dict], on_invalid: str = "error"):
    table = pd.DataFrame(rows, index=range(1, len(rows) + 1)).astype(object)
    return clean_products(
        table, where="mine.jsonl", on_invalid=on_invalid, min_price=0.5, max_price=999.49
    )


def product(**changes) -> dict:
    return {
        "title": "A mug",
        "category": "Kitchen",
        "price": 9.5,
        "summary": "A blue mug",
    } | changes


@pytest.mark.parametrize(
    ("value", "price"),
    [
        (12, 12.0),
        (12.5, 12.5),
        ("12.50", 12.5),
        ("$1,299.00", 1299.0),
        (" US$ 30 ", 30.0),
        ("45 USD", 45.0),
        ("1.299,00", None),
        *((text, None) for text in ("1.299", "$ 12.500", "999.000 USD")),  # thousands, or not
        (1.299, 1.299),
        ("0.999", 0.999),
        ("1299.125", 1299.125),
        ("1,299.125", 1299.125),
        ("12.3456", 12.3456),
        ("12,50", None),
        ("about 5", None),
        ("", None),
        (0, None),
        (-3, None),
        ("-3", None),
        (float("nan"), None),
        ("nan", None),
        (float("inf"), None),
        (True, None),
        (None, None),
        ([1], None),
        ("$.99", 0.99),
        (".99", 0.99),
        ("US $12.00", 12.0),
        ("USD 12.00", 12.0),
        ("12.00 USD", 12.0),
        ("19.99$", 19.99),
        ("$1,299 USD", 1299.0),
        ("US  \n $ 30", 30.0),
        ("US" + " " * 40_000 + "x", None),  # and in no time
        ("1" + "0" * 59 + ".00", None),
        (Decimal("12.50"), 12.5),
        ("1.234,56", None),
        ("1,23", None),
        ("12 EUR", None),
        ("$", None),
        ("USD", None),
        (".", None),
        ("5 6", None),
        (b"12", None),
        (10**400, None),
        ("1" * 400, None),
        ({"amount": 3.5}, None),
    ],
)
def test_parse_amount(value, price):
    assert parse_amount(value) == price


@given(st.text())
def test_cleaned_text_can_be_written_and_shown(text):
    cleaned = clean_text(text)
    assert cleaned.encode().decode() == cleaned == cleaned.strip()
    assert clean_text(cleaned) == cleaned
    assert not any(ord(c) < 32 and c not in "\t\n" for c in cleaned)


def test_emoji_and_right_to_left_text_stay():
    family = "\U0001f468‍\U0001f469‍\U0001f467 כוס"
    assert clean_text(family) == family
    assert clean_text("a\x00b‮c\ud800d\r\ne") == "a b c\ufffdd\ne"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"price": -1}, "no positive price"),
        ({"price": 0}, "no positive price"),
        ({"price": float("nan")}, "no positive price"),
        ({"price": "free"}, "no positive price"),
        ({"title": ""}, "empty title"),
        ({"title": None}, "empty title"),
        ({"title": "\u200b\u2060 \ufe0f"}, "empty title"),
        ({"summary": "\ufeff\u00ad"}, "empty summary"),
        ({"price": b"9.50"}, "no positive price"),
        ({"summary": " \n\x00 "}, "empty summary"),
    ],
)
def test_an_invalid_row_is_named_or_dropped_and_counted(changes, reason):
    rows = [product(), product(**changes)]
    with pytest.raises(ItemsError, match=f"mine.jsonl row 2: {reason} .got .*1 of 2 rows") as error:
        clean(rows)
    assert "\n" not in str(error.value)
    items, left_out = clean(rows, "drop")
    assert len(items) == 1 and left_out == {reason: 1}


def test_prices_outside_the_range_are_counted_not_errors():
    items, left_out = clean([product(), product(price="$1,299.00"), product(price=0.2)])
    assert items["price"].tolist() == [9.5]
    assert left_out == {"price outside min_price..max_price": 2}


def test_missing_columns_are_named():
    rows = [{"title": "A mug", "cost": 3, "summary": "blue"}]
    with pytest.raises(
        ItemsError, match="column category, price missing .has title, cost, summary"
    ):
        clean(rows)


def test_ids_follow_the_text_or_the_file():
    one, two = clean([product()])[0], clean([product(), product(summary="red")])[0]
    assert one["id"][0] == two["id"][0] != two["id"][1]
    assert two["id"].max() < 2**53
    assert clean([product(id="17")])[0]["id"].tolist() == [17]
    assert clean([product(id="17.0")])[0]["id"].tolist() == [17]
    with pytest.raises(ItemsError, match="id 4 occurs more than once"):
        clean([product(id=4), product(id=4)])


@pytest.mark.parametrize(
    "wrong", ["x", None, "", 2**63, float(2**53), "1.5", "1" * 30, True, float("nan"), [3], b"3"]
)
def test_what_is_no_id_of_64_bits_is_named_with_its_row(wrong):
    says = r"mine.jsonl row 2: column id must hold whole numbers below 2\^63 .got "
    with pytest.raises(ItemsError, match=says):
        clean([product(id=1), product(id=wrong)])


@pytest.mark.parametrize("kind", [int, str, float, Decimal])
def test_ids_are_those_of_the_file(kind):
    given = [2**53 + 1, 2**63 - 1, -(2**63)] if kind is not float else [2**53 - 1, 0, -7]
    items, _ = clean([product(id=kind(number)) for number in given])
    assert items["id"].tolist() == given


def test_prices_are_whole_cents():
    given = [106.59000000000002, "3.8500000000000005", 999.494]
    items, _ = clean([product(price=price) for price in given])
    assert items["price"].tolist() == [106.59, 3.85, 999.49]


def test_less_than_a_cent_is_below_any_range():
    table = pd.DataFrame([product(price=4e-05), product(price=0.01)])
    items, left_out = clean_products(
        table, where="a", on_invalid="error", min_price=0, max_price=999.49
    )
    assert items["price"].tolist() == [0.01]
    assert left_out == {"price outside min_price..max_price": 1}


def test_optional_columns_are_of_one_type(tmp_path):
    rows = [
        product(weight="2 lb", full=None, noise_free_price="$9.25"),
        product(weight=1, full={"a": [1]}, noise_free_price="?"),
        product(weight=10**400, full="x\ud83d", noise_free_price=8),
    ]
    items, _ = clean(rows)
    items.to_parquet(tmp_path / "a.parquet")
    assert items["weight"].tolist() == ["2 lb", "1", str(10**400)]
    assert items["full"].isna().tolist() == [True, False, False]
    assert items["full"].tolist()[1:] == ['{"a": [1]}', "x\ufffd"]
    assert items["noise_free_price"].isna().tolist() == [False, True, False]
    assert clean([product(weight=1), product(weight=None), product(weight=2.5)])[0][
        "weight"
    ].dropna().tolist() == [1, 2.5]


@pytest.mark.parametrize("other", ["cafe\u0301 \u2160", "caf\u00e9\u200b I", "CAF\u00c9  \uff29"])
def test_what_looks_the_same_is_the_same_product(other):
    text = "caf\u00e9 I"
    assert title_key(other) == title_key(text) and text_key(other) == text_key(text)
    assert len(drop_duplicates(clean([product(summary=text), product(summary=other)])[0])) == 1


def test_a_huge_text_is_kept_whole():
    items, _ = clean([product(summary="word " * 200_000)])
    assert len(items["summary"][0]) == 999_999


def test_near_identical_titles_share_a_key():
    assert title_key("Blue  MUG, 350 ml!") == title_key("mug (350 ML) – blue")
    assert title_key("Mug 350 ml") != title_key("Mug 500 ml")
    assert title_key("★") == "★"


def test_splits_have_their_sizes_and_share_nothing(items):
    splits = split_items(items, SIZES, seed=1, where="catalog")
    assert {split: len(table) for split, table in splits.items()} == SIZES
    together = pd.concat(splits.values())
    assert together["id"].is_unique and together["summary"].is_unique


@given(st.integers(0, 2**32 - 1))
def test_splits_do_not_depend_on_the_order_of_rows(items, seed):
    shuffled = drop_duplicates(items.sample(frac=1, random_state=seed))
    again = split_items(shuffled, SIZES, seed=1, where="catalog")
    for split, table in split_items(items, SIZES, seed=1, where="catalog").items():
        pd.testing.assert_frame_equal(table, again[split])


def test_another_seed_draws_other_splits(items):
    one = split_items(items, SIZES, seed=1, where="catalog")["test"]
    two = split_items(items, SIZES, seed=2, where="catalog")["test"]
    assert set(one["id"]) != set(two["id"])


def test_near_identical_titles_never_straddle_splits():
    rows = [
        product(title=f"{color} mug {size}", summary=f"{color} {size} {word}")
        for size in range(40)
        for color, word in (("Blue", "a"), ("blue", "b"), ("BLUE", "c"))
    ]
    sizes = {"train": 60, "validation": 15, "test": 15}
    splits = split_items(clean(rows)[0], sizes, seed=5, where="mugs")
    keys = [set(table["title"].map(title_key)) for table in splits.values()]
    assert not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2]


def test_equal_texts_are_one_item_whatever_their_order():
    rows = [product(price=5), product(price=3), product(summary="A  BLUE mug", price=4)]
    kept = drop_duplicates(clean(rows)[0])
    assert len(kept) == 1
    pd.testing.assert_frame_equal(kept, drop_duplicates(clean(rows[::-1])[0]))


def test_too_few_items_say_how_many_there_are(items):
    with pytest.raises(ItemsError, match="test 1 asked for, 502 in all, but there are 200 usable"):
        split_items(items, {"train": 500, "validation": 1, "test": 1}, seed=1, where="catalog")
