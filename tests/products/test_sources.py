import json
from pathlib import Path

import pandas as pd
import pytest

from pricer.errors import ItemsError
from pricer.params import read_params
from pricer.products import catalog
from pricer.products.catalog_source import catalog_items
from pricer.products.file_source import file_items
from pricer.products.sources import fetch_items
from tests.conftest import ROOT

SIZES = {"train": 12, "validation": 4, "test": 4}


def rows(n: int, start: int = 0) -> list[dict]:
    return [
        {
            "title": f"Mug {i}",
            "category": "Kitchen",
            "price": 1 + i,
            "summary": f"A mug, number {i}",
        }
        for i in range(start, start + n)
    ]


def write(path: Path, records: list[dict]) -> Path:
    table = pd.DataFrame(records)
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
        case ".json":
            path.write_text(json.dumps(records))
        case ".csv":
            table.to_csv(path, index=False)
        case ".parquet":
            table.to_parquet(path)
    return path


def read(path: Path, on_invalid: str = "error"):
    return file_items(path, SIZES, seed=1, on_invalid=on_invalid, min_price=0.5, max_price=999.49)


def test_the_catalog_fills_its_splits_and_knows_noise_free_prices():
    splits, counts = catalog_items(SIZES, seed=1, noise=0.1, min_price=0.5, max_price=999.49)
    assert {split: len(items) for split, items in splits.items()} == SIZES
    assert counts["splits"]["test"]["n"] == 4
    assert (splits["test"]["noise_free_price"] > 0).all()


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_one_file_of_any_kind_gives_the_same_splits(tmp_path, suffix):
    splits, counts = read(write(tmp_path / f"mugs{suffix}", rows(30)))
    reference, _ = read(write(tmp_path / "reference.jsonl", rows(30)[::-1]))
    for split in SIZES:
        pd.testing.assert_frame_equal(splits[split], reference[split])
    assert counts["read"] == 30 and counts["unused"] == 10


def test_one_file_a_split_is_taken_as_it_is(tmp_path):
    write(tmp_path / "train.csv", rows(9) + rows(1))
    write(tmp_path / "validation.jsonl", rows(2, 10))
    write(tmp_path / "test.parquet", rows(3, 20))
    splits, counts = read(tmp_path)
    assert [len(splits[split]) for split in SIZES] == [9, 2, 3]
    assert counts["duplicates"] == 1


def test_split_files_that_share_products_are_an_error_or_parted(tmp_path):
    write(tmp_path / "train.jsonl", rows(9))
    write(tmp_path / "validation.jsonl", rows(2, 20))
    write(tmp_path / "test.jsonl", [rows(1)[0] | {"title": "MUG (3)", "summary": "another text"}])
    with pytest.raises(ItemsError, match="train and test share 1 products, the first is 'Mug 3'"):
        read(tmp_path)
    splits, counts = read(tmp_path, "drop")
    assert "Mug 3" not in set(splits["train"]["title"])
    assert counts["shared_between_splits"] == 1


def test_ids_that_files_share_are_told_as_ids(tmp_path):
    for number, split in enumerate(SIZES):
        records = [row | {"id": i} for i, row in enumerate(rows(5, 10 * number))]
        write(tmp_path / f"{split}.jsonl", records)
    for on_invalid in ("error", "drop"):  # other products: none is to be left out
        says = "train and validation share 5 ids of different products, the first is 0 .'Mug 0', 'M"
        with pytest.raises(ItemsError, match=says):
            read(tmp_path, on_invalid)


def test_products_that_look_the_same_are_not_in_two_splits(tmp_path):
    write(tmp_path / "train.jsonl", [*rows(9), rows(1)[0] | {"title": "A", "summary": "caf\u00e9"}])
    write(tmp_path / "validation.jsonl", rows(2, 20))
    write(tmp_path / "test.jsonl", [rows(1)[0] | {"title": "B", "summary": "cafe\u0301\u200b"}])
    with pytest.raises(ItemsError, match="train and test share 1 products"):
        read(tmp_path)


def test_a_folder_without_a_split_file_says_which(tmp_path):
    write(tmp_path / "train.jsonl", rows(9))
    with pytest.raises(ItemsError, match="must hold one validation file .*got none"):
        read(tmp_path)
    write(tmp_path / "train.csv", rows(9))
    with pytest.raises(ItemsError, match="must hold one train file .*got train.jsonl, train.csv"):
        read(tmp_path)


def test_price_texts_are_parsed(tmp_path):
    records = [record | {"price": f"${record['price']:,}.00"} for record in rows(30)]
    splits, _ = read(write(tmp_path / "a.csv", records))
    assert splits["train"]["price"].between(1, 30).all()


def test_fewer_products_than_asked_for(tmp_path):
    with pytest.raises(ItemsError, match="20 in all, but there are 5 usable"):
        read(write(tmp_path / "a.jsonl", rows(5)))


def test_what_was_left_out_is_told_where_too_few_are_left(tmp_path):
    dear = [row | {"price": 5000} for row in rows(25)]
    says = (
        "20 in all, but there are 0 usable distinct products in 25 rows .left out: 25 price "
        "outside min_price..max_price.: look at the prices, items.min_price and items.max_price"
    )
    with pytest.raises(ItemsError, match=says):
        read(write(tmp_path / "a.jsonl", dear))
    with pytest.raises(ItemsError, match="5 duplicates.: lower the split sizes$"):
        read(write(tmp_path / "a.jsonl", rows(10) + rows(5)))
    write(tmp_path / "train.jsonl", dear)
    write(tmp_path / "validation.jsonl", rows(2, 30))
    write(tmp_path / "test.jsonl", rows(2, 40))
    with pytest.raises(
        ItemsError, match="train.jsonl: no usable products left .left out: 25 price"
    ):
        read(tmp_path)


@pytest.mark.parametrize("given", [20, 19])
def test_noise_free_prices_are_kept_where_all_have_one(tmp_path, given):
    records = rows(20)
    for record in records[:given]:
        record["noise_free_price"] = record["price"] / 3
    items = read_params(ROOT / "params.yaml").items
    sizes = {f"{split}_size": size for split, size in SIZES.items()}
    path = str(write(tmp_path / "a.jsonl", records))
    files = items.files.model_copy(update=sizes | {"path": path})
    splits, record = fetch_items(items.model_copy(update={"source": "files", "files": files}))
    assert record.get("without_noise_free_price", 0) == 20 - given
    for products in splits.values():
        assert ("noise_free_price" in products) == (given == 20)


def test_a_price_range_that_no_product_of_the_catalogue_has_is_told(monkeypatch):
    monkeypatch.setattr(catalog, "MOST_ATTEMPTS", 100)
    with pytest.raises(ItemsError, match=r"of 100 products none costs \$5.001 to \$5.002"):
        catalog_items(SIZES, seed=1, noise=0.1, min_price=5.001, max_price=5.002)


def test_the_params_name_the_source_which_records_what_it_is(tmp_path):
    items = read_params(ROOT / "params.yaml").items
    sizes = {f"{split}_size": size for split, size in SIZES.items()}
    catalog = items.catalog.model_copy(update=sizes | {"seed": 5})
    splits, record = fetch_items(items.model_copy(update={"catalog": catalog}))
    assert {split: len(products) for split, products in splits.items()} == SIZES
    assert record["source"] == "catalog"
    assert record["origin"] == "the catalogue built into `pricer` (CC0), seed 5"
    path = str(write(tmp_path / "mugs.csv", rows(30)))
    files = items.files.model_copy(update=sizes | {"path": path, "seed": 1})
    splits, record = fetch_items(items.model_copy(update={"source": "files", "files": files}))
    pd.testing.assert_frame_equal(splits["test"], read(Path(path))[0]["test"])
    assert (record["source"], record["origin"]) == ("files", "the author's own files")
    assert record["read"] == 30 and "moved" not in record
