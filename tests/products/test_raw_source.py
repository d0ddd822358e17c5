"""Listings to splits of items: what is left out is counted, what is drawn follows the weights."""

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pricer.errors import ItemsError
from pricer.params import Raw, read_params
from pricer.products.items import SPLITS
from pricer.products.raw_source import category_of, raw_items, sampling_weights, weighted_draw
from pricer.products.sources import fetch_items
from pricer.stages import fetch_items as stage
from tests.conftest import ROOT
from tests.pipeline.conftest import set_params

SIZES = {"train": 12, "validation": 4, "test": 4}
RAW = Raw(
    min_characters=40,
    max_characters=4000,
    max_similarity=0.8,
    price_power=1.0,
    category_power=0.5,
)
WORDS = [f"word{n}" for n in range(2_000)]


def listings(n: int, seed: int = 0) -> list[dict]:
    draw = random.Random(seed)
    return [
        {
            "main_category": f"Shelf {number % 3}",
            "title": f"Mug {seed}-{number}",
            "features": [" ".join(draw.choices(WORDS, k=6)) for _ in range(3)],
            "description": [" ".join(draw.choices(WORDS, k=20))],
            "price": f"{1 + number:.2f}",
            "details": json.dumps({"Brand": f"Brand {number % 5}", "Item Weight": "2 pounds"}),
        }
        for number in range(n)
    ]


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    match path.suffix:
        case ".gz":
            path.write_bytes(gzip.compress(lines.encode()))
        case ".json":
            path.write_text(json.dumps(rows))
        case ".csv":  # lists as pandas writes them, as Python does
            pd.DataFrame(rows).to_csv(path, index=False)
        case ".parquet":
            pd.DataFrame(rows).to_parquet(path)
        case _:
            path.write_text(lines)
    return path


def read(path: Path, sizes: dict[str, int] = SIZES, seed: int = 1, **settings: float):
    raw = RAW.model_copy(update=settings)
    return raw_items(path, sizes, seed=seed, raw=raw, min_price=0.5, max_price=999.49)


def test_listings_become_items_in_splits(tmp_path):
    splits, record = read(write(tmp_path / "a.jsonl", listings(30)))
    assert {split: len(items) for split, items in splits.items()} == SIZES
    items = pd.concat(splits.values())
    assert list(items) == ["id", "title", "category", "price", "summary", "weight"]
    assert items["summary"].is_unique and items["id"].is_unique
    first = items.iloc[0]
    lines = first["summary"].split("\n")
    assert lines[0] == first["title"] and lines[3].startswith("Brand: Brand ")
    assert set(items["weight"]) == {2.0}
    assert record["read"] == 30 and record["unused"] == 10 and record["left_out"] == {}
    drawn = Counter(items["category"])
    assert record["raw"]["categories"] == {
        name: {"distinct": 10, "drawn": drawn[name]} for name in sorted(drawn)
    }


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json", "a.csv", "a.parquet", "A.JSONL.GZ"])
def test_files_of_every_kind_in_any_order_give_the_same(tmp_path, name):
    rows = listings(30)
    expected, _ = read(write(tmp_path / "reference.jsonl", rows))
    random.Random(name).shuffle(rows)
    file = write(tmp_path / name.lower(), rows)
    splits, _ = read(file.rename(tmp_path / name))
    for split in SPLITS:
        pd.testing.assert_frame_equal(splits[split], expected[split])


def test_everything_that_is_left_out_is_counted(tmp_path):
    rows = listings(40)
    changes: list[dict] = [
        {"price": "None"},
        {"price": None},
        {"price": "12.99 - 15.99"},
        {"price": "from $5"},
        {"price": "1.299,00 \u20ac"},
        {"price": "free"},
        {"price": "1,500.00"},
        {"title": "<b></b>"},
        {"description": [], "features": None, "details": None},
    ]
    for row, change in zip(rows, changes, strict=False):
        row.update(change)
    rows[20]["details"] = '{"cut": '
    rows[21]["description"] = [f"Only $22.00, {rows[21]['description'][0]}"]
    file = write(tmp_path / "a.jsonl", rows)
    repeated = [
        rows[30],  # word for word
        rows[31] | {"features": ["another"]},  # of the same title
        rows[32] | {"title": "Mug 0-32 blue", "price": 7},
        rows[32] | {"title": "Mug 0-32, red", "price": 8},
    ]
    with file.open("ab") as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in repeated).encode())
        stream.write(b'{"title": "cut\n[1, 2]\n\xff\xfe\n"text"\nnull\n')
    splits, record = read(file, max_similarity=0.7)
    assert record["read"] == 49
    assert record["left_out"] == {
        "no price": 2,
        "no readable row": 5,
        "no title": 1,
        "price is a range or a bound": 2,
        "price not in dollars": 1,
        "price not readable": 1,
        "price outside min_price..max_price": 1,
        "text shorter than min_characters": 1,
    }
    raw = record["raw"]
    assert raw["repeats"] == {"same title": 2, "same text": 0, "near-duplicate": 2}
    assert raw["details_unreadable"] == 1 and raw["price_in_text"] == 1
    drawn = sum(len(items) for items in splits.values())
    # every row is somewhere
    assert record["read"] == (
        sum(record["left_out"].values()) + record["duplicates"] + record["unused"] + drawn
    )


def test_at_a_similarity_of_one_a_word_makes_another_product(tmp_path):
    before, after = " ".join(WORDS[:200]), " ".join(WORDS[200:400])
    rows = [
        row | {"description": f"{before} only{n} {after}", "features": [], "details": None}
        for n, row in enumerate(listings(30))
    ]
    file = write(tmp_path / "a.jsonl", [*rows, rows[0]])
    _, record = read(file, max_similarity=1.0)
    assert record["raw"]["repeats"] == {"same title": 1, "same text": 0, "near-duplicate": 0}
    with pytest.raises(ItemsError, match="there are 1 usable"):
        read(file, max_similarity=0.8)


def test_where_nothing_is_left_the_reason_that_took_most_is_told(tmp_path):
    rows = [row | {"price": "None"} for row in listings(30)]
    rows[3]["price"] = "5000"
    with pytest.raises(ItemsError) as error:
        read(write(tmp_path / "a.jsonl", rows))
    assert str(error.value).startswith(
        f"{tmp_path}/a.jsonl: train 12, validation 4, test 4 asked for, 20 in all, but there are 0 "
        "usable distinct products in 30 listings (left out: 29 no price, 1 price outside "
        "min_price..max_price); most fail for: no price: "
    )
    with pytest.raises(
        ItemsError, match="are 1 usable .*30 listings .*: 29 same title.; most fail"
    ):
        read(write(tmp_path / "a.jsonl", listings(1) * 30))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.jsonl", None, "missing.jsonl: no such file or folder .items.files.path"),
        ("a.jsonl", b"\n", "a.jsonl: no products in it"),
        ("a.jsonl.gz", gzip.compress(b"{}\n" * 9999)[:-9], "a.jsonl.gz: not a readable gzip file"),
        ("a.jsonl.gz", b"{}", "a.jsonl.gz: not a readable gzip file"),
        ("a.txt", b"a mug\n", "0 usable distinct products in 1 listings .*no title"),
        ("folder/a.xlsx", b"PK", "folder: holds no file that ends in .jsonl, .json"),
    ],
)
def test_files_that_cannot_be_read_end_in_one_line(tmp_path, name, content, says):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ItemsError, match=says) as error:
        read(path if path.parent == tmp_path else path.parent)
    assert "\n" not in str(error.value)


def test_a_full_temporary_folder_is_named(tmp_path):
    """A limit on the size of files stands for a full disk: the system's own error, by way of Arrow.

    In a process of its own, which it does not outlive.
    """
    file = write(tmp_path / "a.jsonl", listings(300))
    code = (
        "import resource, sys; from pathlib import Path; from tests.products import test_raw_source"
        "\nresource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))"
        "\ntest_raw_source.read(Path(sys.argv[1]))"
    )
    (tmp_path / "full").mkdir()
    failed = subprocess.run(
        [sys.executable, "-c", code, str(file)],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path / "full")},
        capture_output=True,
        text=True,
    )
    assert f"PricerError: no disk space left in {tmp_path}/full, where" in failed.stderr
    assert not list((tmp_path / "full").iterdir())


def test_a_folder_is_read_whole_and_names_of_files_are_categories(tmp_path):
    write(tmp_path / "meta_Appliances.jsonl.gz", listings(12, seed=1))
    write(tmp_path / "raw_meta_Pet_Supplies/full-00000-of-00001.parquet", listings(12, seed=2))
    write(tmp_path / "others.csv", listings(12, seed=3))
    (tmp_path / "README.md").write_text("no listings")
    _, record = read(tmp_path)
    assert record["read"] == 36 and record["raw"]["files"] == 3
    shelves = {"Shelf 0", "Shelf 1", "Shelf 2"}
    assert set(record["raw"]["categories"]) == shelves | {"Appliances", "Pet_Supplies"}
    assert category_of(Path("data/products.jsonl")) == ""


def test_a_seed_draws_the_same_and_another_others(tmp_path):
    file = write(tmp_path / "a.jsonl", listings(60))
    drawn = [set(pd.concat(read(file, seed=seed)[0].values())["id"]) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def probability(weights: list[float], size: int) -> np.ndarray:
    """Of each to be among `size` that are drawn one after another, over all ways to do so."""
    chances = np.zeros(len(weights))
    for order in permutations(range(len(weights)), size):
        chance, left = 1.0, sum(weights)
        for one in order:
            chance *= weights[one] / left
            left -= weights[one]
        chances[list(order)] += chance
    return chances


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_draw_follows_the_weights(size):
    weights = [0.001, 1.0, 2.0, 3.0, 10.0]
    draws, rng = 20_000, np.random.default_rng(size)
    counts = np.zeros(len(weights))
    for uniforms in rng.uniform(size=(draws, len(weights))):
        chosen = weighted_draw(np.array(weights), uniforms, size)
        assert len(set(chosen)) == size
        counts[chosen] += 1
    expected = probability(weights, size)
    error = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(counts / draws - expected) < 4.5 * error + 1e-9).all()


def test_weights_are_those_of_prices_and_categories():
    prices, categories = np.array([1.0, 2.0, 4.0, 4.0]), np.array([0, 0, 0, 7])
    power = {"price_power": 2.0, "category_power": 1.0}
    weights = sampling_weights(prices, categories, RAW.model_copy(update=power))
    assert weights / weights[0] == pytest.approx([1, 4, 16, 48])
    alike = {"price_power": 0.0, "category_power": 0.0}
    assert (sampling_weights(prices, categories, RAW.model_copy(update=alike)) == 1).all()


def test_shares_of_prices_and_categories_are_as_asked_for(tmp_path):
    """End to end: 2,000 listings, of which one in ten is of the small category."""
    rows = listings(2_000)
    for number, row in enumerate(rows):
        row["main_category"] = "small" if number % 10 == 0 else "large"
        row["price"] = 100 if number % 3 == 0 else 50
    file = write(tmp_path / "a.jsonl", rows)
    sizes = {"train": 80, "validation": 10, "test": 10}
    draws = [
        pd.concat(read(file, sizes, seed, price_power=1.0, category_power=1.0)[0].values())
        for seed in range(4)
    ]
    items = pd.concat(draws)
    # of 400 draws the standard error is 0.025; half are of each category, half of each price
    assert (items["category"] == "small").mean() == pytest.approx(0.5, abs=0.1)
    assert (items["price"] == 100).mean() == pytest.approx(0.5, abs=0.1)
    uniform = read(file, {"train": 380, "validation": 10, "test": 10}, price_power=0.0)
    assert uniform[1]["raw"]["categories"]["small"]["distinct"] == 200


def test_the_stage_makes_items_of_the_example(tmp_path, monkeypatch, capsys):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copy(ROOT / "examples/listings.jsonl", tmp_path)
    set_params(
        tmp_path,
        {
            "items.source": "raw",
            "items.files.path": "listings.jsonl",
            "items.raw.min_characters": 150,
        },
    )
    monkeypatch.chdir(tmp_path)
    stage.main(Path("items"), Path("items.json"))
    assert "raw: 87 products read, train 40, validation 10, test 10" in capsys.readouterr().out
    record = json.loads(Path("items.json").read_text())
    assert record["source"] == "raw" and record["duplicates"] == 3
    assert len(pd.read_parquet("items/train.parquet")) == 40
    before = Path("items/train.parquet").read_bytes()
    set_params(tmp_path, {"items.raw.min_characters": 3000})
    with pytest.raises(ItemsError, match="most fail for: text shorter than min_characters"):
        stage.main(Path("items"), Path("items.json"))
    assert Path("items/train.parquet").read_bytes() == before
    _, again = fetch_items(read_params().items.model_copy(update={"source": "catalog"}))
    assert "raw" not in again
