"""Listings as shops have them, one by one: parsed, cleaned, and held against bounds.

Their form is that of the metadata of Amazon Reviews 2023 (Hou et al. 2024, arXiv 2403.03952); the
steps are those of week 6 of the course. docs/raw-listings.md says what is done otherwise.
"""

import ast
import html
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any

from pricer.params import Raw
from pricer.products.items import CENT, LONGEST_PRICE, OUTSIDE, clean_text, parse_amount
from pricer.products.readers import Row

FIELDS = ("title", "price", "description", "features", "details", "main_category", "categories")

# reasons; metrics/items.json counts them
NO_TITLE = "no title"
NO_PRICE = "no price"
OTHER_CURRENCY = "price not in dollars"
RANGE = "price is a range or a bound"
UNREADABLE_PRICE = "price not readable"
SHORT = "text shorter than min_characters"

LONGEST_FIELD = 20_000  # characters of markup that are looked at
LONGEST_PART = 3_000  # characters that title, description, features or details add to a text
LONGEST_WORD = 50
MOST_ROUNDS = 5  # of escapes, and of tags, in one another
DEEPEST = 4  # lists and objects in one another

# what tells a warehouse about a product and a reader nothing; in small letters
NOT_TOLD = {
    "asin",
    "batteries included?",
    "batteries required?",
    "best sellers rank",
    "customer reviews",
    "date first available",
    "is discontinued by manufacturer",
    "item model number",
    "list price",
    "manufacturer part number",
    "model number",
    "part number",
    "price",
    "upc",
}
_NOTHING = {"", "-", "--", "\u2013", "\u2014", "none", "null", "nan", "n/a", "na"}
_OTHER_CURRENCY = re.compile(
    "[\u00a3\u00a5\u20a0-\u20bf]|\\b(?:AUD|CAD|CHF|CNY|EUR|GBP|INR|JPY|MXN)\\b"
    "|\\b(?:A|AU|C|CA|CDN|HK|NZ)\\s?\\$",
    re.IGNORECASE,
)
_RANGE = re.compile(
    r"\d[\d,.]*\s*(?:USD|\$)?\s*(?:-|\u2013|\u2014|~|to|/)\s*(?:USD?)?\s*\$?\s*\.?\d", re.IGNORECASE
)
_BOUND = re.compile(r"^\W*(?:from|under|over|up to|starting|as low as|[<>~])|\+$", re.IGNORECASE)
_SKIPPED = re.compile(
    r"<!--.{0,4000}?-->|<(script|style)\b.{0,4000}?</\1\s*>"
    # quotes after = hold anything; once read, nothing is read again in another way
    r"|</?[a-z!](?>(?:[^<>=]|=\s*\"[^\"]*\"|=\s*'[^']*'|=)*)>",
    re.DOTALL | re.IGNORECASE,
)
# capitals and digits, both, seven or more: a number that only its maker knows
_PART_NUMBER = re.compile(r"\b(?=[A-Z]*\d)(?=\d*[A-Z])[A-Z\d]{7,}\b")
_WEIGHT = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-z]+(?: pounds)?)", re.IGNORECASE)
_POUNDS = {
    "pound": 1.0,
    "lb": 1.0,
    "ounce": 1 / 16,
    "oz": 1 / 16,
    "gram": 1 / 453.59237,
    "g": 1 / 453.59237,
    "milligram": 1 / 453_592.37,
    "kilogram": 1 / 0.45359237,
    "kg": 1 / 0.45359237,
    "hundredths pound": 0.01,
}
# amounts, which begin within no word but USD and no other number, and what stands around money
_AMOUNT = re.compile(
    r"(?:(?<![\w.,])|(?<=USD))(?:(?:\d{1,3}(?:,\d{3})+|\d{1,9})([.,]\d\d|\.\d)?|\.\d\d)"
    r"(?!\d|[.,]\d)",
    re.IGNORECASE,
)
_BEFORE_MONEY = re.compile(
    r"(?:\$|USD|\b(?:priced?|costs?)(?:\s(?:is|at|of))?:?)\s*$", re.IGNORECASE
)
_AFTER_MONEY = re.compile(r"[\s\u2010\u2011-]?(?:dollars?|bucks|USD|\$)", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*|\.\d+")
_AROUND = 12  # characters of that


@dataclass(frozen=True)
class Listing:
    """A listing that can be an item.

    Attributes:
        title: of the product.
        category: "" where nothing says it.
        price: USD.
        text: title, description, features and details, a line each.
        weight: pounds, NaN where it is not told.
        details_unreadable: its details are no object, and none of them is in the text.
        shortened: the text, or one of its parts, was longer.
    """

    title: str
    category: str
    price: float
    text: str
    weight: float
    details_unreadable: bool
    shortened: bool


def read_listing(
    row: Row, category: str, bounds: Raw, *, min_price: float, max_price: float
) -> Listing | str:
    """Return what a row lists, or the reason why that can be no item.

    Args:
        row: FIELDS; lists and objects may be the text of one as JSON or Python writes it.
        category: what its file says; "" leaves it to the row.
        bounds: of the text.
        min_price: USD.
        max_price: USD.
    """
    title = plain(row.get("title"))
    if not title:
        return NO_TITLE
    price = read_price(row.get("price"))
    if isinstance(price, str):
        return price
    if not max(min_price, CENT) <= price <= max_price:
        return OUTSIDE
    details = read_details(row.get("details"))
    parts = _parts(row, details or {})
    lines = [plain(part) for part in parts]
    whole = _in_lines(_shortened(line, LONGEST_PART) for line in lines)
    text = _shortened(whole, bounds.max_characters)
    if len(text) < bounds.min_characters:
        return SHORT
    return Listing(
        title=title,
        category=category or _category(row),
        price=price,
        text=text,
        weight=_weight(details or {}),
        details_unreadable=details is None,
        shortened=text != whole
        or any(len(part) > LONGEST_FIELD for part in parts)
        or any(len(line) > LONGEST_PART for line in lines),
    )


def _parts(row: Row, details: dict[str, Any]) -> list[str]:
    """Return title, description, features and details, with their markup."""
    told = ((key, ", ".join(_texts(inner))) for key, inner in details.items())
    return [
        str(row["title"]),
        *(" ".join(_texts(_parsed(row.get(key)))) for key in ("description", "features")),
        "; ".join(f"{key}: {text}" for key, text in told if text and _tells_something(key)),
    ]


def _in_lines(parts: Iterable[str]) -> str:
    """Return texts as a line each, without part numbers."""
    return "\n".join(filter(None, map(_without_part_numbers, parts)))


def _without_part_numbers(line: str) -> str:
    return _PART_NUMBER.sub("", line).replace("  ", " ").strip()


def read_price(value: object) -> float | str:
    """Return a price in USD, or the reason why it is none.

    A range is refused: nobody knows which of its ends the text is about.

    >>> read_price("$1,299.00"), read_price("12.99 - 15.99"), read_price("1.299,00 \u20ac")
    (1299.0, 'price is a range or a bound', 'price not in dollars')
    """
    if isinstance(value, Real) and not isinstance(value, bool) and math.isnan(value):
        return NO_PRICE
    text = " ".join(value.split())[:LONGEST_PRICE] if isinstance(value, str) else ""
    if value is None or (isinstance(value, str) and text.lower() in _NOTHING):
        return NO_PRICE
    price = parse_amount(value)
    if price is not None:
        return round(price, 2)
    if _OTHER_CURRENCY.search(text):
        return OTHER_CURRENCY
    if _RANGE.search(text) or _BOUND.search(text):
        return RANGE
    return UNREADABLE_PRICE


def read_details(value: object) -> dict[str, Any] | None:
    """Return the details of a listing by name; None for what is no object, nor the text of one."""
    if isinstance(value, str) and value.strip().lower() in _NOTHING:
        return {}
    found = _parsed(value)
    if found is None:
        return {}
    return {str(key): inner for key, inner in found.items()} if isinstance(found, dict) else None


def plain(value: object) -> str:
    """Return text without markup, entities and control characters, in one line.

    >>> plain("<p>Fish &amp;amp; chips,<br/>5&quot; x 3 &lt; 4</p>")
    'Fish & chips, 5" x 3 < 4'
    """
    if not isinstance(value, str):
        return ""
    text = value[:LONGEST_FIELD]
    if "&" in text:  # escaped twice, as happens between shops
        text = _settled(html.unescape, text)
    if "<" in text:  # what is left of one tag in another may be a tag
        text = _settled(partial(_SKIPPED.sub, " "), text)
    return " ".join(clean_text(text).split())


def _settled(change: Callable[[str], str], text: str) -> str:
    """Return a text changed until that changes nothing more, MOST_ROUNDS times at most."""
    for _ in range(MOST_ROUNDS):
        before, text = text, change(text)
        if text == before:
            break
    return text


def tells_price(text: str, price: float) -> bool:
    """Tell whether a text tells a price in USD, to the cent."""
    dollars = int(price)
    named = (
        not dollars or f"{dollars}" in text or f"{dollars:,}" in text
    )  # soon said, and seldom true
    return named and price in dollar_amounts(text)


def dollar_amounts(text: str) -> set[float]:
    """Return the amounts of money that a text tells in digits, in dollars.

    Money is what a dollar sign, USD, "dollar" or "price" stands beside, and what has cents.

    >>> sorted(dollar_amounts("12 pieces for $1,299, once 1400.50, a 49-dollar mug, USD7, $12,99"))
    [7.0, 12.99, 49.0, 1299.0, 1400.5]
    """
    return {
        _dollars(match)
        for match in _AMOUNT.finditer(text)
        if _has_cents(match) or _is_money(match, text)
    }


def tells_dollars_of(text: str, price: float, source: str) -> bool:
    """Tell whether a text has a number that its source has not, and that is a price in USD.

    To the cent, or in whole dollars, above or below: "costs 49" tells 49.99 and 48.60.
    """
    prices = {math.floor(price), math.ceil(price), round(price, 2)}
    return not prices.isdisjoint(_numbers(text) - _numbers(source))


def _numbers(text: str) -> set[float]:
    """Return the numbers in a text; 1,299 and 1.299 may be two."""
    found = set[float]()
    for match in _NUMBER.finditer(text):
        *whole, last = re.split("[.,]", match[0])
        found.add(float("".join(whole) + "." + last) if whole else float(last))
        if len(last) == 3:
            found.add(float("".join(whole) + last))
    return found


def _dollars(match: re.Match[str]) -> float:
    """Return an amount; a comma before its last two digits is a point."""
    whole = match[0].removesuffix(match[1] or "").replace(",", "")
    return float(whole + (match[1] or "").replace(",", "."))


def _has_cents(match: re.Match[str]) -> bool:
    return (match[1] or "").startswith(".") and len(match[1]) == 3


def _is_money(match: re.Match[str], text: str) -> bool:
    before = text[max(match.start() - _AROUND, 0) : match.start()]
    return bool(_BEFORE_MONEY.search(before) or _AFTER_MONEY.match(text, match.end()))


def _parsed(value: object) -> Any:
    """Return what a text of a list or an object holds; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    if len(value) > LONGEST_FIELD:
        return value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of backslashes that Python does not know
            return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    """Yield the texts in a value, however lists and objects hold them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict) and depth < DEEPEST:
        for key, inner in value.items():
            yield f"{key}: {' '.join(_texts(inner, depth + 1))}"
    elif isinstance(value, list | tuple) and depth < DEEPEST:
        for inner in value:
            yield from _texts(inner, depth + 1)
    elif isinstance(value, bool):
        yield "yes" if value else "no"
    elif isinstance(value, int | float) and abs(value) < 1e15:  # NaN is not
        yield f"{value:.15g}"


def _tells_something(key: str) -> bool:
    return key.strip(" :").lower() not in NOT_TOLD


def _shortened(text: str, longest: int) -> str:
    """Return `text` cut where a word ends, if one does not far from where it has to."""
    if len(text) <= longest:
        return text
    end = max(text.rfind(" ", 0, longest + 1), text.rfind("\n", 0, longest + 1))
    return text[: end if longest - end < LONGEST_WORD else longest].rstrip()


def _category(row: Row) -> str:
    """Return the shop's department, else the first of the categories."""
    return plain(row.get("main_category")) or plain(
        next(_texts(_parsed(row.get("categories"))), "")
    )


def _weight(details: dict[str, Any]) -> float:
    """Return the weight that details tell, in pounds; NaN where they tell none."""
    match = _WEIGHT.match(plain(details.get("Item Weight")))
    pounds = _POUNDS.get(match[2].lower().rstrip("s")) if match else None
    return float(match[1]) * pounds if match and pounds else math.nan
