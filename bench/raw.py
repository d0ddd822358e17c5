"""Time and memory of making items from raw listings: `items.source: raw` on many of them.

    python -m bench.raw --listings 100000            # made up, from the catalogue
    python -m bench.raw --path meta_Appliances.jsonl.gz --train-size 10000

The listings that are made up have the fields of Amazon Reviews 2023, pictures included, 1,400
characters of text, and every twentieth a near-duplicate; every tenth cannot be used.
"""

import argparse
import json
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pricer.params import read_params
from pricer.products.catalog import generate_products
from pricer.products.raw_source import raw_items

UNUSABLE = ("None", "12.99 - 15.99", "\u20ac 12,00", "from $5", None, "4,500.00")
SENTENCES = 24  # of other products' descriptions: as much text as a long listing has


def listings(count: int) -> Iterator[dict[str, Any]]:
    """Yield listings made of catalogue products, in the form of the metadata."""
    draw = random.Random(1)
    products = list(generate_products(count, seed=1, noise=0.1, min_price=0.5, max_price=999.49))
    sentences = [str(product["summary"]).partition("Description: ")[2] for product in products]
    before: dict[str, Any] = {}
    for number, product in enumerate(products):
        if number % 20 == 19:  # the same, of another colour
            yield before | {"title": f"{before['title']} blue", "price": product["price"]}
            continue
        text = [line.replace("\n", " ") for line in draw.choices(sentences, k=SENTENCES)]
        price = (
            UNUSABLE[number // 10 % len(UNUSABLE)] if number % 10 == 4 else f"{product['price']}"
        )
        before = {
            "main_category": product["category"],
            "title": f"{product['title']} {number}",
            "average_rating": 4.5,
            "rating_number": number,
            "features": [f"<b>{line}</b>" for line in text[: SENTENCES // 3]],
            "description": [f"{' '.join(text[SENTENCES // 3 :])} &amp; more"],
            "price": price,
            "images": [{"large": f"https://pictures.example/{number}/{size}"} for size in range(6)],
            "videos": [],
            "store": "A shop",
            "categories": [product["category"]],
            "details": json.dumps(
                {"Brand": "A brand", "Item Weight": "2.5 pounds", "Item model number": f"X{number}"}
            ),
            "parent_asin": f"B{number:09}",
            "bought_together": None,
        }
        yield before


def write(file: Path, count: int) -> None:
    """Write listings that are made up."""
    with file.open("w") as stream:
        stream.writelines(json.dumps(listing) + "\n" for listing in listings(count))


def main() -> None:
    """Print what was read and kept, seconds and memory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--listings", type=int, default=100_000)
    parser.add_argument("--path", type=Path, help="a file or folder of listings, in place of those")
    parser.add_argument("--train-size", type=int, default=20_000)
    options = parser.parse_args()
    raw = read_params().items.raw
    sizes = {"train": options.train_size, "validation": 1000, "test": 1000}
    with tempfile.TemporaryDirectory() as folder:
        path = options.path or Path(folder) / "listings.jsonl"
        if not options.path:  # what makes them is not in this process's memory
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other_process:
                other_process.submit(write, path, options.listings).result()
        before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        started = time.perf_counter(), time.process_time()
        _, record = raw_items(path, sizes, seed=42, raw=raw, min_price=0.5, max_price=999.49)
        elapsed = time.perf_counter() - started[0], time.process_time() - started[1]
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(json.dumps({key: record[key] for key in ("read", "left_out", "raw")}, indent=1))
    print(
        f"{elapsed[0]:.1f} s ({elapsed[1]:.1f} s CPU), {record['read'] / elapsed[1]:,.0f} listings "
        f"a second; peak {peak_mib:.0f} MiB, {before_mib:.0f} before it began"
    )


if __name__ == "__main__":
    main()
