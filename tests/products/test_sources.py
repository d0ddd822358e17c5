import json
from pathlib import Path

import pandas as pd
import pytest

from pricer.errors import ItemsError
from pricer.products.sources import catalog_items, file_items, read_products

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


def test_a_byte_order_mark_is_no_text(tmp_path):
    for name in ("a.jsonl", "a.csv"):
        file = write(tmp_path / name, rows(3))
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
        assert list(read_products(file)) == ["title", "category", "price", "summary"]


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


def test_a_folder_without_a_split_file_says_which(tmp_path):
    write(tmp_path / "train.jsonl", rows(9))
    with pytest.raises(ItemsError, match="must hold one validation file .*got none"):
        read(tmp_path)
    write(tmp_path / "train.csv", rows(9))
    with pytest.raises(ItemsError, match="must hold one train file .*got train.jsonl, train.csv"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "no products in it"),
        ("a.jsonl", b"\n\n", "no products in it"),
        ("a.json", b"", "no products in it"),
        ("a.csv", b"", "no products in it"),
        ("a.csv", b"title,category,price,summary\n", "no products in it"),
        ("a.parquet", b"", "not a readable parquet file"),
        ("a.jsonl", b'{"title": "a"}\n{"title": "b', "line 2: not valid JSON .* complete"),
        ("a.json", b'[{"title": "a"}, {"ti', "not valid JSON .* complete"),
        ("a.json", b'{"title": "a"}', "must hold objects with the item columns"),
        ("a.jsonl", b"[1, 2]\n", "must hold objects with the item columns"),
        ("a.csv", b'title,category,price,summary\n"a,b', "not a readable csv file .*complete"),
        ("a.jsonl", b'{"title": "caf\xe9"}\n', "not UTF-8 text .byte 14."),
        ("a.csv", b"title\ncaf\xe9\n", "not UTF-8 text"),
        ("a.jsonl", b"\x89PNG\r\n\x1a\n\x00\x00", "not UTF-8 text|not valid JSON"),
        ("a.parquet", b"PAR1 and then nothing", "not a readable parquet file .*complete"),
        ("a.xlsx", b"PK", "unknown file type, must end in .jsonl"),
    ],
)
def test_broken_files_end_in_one_line(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ItemsError, match=message) as error:
        read(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_and_a_truncated_parquet_file(tmp_path):
    with pytest.raises(ItemsError, match="nowhere.csv: no such file"):
        read(tmp_path / "nowhere.csv")
    file = write(tmp_path / "a.parquet", rows(500))
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ItemsError, match="not a readable parquet file"):
        read(file)


def test_price_texts_are_parsed(tmp_path):
    records = [record | {"price": f"${record['price']:,}.00"} for record in rows(30)]
    splits, _ = read(write(tmp_path / "a.csv", records))
    assert splits["train"]["price"].between(1, 30).all()


def test_fewer_products_than_asked_for(tmp_path):
    with pytest.raises(ItemsError, match="20 in all, but there are 5 usable"):
        read(write(tmp_path / "a.jsonl", rows(5)))
