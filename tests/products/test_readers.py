"""Every file of products, through both doors: training's and that of `pricer predict --file`."""

import csv
import gzip
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pricer.commands import bulk
from pricer.errors import ItemsError
from pricer.products import readers
from pricer.products.file_source import file_items, read_products
from pricer.products.parts import plan
from pricer.products.readers import SUFFIXES, read_rows, read_tables, rows_or_errors

PRODUCTS = [
    {"title": "Mug", "category": "Kitchen", "price": "4.50", "summary": 'A mug, 5" wide,\n“blue”'},
    {"title": "Kettle", "category": "", "price": "$1,039.00", "summary": "A kettle 🫖"},
    {"title": "Lampe", "category": "Büro", "price": "", "summary": "NA"},
]
MARK = b"\xef\xbb\xbf"
HEADER = b"title,category,price,summary\n"
LINE = b'{"title": "a", "category": "b", "price": 1, "summary": "c"}'


def train(path: Path) -> None:
    sizes = {"train": 1, "validation": 1, "test": 1}
    file_items(path, sizes, seed=1, on_invalid="error", min_price=0.5, max_price=9999)


def predict(path: Path) -> None:
    bulk.predict_file(
        path, path.with_name("out.jsonl"), lambda: (lambda rows: rows, {}), resume=False
    )


def rows_to_predict(path: Path) -> list[dict]:
    rows = [row for _, row in read_rows(path)]
    assert list(bulk.read_rows(path)) == [bulk.product_of(row) for row in rows]
    return rows


@dataclass
class Door:
    """A way in: `rows` gives those of a file, `use` what is made of them."""

    rows: Callable[[Path], list[dict]]
    use: Callable[[Path], None]


TRAINING = Door(lambda path: read_products(path).to_dict("records"), train)
PREDICTION = Door(rows_to_predict, predict)


@pytest.fixture(params=[TRAINING, PREDICTION], ids=["training", "prediction"])
def door(request) -> Door:
    return request.param


def csv_text(products: list[dict], between: str = "") -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(products[0]), lineterminator="\n" + between)
    writer.writeheader()
    writer.writerows(products)
    return stream.getvalue()


def write(path: Path, products: list[dict] = PRODUCTS, between: str = "") -> Path:
    """Write products, in files of lines with `between` after each."""
    match path.suffix:
        case ".parquet":
            pd.DataFrame(products).to_parquet(path)
        case ".json":
            path.write_text(json.dumps(products, indent=1), encoding="utf-8")
        case ".csv":
            path.write_text(csv_text(products, between), encoding="utf-8")
        case ".jsonl":
            lines = [json.dumps(row, ensure_ascii=False) + "\n" + between for row in products]
            path.write_text("".join(lines), encoding="utf-8")
        case ".txt":
            lines = [row["summary"].replace("\n", " ") + "\n" + between for row in products]
            path.write_text("".join(lines), encoding="utf-8")
    return path


def assert_products(rows: list[dict], suffix: str) -> None:
    if suffix == ".txt":
        assert rows == [{"summary": row["summary"].replace("\n", " ")} for row in PRODUCTS]
    else:
        unix = [{key: value.replace("\r\n", "\n") for key, value in row.items()} for row in rows]
        assert unix == PRODUCTS


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("mark", [b"", MARK], ids=["", "byte-order mark"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("between", ["", "\n  \n"], ids=["", "blank lines"])
def test_both_doors_read_the_same_of_every_file(tmp_path, door, suffix, mark, newline, between):
    file = write(tmp_path / f"a{suffix}", between=between)
    if suffix != ".parquet":
        file.write_bytes(mark + file.read_bytes().replace(b"\n", newline))
    if suffix == ".txt" and door is TRAINING:
        with pytest.raises(
            ItemsError, match="a.txt: a text file has no prices, must end in .jsonl"
        ):
            door.rows(file)
    else:
        assert_products(door.rows(file), suffix)


def test_products_to_train_on_come_from_no_pipe(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(ItemsError, match="a.jsonl: no file .items.files.path"):
        read_products(tmp_path / "a.jsonl")


def test_capital_suffixes_are_the_same(tmp_path, door):
    assert_products(door.rows(write(tmp_path / "a.csv").rename(tmp_path / "A.CSV")), ".csv")


def test_a_compressed_file_of_lines_is_read_or_told(tmp_path, door):
    packed, file = gzip.compress(write(tmp_path / "a.jsonl").read_bytes()), tmp_path / "b.jsonl.gz"
    file.write_bytes(packed)
    assert_products(door.rows(file), ".jsonl")
    for broken in (packed[:-9], packed[:40] + packed[44:], b"{}", b"", packed + b"more"):
        file.write_bytes(broken)
        with pytest.raises(ItemsError, match="b.jsonl.gz: (not a readable gzip|no products)"):
            door.rows(file)


def test_rows_that_are_none_can_be_passed_over(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(LINE + b'\n{"cut\n[1]\n\xff\n' + LINE)
    rows = dict(rows_or_errors(file))
    assert [number for number, row in rows.items() if isinstance(row, dict)] == [1, 5]
    assert str(rows[2]).startswith(f"{file} line 2: not valid JSON")
    assert "line 4: not UTF-8" in str(rows[4])
    (tmp_path / "a.csv").write_bytes(HEADER + b"a,b,1,c\na,b\na,b,2,c\n")
    assert [isinstance(row, dict) for _, row in rows_or_errors(tmp_path / "a.csv")] == [1, 0, 1]


def test_a_long_field_is_no_broken_file(tmp_path, door):
    long = [PRODUCTS[0] | {"summary": "mug " * 100_000}]
    assert door.rows(write(tmp_path / "a.csv", long)) == long


def test_what_was_an_index_in_pandas_is_a_column(tmp_path, door):
    pd.DataFrame(PRODUCTS).set_index("title").to_parquet(tmp_path / "a.parquet")
    rows = door.rows(tmp_path / "a.parquet")
    assert [row["title"] for row in rows] == ["Mug", "Kettle", "Lampe"]


def test_numbers_and_missing_values_of_json_stay_what_they_are(tmp_path, door):
    (tmp_path / "a.json").write_text('[{"id": 9007199254740993, "summary": "a", "price": 1.5}]')
    assert door.rows(tmp_path / "a.json") == [{"id": 2**53 + 1, "summary": "a", "price": 1.5}]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        *((f"a{suffix}", b"", "no products in it") for suffix in (".jsonl", ".json", ".csv")),
        *((f"a{suffix}", MARK, "no products in it") for suffix in (".jsonl", ".json", ".csv")),
        ("a.jsonl", b"\n\n", "no products in it"),
        ("a.json", b"\n", "no products in it"),
        ("a.json", b"[]", "no products in it"),
        ("a.csv", HEADER, "no products in it"),
        ("a.csv", b"\n\n", "no products in it"),
        ("a.parquet", b"", "not a readable parquet file .*complete"),
        ("a.parquet", b"PAR1 and then nothing", "not a readable parquet file .*complete"),
        # cut off
        ("a.jsonl", LINE + b'\n\n{"title": "b', "a.jsonl line 3: not valid JSON .*complete"),
        ("a.json", b"[\n" + LINE + b',\n{"ti', "a.json line 3: not valid JSON .*complete"),
        ("a.csv", HEADER + b'a,b,1,c\n"a,b', "a.csv row 2: not valid CSV .*complete"),
        ("a.csv", HEADER + b'a,b,1,"c' + b"k" * 200_000, "row 1: not valid CSV .*complete"),
        # what a parser gives up on
        ("a.jsonl", b"[" * 20_000, "a.jsonl line 1: lists or objects in one another"),
        ("a.json", b'[{"a":' * 20_000, "a.json line 1: lists or objects in one another"),
        ("a.jsonl", LINE + b'\n{"id": ' + b"7" * 5000 + b"}", "a.jsonl line 2: a number of thou"),
        # no rows
        ("a.jsonl", LINE + b"\n[1, 2]\n", r"a.jsonl line 2: must be an object, got \[1, 2\]"),
        ("a.jsonl", b'"a"\n', "a.jsonl line 1: must be an object, got 'a'"),
        ("a.json", b"[" + LINE + b", 7]", "a.json row 2: must be an object, got 7"),
        ("a.json", LINE, "a.json: must hold a list of objects, got {"),
        # fields that are not those of the header
        ("a.csv", HEADER + b"a,b,1,c\n\na,b,1,c,d\n", "row 2: 5 fields, but the header has 4 .tit"),
        ("a.csv", HEADER + b"a,b,1\n", "a.csv row 1: 3 fields, but the header has 4"),
        ("a.csv", b"title;price\na;1\n", "a.csv: one column, 'title;price': .*not by ';'"),
        ("a.csv", b"title\tprice\na\t1\n", "separated by commas, not by '.t'"),
        ("a.csv", b"title,category,price,summary,price\n", "column price stands in .*header twice"),
        # no UTF-8
        ("a.jsonl", b'{"title": "caf\xe9"}\n', "a.jsonl line 1: not UTF-8 text .byte 14 of the"),
        ("a.jsonl", LINE + b"\n\xff\xfe\n", "a.jsonl line 2: not UTF-8 text .byte 0 of the line"),
        ("a.json", b'[\n{"title": "caf\xe9"}]', "a.json line 2: not UTF-8 text .byte 14 of the"),
        ("a.csv", b"summary\ncaf\xe9\n", "a.csv line 2: not UTF-8 text"),
        ("a.csv", HEADER.decode().encode("utf-16"), "a.csv line 1: not UTF-8 text .byte 0"),
        ("a.jsonl", b"\x89PNG\r\n\x1a\n\x00\x00", "a.jsonl line 1: not UTF-8 text"),
        # other files
        ("a.xlsx", b"PK", "a.xlsx: unknown file type, must end in .*.jsonl, .json, .csv, .parquet"),
        ("a", b"", "a: unknown file type, must end in"),
        ("missing.csv", None, "missing.csv: no such file"),
    ],
)
def test_broken_files_end_in_one_line(tmp_path, door, name, content, says):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ItemsError, match=says) as error:
        door.use(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("rows", [0, 500])
def test_parquet_files_without_rows_or_cut_off(tmp_path, door, rows):
    file = tmp_path / "a.parquet"
    pd.DataFrame(PRODUCTS * 200).head(rows).to_parquet(file)
    if rows:
        file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ItemsError, match="not a readable parquet" if rows else "no products in it"):
        door.use(file)


def test_what_each_door_says_of_texts_and_missing_files(tmp_path):
    for content, says in ((b"\n", "no products in it"), (b"a\n\xff\xfe\n", "line 2: not UTF-8")):
        (tmp_path / "in.txt").write_bytes(content)
        with pytest.raises(ItemsError, match=says):
            predict(tmp_path / "in.txt")
    with pytest.raises(ItemsError, match="a.csv: no such file .items.files.path in params.yaml."):
        train(tmp_path / "a.csv")
    with pytest.raises(ItemsError, match="a.csv: no such file$"):
        predict(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", LINE + b"\n{"), ("a.csv", HEADER + b"a,b,1,c\na\n"), ("a.txt", b"c\n\xff\n")],
)
def test_what_comes_before_a_broken_row_can_be_used(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    rows = read_rows(tmp_path / name)
    number, row = next(rows)
    assert number == 1 and row["summary"] == "c"
    with pytest.raises(ItemsError):
        next(rows)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_would_take_the_memory_of_thousands_is_told(tmp_path, door, suffix):
    long = [PRODUCTS[1], PRODUCTS[1] | {"summary": "mug " * 2**20 + "!"}]
    place = "row 2: a text" if suffix in (".json", ".csv", ".parquet") else "line 2:"
    if suffix == ".csv":  # a line, or a text of several
        with pytest.raises(ItemsError, match="a.csv line 3: longer than"):
            door.use(write(tmp_path / "a.csv", long))
        long[1]["summary"] = "mug\n" * 2**20 + "!"
    with pytest.raises(
        ItemsError, match=f"a{suffix} {place}.* longer than 4,194,304 characters|no prices"
    ):
        door.use(write(tmp_path / f"a{suffix}", long))


def test_a_row_of_endless_lines_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MOST_IN_ROW", 1_000)
    path = tmp_path / "a.csv"
    path.write_text("summary,price\nmug,1\npot" + ',"2\n"' * 2_000)
    rows = read_rows(path)
    assert next(rows) == (1, {"summary": "mug", "price": "1"})
    with pytest.raises(ItemsError, match="a.csv row 2: longer than 1,000 characters"):
        next(rows)
    with pytest.raises(ItemsError, match="a.csv row 2: longer than 4,000 characters"):
        plan(str(path), 10)


def write_alike(path: Path, rows: int, summary: object, *, kind: pa.DataType) -> Path:
    """Write rows of one value, that Parquet holds once."""
    number = pa.array([0] * rows, pa.int32())
    values = pa.DictionaryArray.from_arrays(number, pa.array([summary], kind))
    pq.write_table(pa.table({"summary": values.dictionary_decode()}), path, compression="zstd")
    assert path.stat().st_size < 2**20
    return path


def test_parquet_is_unpacked_in_bounded_memory(tmp_path):
    text = "mug " * 2**18
    path = write_alike(tmp_path / "a.parquet", 300, text, kind=pa.string())  # 300 MiB
    held, rows = 0, 0
    for _, row in read_rows(path):
        held, rows = max(held, pa.total_allocated_bytes()), rows + (row["summary"] == text)
    assert rows == 300
    assert held < 2**27
    tables = read_tables(path, 300)
    assert 0 < len(next(tables)) < 300
    assert pa.total_allocated_bytes() < 2**28


@pytest.mark.parametrize("rows", [1, 100])
def test_what_parquet_unpacks_to_far_more_is_told(tmp_path, door, rows, monkeypatch):
    monkeypatch.setattr(readers, "LARGEST_BATCH", 2**24)
    long = "mug " * (2**20 // rows)
    path = write_alike(tmp_path / "a.parquet", rows, [long] * 8, kind=pa.list_(pa.string()))
    with pytest.raises(ItemsError, match="a.parquet row 1: .* are they products"):
        door.rows(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_a_thousand_columns_are_enough(tmp_path, door, suffix):
    wide = [PRODUCTS[1] | {f"column {n}": 1 for n in range(997)}]
    with pytest.raises(ItemsError, match=f"a{suffix}.*: 1,001 columns, at most 1,000 are read"):
        door.use(write(tmp_path / f"a{suffix}", wide))


def test_a_json_file_is_no_larger_than_fits_memory(tmp_path, door, monkeypatch):
    monkeypatch.setattr(readers, "LARGEST_JSON", 2**20)
    (tmp_path / "a.json").write_text("[]" + " " * 2**20)
    with pytest.raises(ItemsError, match="a.json: larger than 1 MiB, .* save it as .jsonl"):
        door.use(tmp_path / "a.json")


def test_half_a_surrogate_pair_is_replaced(tmp_path, door):
    row = '{"id": 1, "summary": "cut \\ud83d", "full": ["\\udc00", {"\\ud800": 1}]}'
    mended = [{"id": 1, "summary": "cut \ufffd", "full": ["\ufffd", {"\ufffd": 1}]}]
    (tmp_path / "a.jsonl").write_text(row)
    (tmp_path / "a.json").write_text(f"[{row}]")
    assert door.rows(tmp_path / "a.jsonl") == door.rows(tmp_path / "a.json") == mended


def test_a_parquet_file_with_text_that_is_none_is_told(tmp_path, door):
    texts = pa.array([b"caf\xe9"]).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"summary": texts}), tmp_path / "a.parquet")
    with pytest.raises(ItemsError, match="a.parquet: not a readable parquet file .*UTF8"):
        door.rows(tmp_path / "a.parquet")


def test_large_ids_of_a_parquet_column_with_gaps_are_not_rounded(tmp_path, door):
    ids = pd.array([2**53 + 1, None], dtype="Int64")
    pd.DataFrame({"id": ids, "summary": ["a", "b"]}).to_parquet(tmp_path / "a.parquet")
    first = next(read_rows(tmp_path / "a.parquet"))[1]
    table = read_products(tmp_path / "a.parquet")
    assert first["id"] == table["id"].iloc[0] == 2**53 + 1


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_tables_have_the_line_or_row_as_index(tmp_path, suffix):
    tables = list(read_tables(write(tmp_path / f"a{suffix}", PRODUCTS * 2, between="\n"), 4))
    assert [len(table) for table in tables] == [4, 2]
    numbers = [number for table in tables for number in table.index]
    assert numbers == ([1, 3, 5, 7, 9, 11] if suffix == ".jsonl" else [1, 2, 3, 4, 5, 6])
