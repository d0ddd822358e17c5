"""One listing at a time: what is read of it, what is left of its text, why it can be no item."""

import html
import json
import math

import pytest

from pricer.params import read_params
from pricer.products import listings
from pricer.products.listings import (
    Listing,
    dollar_amounts,
    plain,
    read_details,
    read_listing,
    read_price,
    tells_price,
)
from tests.conftest import ROOT

BOUNDS = read_params(ROOT / "params.yaml").items.raw.model_copy(
    update={"min_characters": 20, "max_characters": 400}
)
ROW = {
    "main_category": "Kitchen",
    "title": "Blue mug",
    "features": ["<b>Dishwasher</b> safe", ["holds 12&nbsp;oz"]],
    "description": ["A mug &amp; a saucer.<br/>Made in Delft", ""],
    "price": "12.99",
    "details": json.dumps(
        {
            "Brand": "Delfa",
            "Item Weight": "12 ounces",
            "Best Sellers Rank": {"Kitchen": 5},
            "Item model number": "DM-7",
            "Batteries Included?": "No",
            "Colors": ["blue", "white"],
        }
    ),
}
TEXT = (
    "Blue mug\nA mug & a saucer. Made in Delft\nDishwasher safe holds 12 oz\n"
    "Brand: Delfa; Item Weight: 12 ounces; Colors: blue, white"
)


def read(row: dict, category: str = "", **bounds: int) -> Listing | str:
    return read_listing(
        row, category, BOUNDS.model_copy(update=bounds), min_price=0.5, max_price=999.49
    )


def test_a_listing_becomes_text_without_markup_and_numbers_of_warehouses():
    listing = read(ROW)
    assert listing == Listing("Blue mug", "Kitchen", 12.99, TEXT, 0.75, False, False)


@pytest.mark.parametrize("write", [json.dumps, repr], ids=["JSON", "Python"])
def test_lists_and_objects_may_be_text_as_in_a_csv(write):
    fields = {key: write(ROW[key]) for key in ("features", "description")}
    details = json.loads(ROW["details"])
    assert read(ROW | fields | {"details": write(details)}) == read(ROW | {"details": details})
    assert read(ROW | fields) == read(ROW)


@pytest.mark.parametrize(
    ("price", "read_as"),
    [
        ("$1,299.00", 1299.0),
        (19.999, 20.0),
        ("US $5", 5.0),
        *((value, listings.NO_PRICE) for value in (None, "", " None ", "\u2014", "-", math.nan)),
        *((value, listings.NO_PRICE) for value in ("nan", "N/A")),
        *((value, listings.RANGE) for value in ("12.99 - 15.99", "$12\u2013$15", "$5 to $9")),
        *((value, listings.RANGE) for value in ("from $5", "Under 10", "10+", "<5")),
        *((value, listings.OTHER_CURRENCY) for value in ("1.299,00 \u20ac", "\u00a312", "12 EUR")),
        *((value, listings.OTHER_CURRENCY) for value in ("CDN$ 12.00", "12 chf", "\u20b9500")),
        *((value, listings.UNREADABLE_PRICE) for value in ("1.299,00", "0", -5, True, "free", [])),
        *((value, listings.UNREADABLE_PRICE) for value in (math.inf, {"$": 1}, "9" * 10_000)),
        *((value, listings.UNREADABLE_PRICE) for value in ("US" + " " * 40_000 + "x", "1 " * 9999)),
    ],
)
def test_prices_are_dollars_or_a_reason(price, read_as):
    assert read_price(price) == read_as


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"title": None}, listings.NO_TITLE),
        ({"title": " <br> \u200b"}, listings.NO_TITLE),
        ({"price": "999.50"}, listings.OUTSIDE),
        ({"price": 0.49}, listings.OUTSIDE),
        ({"description": None, "features": [], "details": "{}"}, listings.SHORT),
    ],
)
def test_what_can_be_no_item_says_why(change, reason):
    assert read(ROW | change) == reason


@pytest.mark.parametrize("details", ['{"Brand": "cut', "plain", 7, ["a"], '["a"]'])
def test_details_that_are_no_object_are_left_out_alone(details):
    listing = read(ROW | {"details": details})
    assert listing.details_unreadable and listing.text == TEXT.rpartition("\n")[0]
    assert math.isnan(listing.weight)


@pytest.mark.parametrize("details", [None, "", "None", "{}", {}])
def test_no_details_are_no_trouble(details):
    assert read_details(details) == {}
    assert not read(ROW | {"details": details}).details_unreadable


def test_long_texts_are_cut_at_a_word_and_say_so():
    listing = read(ROW | {"description": "long words " * 100}, max_characters=100)
    assert listing.shortened and len(listing.text) <= 100
    assert listing.text.endswith((" long", " words"))
    assert len(read(ROW | {"description": "x" * 9000}).text) == 400  # no word ends


def test_a_part_may_not_crowd_out_the_others():
    listing = read(ROW | {"description": "word " * 9000}, max_characters=8000)
    assert "Dishwasher safe" in listing.text and len(listing.text) < 3200
    assert listing.shortened
    titled = read(ROW | {"title": "word " * 700}, max_characters=8000)
    assert titled.shortened and len(titled.text.split("\n")[0]) <= 3000
    marked = read(ROW | {"description": "<br>" * 5000 + "and this"}, max_characters=8000)
    assert marked.shortened and "and this" not in marked.text
    assert not read(ROW | {"description": "word " * 590}, max_characters=8000).shortened


def test_part_numbers_go_and_sizes_stay():
    text = read(
        ROW | {"description": "For XR2032BT9 and B07XYZ1234, 1920x1080, WATERPROOF 1000000"}
    )
    assert "For and , 1920x1080, WATERPROOF 1000000" in text.text


@pytest.mark.parametrize(
    "row",
    [
        {"features": [[[[[[["deep"]]]]]]]},
        {"features": "[" * 100_000},
        {"features": "[" * 10_000, "description": "{'a': " * 3_000},
        {"details": "{" * 5_000},
        {"details": '{"a": ' * 5_000 + "1" + "}" * 5_000},
        {"details": {"a": {"b": math.nan, "c": None, "d": 10**400, "e": True}}},
        {"description": "<!--" * 5_000},
        {"description": "<script>" * 5_000 + "&" * 9_000},
        {"description": '<a ="<a" ' * 5_000, "features": "<a" + "=''" * 9_000},
        {"description": "\ud83d \x00\x1b[2J\u202e", "features": "['\\d', '\\ud83d']"},
        {"description": {"a": [1, 2.5]}, "features": 7, "main_category": ["x"], "categories": {}},
        {"categories": [[["deep"]]], "main_category": None},
    ],
)
def test_hostile_fields_are_read_in_no_time_and_end_nothing(row):
    listing = read(ROW | row)
    assert isinstance(listing, Listing)
    listing.text.encode()
    assert not set("\x00\x1b\u202e") & set(listing.text)


def test_the_category_is_the_files_then_the_rows():
    assert read(ROW, "Appliances").category == "Appliances"
    assert (
        read(ROW | {"main_category": None, "categories": "['A &amp; B', 'C']"}).category == "A & B"
    )
    assert read(ROW | {"main_category": None}).category == ""


@pytest.mark.parametrize(
    ("weight", "pounds"),
    [("2 pounds", 2), ("8 Ounces", 0.5), ("1 kg", 2.2046), ("453.59237 g", 1), ("1.5 lbs", 1.5)]
    + [("50 Hundredths Pounds", 0.5), ("heavy", math.nan), (7, math.nan), ("3 stones", math.nan)],
)
def test_weights_are_pounds(weight, pounds):
    listing = read(ROW | {"details": {"Item Weight": weight}})
    assert listing.weight == pytest.approx(pounds, rel=1e-4, nan_ok=True)


def test_markup_is_what_begins_like_a_tag():
    assert plain("a <b>c</b> <!-- d --> 5 < 6 > 4 <style>p{}</style>e &lt;i&gt;f") == (
        "a c 5 < 6 > 4 e f"
    )
    assert plain(
        "<p title='a>b'>x</p> <img alt = \"5 > 4 < 6\" src=a>y <a href=\"b>z</a> it's"
    ) == ("x y z it's")
    for escapes in range(4):
        text = "<b>Nice</b> <script>alert(1)</script> 5 < 6"
        for _ in range(escapes):
            text = html.escape(text)
        assert plain(text) == "Nice 5 < 6"
    assert "<" not in plain("<b<i>>a<scr<i></i>ipt>alert(1)</scr<i></i>ipt>")


def test_money_is_told_from_other_numbers():
    text = "12 oz for $12, USD 13 or 14 dollars, price: 15, 16.00; v1.99, 1.2.3, 17.5 cm, $1,234.50"
    assert dollar_amounts(text) == {12, 13, 14, 15, 16, 1234.5}
    assert dollar_amounts("1,111," * 20_000) == set()  # in no time
    assert dollar_amounts("$.99, $12.5, a 1.5 l jug, .75 inch, US$ 3") == {0.99, 12.5, 3}
    text = "USD49.99, usd48, US$47, $46,99, a 45-dollar mug, 44\u2011dollar, costs 43, 10,12 or 14"
    assert dollar_amounts(text) == {49.99, 48, 47, 46.99, 45, 44, 43}
    assert dollar_amounts("$1,299.5, $1,299,99, $10,123") == {1299.5, 1299.99, 10123}
    assert tells_price("USD49.99", 49.99) and tells_price("only 49,99 $", 49.99)
    assert tells_price("for $.99", 0.99)
    assert tells_price("now $1,299!", 1299.0) and tells_price("19.99 today", 19.99)
    assert not tells_price("19.99 today", 19.98) and not tells_price("12 pieces", 12.0)
