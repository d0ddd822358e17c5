"""The built-in catalogue: realistic products with known noise-free prices, CC0, made from a seed.

A product is a family (what it is) with a brand and specifications, each of which moves the price by
a known factor. The text states every one of these facts once, in one of many wordings. The price
that is asked is the noise-free price times log-normal noise, rounded to a charm price, so the error
of a perfect reader of the text is known too.
"""

import itertools
import random
import string
from collections.abc import Iterator

from pricer.errors import ItemsError
from pricer.products.families import BRANDS, CATALOG

# What a seller says of a product that is not new, and what it does to a price.
CONDITIONS = {
    "Renewed|Refurbished|Factory refurbished": 0.79,
    "Open box|Opened, never used": 0.89,
    "Used - good|Pre-owned, good condition|Second hand, works well": 0.66,
}

SELLING_POINTS = (
    "easy to clean", "backed by a two-year warranty", "ready to use out of the box",
    "a thoughtful gift", "made for everyday use", "designed with care", "simple to set up",
    "compact and easy to store", "a favourite with our customers", "sturdy and well balanced",
    "quiet and dependable", "made to last", "for beginners and professionals alike",
)  # fmt: skip

MOST_ATTEMPTS = 20_000  # a second: one of a thousand products costs $900 and more

OPENINGS = (
    "{Noun} with {facts}.",
    "With {facts}.",
    "This {noun} comes with {facts}.",
    "{Point}: {a_noun} with {facts}.",
    "{A_noun} you can rely on, {point}. {Facts}.",
    "{Facts}. {Point}.",
    "Looking for {a_noun}? This one: {facts}, {point}.",
)


_FAMILIES = [(category, kind) for category, kinds in CATALOG.items() for kind in kinds]
# a few kinds make up most of what a shop sells: a category's first ones are its best sellers
_POPULARITY = list(
    itertools.accumulate(
        1 / place**2 for kinds in CATALOG.values() for place in range(1, len(kinds) + 1)
    )
)
_CATEGORY_BRANDS = {
    # every category has brands of every tier, but not the same ones
    category: [brand for place, brand in enumerate(BRANDS) if (place + number) % 5 < 2]
    for number, category in enumerate(CATALOG)
}


def generate_products(
    n: int, *, seed: int, noise: float, min_price: float, max_price: float
) -> Iterator[dict[str, str | float]]:
    """Yield `n` products, the same for the same arguments; more of them only adds to the end.

    Args:
        n: how many.
        seed: of everything random.
        noise: standard deviation of log(price / noise-free price), 0 for none.
        min_price: USD; a product that falls below is made anew.
        max_price: USD; a product that falls above is made anew.

    Yields:
        title, category, price (USD), summary (the five lines of text), noise_free_price (USD).

    Raises:
        ItemsError: hardly any product has such a price.
    """
    for number in range(n):
        rng = random.Random(f"{seed}/{number}")
        attempts = (_product(rng, noise) for _ in range(MOST_ATTEMPTS))
        product = next((p for p in attempts if min_price <= float(p["price"]) <= max_price), None)
        if product is None:
            raise ItemsError(
                f"catalog: of {MOST_ATTEMPTS:,} products none costs ${min_price} to ${max_price}: "
                "set items.min_price and items.max_price further apart"
            )
        yield product


def _product(rng: random.Random, noise: float) -> dict[str, str | float]:
    [(category, kind)] = rng.choices(_FAMILIES, cum_weights=_POPULARITY)
    brand = rng.choice(_CATEGORY_BRANDS[category])
    noun = rng.choice(kind.names.split("|"))
    noise_free = kind.price * BRANDS[brand]
    facts: list[tuple[str, str]] = []
    for spec in kind.specs:
        value = rng.choice(list(spec.factors))
        noise_free *= spec.factors[value]
        if not (spec.unit == "pack" and value == 1):
            facts.append((spec.label, spec.wording(value, rng)))
    if rng.random() < 0.12:
        condition = rng.choice(list(CONDITIONS))
        noise_free *= CONDITIONS[condition]
        facts.append(("Condition", rng.choice(condition.split("|"))))
    if kind.accessory_of:
        facts.append(("Compatible with", _host(category, kind.accessory_of, rng)))
    rng.shuffle(facts)
    series = f"{''.join(rng.choices(string.ascii_uppercase, k=2))}{rng.randrange(100, 1000)}"

    # each fact is told once: in the title, the description or the details
    in_title = [facts.pop()] if facts and rng.random() < 0.6 else []
    cut = rng.randrange(len(facts) + 1)
    title = _title(brand, series, noun, in_title, rng)
    description = _description(noun, facts[:cut], rng)
    details = _details(facts[cut:], rng)
    return {
        "title": title,
        "category": category,
        "price": charm_price(noise_free * rng.lognormvariate(0, noise)),
        "summary": (
            f"Title: {title}\nCategory: {category}\nBrand: {brand}\n"
            f"Description: {description}\nDetails: {details}"
        ),
        "noise_free_price": noise_free,
    }


def _host(category: str, name: str, rng: random.Random) -> str:
    """Name a product that an accessory fits, told like a product but not sold here."""
    host = next(kind for kind in CATALOG[category] if kind.names.split("|")[0] == name)
    spec = rng.choice(host.specs)
    fact = spec.wording(rng.choice(list(spec.factors)), rng)
    brand = rng.choice(_CATEGORY_BRANDS[category])
    return f"{brand} {rng.choice(host.names.split('|'))} {fact} ({name} not included)"


def _title(
    brand: str, series: str, noun: str, facts: list[tuple[str, str]], rng: random.Random
) -> str:
    fact = f", {_told(*facts[0], rng)}" if facts else ""
    if rng.random() < 0.5:
        return f"{brand} {series} {_capitalized(noun)}{fact}"
    return f"{_capitalized(noun)} {brand} {series}{fact}"


def _description(noun: str, facts: list[tuple[str, str]], rng: random.Random) -> str:
    point = rng.choice(SELLING_POINTS)
    if not facts:
        return f"{_capitalized(point)}."
    told = ", ".join(_told(*fact, rng) for fact in facts)
    words = {"noun": noun, "a_noun": _with_article(noun), "facts": told, "point": point}
    return rng.choice(OPENINGS).format(
        **words, **{_capitalized(k): _capitalized(w) for k, w in words.items()}
    )


def _details(facts: list[tuple[str, str]], rng: random.Random) -> str:
    style = rng.choice(("{}: {}", "{} - {}", "{} {}"))
    separator = rng.choice(("; ", " | ", ", "))
    told = [style.format(label, wording) for label, wording in facts]
    return separator.join(told) or "see description"


def _told(label: str, wording: str, rng: random.Random) -> str:
    """Say a fact in running text: what it fits, a quantity with or without its name."""
    if label == "Compatible with":
        return f"fits {wording}"
    speaks_for_itself = (
        label in ("Condition", "Quantity", "Count")
        or label.endswith("s")
        or label.split()[0].lower() in wording
    )
    named = not speaks_for_itself and rng.random() < 0.5
    return f"{wording} {label.lower()}" if named else wording


def _with_article(noun: str) -> str:
    if noun.endswith("s") and not noun.endswith(("ss", "us")):  # headphones, boots
        return noun
    vowel = noun[0] in "aeio" or noun.startswith(("LED", "SSD", "HDMI", "RC"))
    return f"{'an' if vowel else 'a'} {noun}"


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def charm_price(price: float) -> float:
    """Return a shop's price: .49 or .99 when low, a multiple of 5 less a cent when high."""
    if price < 10:
        return max(round(price * 2) / 2 - 0.01, 0.49)
    if price < 200:
        return round(price) - 0.01
    return round(price / 5) * 5 - 0.01
