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
    assert clean_text("a\x00b‮c\ud800d\r\ne") == "a b c d\ne"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"price": -1}, "no positive price"),
        ({"price": 0}, "no positive price"),
        ({"price": float("nan")}, "no positive price"),
        ({"price": "free"}, "no positive price"),
        ({"title": ""}, "empty title"),
        ({"title": None}, "empty title"),
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
    with pytest.raises(ItemsError, match="id must hold whole numbers"):
        clean([product(id="x")])
    with pytest.raises(ItemsError, match="id 4 occurs more than once"):
        clean([product(id=4), product(id=4)])


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
