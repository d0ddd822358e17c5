import csv
import json
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs

from pricer.errors import ItemsError
from pricer.products import parts, readers
from pricer.products.parts import locate, plan, read_part

LOCAL = fs.LocalFileSystem()
# what a row may hold that looks like the end of one
TEXTS = st.text(alphabet=st.sampled_from("a,\" \n\r\\'ü“\u2028\x0b😀;"), max_size=12)


def rows_of(products, part_rows=3):
    whole = plan(str(products), part_rows)
    return [row for part in whole.parts for row in read_part(LOCAL, part, whole.ids)]


def write(path, products):
    if path.suffix == ".jsonl":
        lines = [json.dumps(row, ensure_ascii=False) for row in products]
        path.write_text("\n\n".join(lines), newline="", encoding="utf-8-sig")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            csv.writer(file).writerows([list(products[0]), *(row.values() for row in products)])
    else:
        pd.DataFrame(products).to_parquet(path, row_group_size=4)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@given(texts=st.lists(TEXTS, min_size=1, max_size=12), part_rows=st.integers(1, 5))
def test_the_parts_of_a_file_hold_what_it_holds(tmp_path_factory, suffix, texts, part_rows):
    """Whatever stands in a text: the law against the reader of whole files."""
    path = tmp_path_factory.mktemp("law") / f"in{suffix}"
    write(path, [{"id": f"n{n}", "summary": text} for n, text in enumerate(texts)])
    expected = [{"id": r["id"], "summary": r["summary"]} for _, r in readers.read_rows(path)]
    whole = plan(str(path), part_rows)
    assert [part.rows for part in whole.parts[:-1]] == [part_rows] * (len(whole.parts) - 1)
    got = [list(read_part(LOCAL, part, whole.ids)) for part in whole.parts]
    assert [len(rows) for rows in got] == [part.rows for part in whole.parts]
    assert [row for rows in got for row in rows] == [row | {"error": None} for row in expected]


def test_a_row_that_cannot_be_read_is_there_with_its_reason(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        b'{"id": 1, "summary": "mug"}\n{"id": 2, "summ\n[1]\n{"id": "x", "summary": "pot"}\n'
        b'{"id": 5, "summary": "\xff"}\n{"id": 6, "summary": 7}\n{"id": true, "summary": "lid"}\n'
    )
    fine, broken, listed, other_id, bytes_, number, bool_id = rows_of(tmp_path / "a.jsonl")
    assert fine == {"id": 1, "summary": "mug", "error": None}
    assert "line 2: not valid JSON" in broken["error"] and broken["id"] is None
    assert "line 3: must be an object" in listed["error"]
    assert "not as those before it (numbers): 'x'" in other_id["error"]
    assert "line 5: not UTF-8" in bytes_["error"]
    assert number == {"id": 6, "summary": None, "error": None}
    assert "True" in bool_id["error"]


def test_rows_of_a_csv_that_do_not_fit_its_header_have_their_reason(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'summary,x\nmug,1\npot\n"5"" pipe\n two",2\n\xff,3\n')
    fine, short, long, bytes_ = rows_of(tmp_path / "a.csv", part_rows=1)
    assert (fine["summary"], long["summary"]) == ("mug", '5" pipe\n two')
    assert "row 2: 1 fields, but the header has 2" in short["error"]
    assert "row 4: not UTF-8 text" in bytes_["error"] and bytes_["summary"] is None


def test_text_in_parquet_that_is_no_text_has_its_reason(tmp_path):
    offsets = pa.py_buffer(b"\0\0\0\0\3\0\0\0\4\0\0\0")
    texts = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"mug\xff")])
    pq.write_table(pa.table({"summary": texts}), tmp_path / "a.parquet")
    fine, broken = rows_of(tmp_path / "a.parquet")
    assert fine == {"summary": "mug", "error": None} and "not UTF-8" in broken["error"]


def test_the_parts_of_a_folder_are_in_the_order_of_its_names(tmp_path):
    for name, ids in {"b.jsonl": [3], "a.csv": [1], "c/a.parquet": [4, 5], "a.jsonl": [2]}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, [{"id": f"{n}", "summary": f"mug {n}"} for n in ids])
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".a.jsonl.partial").write_text("{")
    (tmp_path / "empty.jsonl").touch()
    whole = plan(str(tmp_path), 1)
    names = ["a.csv-000000", "a.jsonl-000000", "b.jsonl-000000", "c/a.parquet-000000"]
    assert [part.name for part in whole.parts] == [*names, "c/a.parquet-000001"]
    assert [row["id"] for row in rows_of(tmp_path)] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_products_that_changed_since_are_not_priced_as_the_old_ones(tmp_path, suffix):
    products = [{"id": n, "summary": f"mug {n}"} for n in range(6)]
    path = write(tmp_path / f"in{suffix}", products)
    before = plan(str(path), 3)
    write(path, [*products[:1], {"id": 1, "summary": "pot 1"}, *products[2:]])
    with pytest.raises(ItemsError, match="not as it was"):
        list(read_part(LOCAL, before.parts[0], before.ids))


def test_what_is_added_to_a_text_leaves_its_earlier_parts_as_they_are(tmp_path):
    path = write(tmp_path / "in.jsonl", [{"summary": f"mug {n}"} for n in range(6)])
    before = plan(str(path), 2).parts
    with path.open("a") as file:
        file.write('\n{"summary": "pot"}\n')
    after = plan(str(path), 2).parts
    assert after[:2] == before[:2] and len(after) == 4


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "no products in it"),
        ({"a.jsonl": b"\n\n"}, "no products in it"),
        ({"a.json": b"[]"}, "are in .txt, .jsonl, .csv, .parquet"),
        ({"a.jsonl.gz": b""}, "are in .txt"),
        ({"a.parquet": b"PAR1 no PAR1"}, "a.parquet: "),
        ({"a.csv": b'summary\n"mug\npot\n'}, "row 1: not valid CSV"),
        ({"a.csv": b"title\nmug\n"}, "no summary in its rows"),
        ({"a.jsonl": b'{"title": "mug"}\n'}, "no summary in its rows"),
        ({"a.jsonl": b'{"id": 1.5, "summary": "mug"}\n'}, "text or whole numbers, got 1.5"),
        ({"a.jsonl": b'{"summary": "mug"\n'}, "not valid JSON"),
        (
            {"a.jsonl": b'{"id": 1, "summary": "a"}\n', "b.csv": b"id,summary\n1,b\n"},
            "ids must be of one kind in all files",
        ),
    ],
)
def test_what_cannot_be_shared_out_is_told_before_anything_is_priced(tmp_path, files, reason):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ItemsError, match=reason):
        plan(str(tmp_path), 2)


def test_a_line_without_an_end_is_told_and_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "MOST_BYTES", 100)
    (tmp_path / "a.txt").write_text("mug\n" + "x" * 200)
    with pytest.raises(ItemsError, match="line 2: longer than 100"):
        plan(str(tmp_path / "a.txt"), 2)


def test_a_part_of_endless_texts_ends_early(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "LARGEST", 100)
    (tmp_path / "a.txt").write_text("".join(f"{'mug ' * 20}{n}\n" for n in range(9)))
    whole = plan(str(tmp_path), 100)
    assert [part.rows for part in whole.parts] == [2, 2, 2, 2, 1]
    assert [row["summary"][-1] for row in rows_of(tmp_path, 100)] == list("012345678")


@pytest.mark.parametrize("blank", ["\xa0", "\u3000", "\u2028", "\x85", "\x1c", " \t\x0b\x0c"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_what_is_a_row_is_the_same_when_parts_are_made_and_when_they_are_read(
    tmp_path, blank, encoding
):
    content = f"{blank}\nmug\n{blank}\n\n".encode(encoding, errors="replace")
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.csv").write_bytes(b"summary\n" + content)
    whole = plan(str(tmp_path), 4)
    rows = [list(read_part(LOCAL, part, "none")) for part in whole.parts]
    assert [part.rows for part in whole.parts] == [len(rows[0]), len(rows[1])]
    assert len(rows[0]) == len(rows[1]) == (1 if blank.isascii() and blank != "\x1c" else 3)
    if encoding == "utf-8":  # one process reads the same
        assert len(list(readers.read_rows(tmp_path / "a.txt"))) == len(rows[0])


def test_a_missing_id_is_no_kind_of_id(tmp_path):
    ids = [None, 7, None, 9]
    write(tmp_path / "a.jsonl", [{"id": one, "summary": "mug"} for one in ids])
    table = pa.table({"id": pa.array(ids, pa.int32()), "summary": ["mug"] * 4})
    pq.write_table(table, tmp_path / "b.parquet")
    rows = rows_of(tmp_path)
    assert [row["id"] for row in rows] == ids * 2 and not any(row["error"] for row in rows)


def test_the_first_product_may_lack_a_summary(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 1}\n{"id": 2, "summary": "mug"}\n')
    assert [(row["id"], row["summary"]) for row in rows_of(tmp_path)] == [(1, None), (2, "mug")]


def test_texts_of_any_type_of_arrow_are_texts(tmp_path):
    for name, kind in {"a": pa.string_view(), "b": pa.dictionary(pa.int8(), pa.string())}.items():
        texts = pa.array(["m1"], pa.string()).cast(kind)
        pq.write_table(pa.table({"id": texts, "summary": texts}), tmp_path / f"{name}.parquet")
    assert rows_of(tmp_path) == [{"id": "m1", "summary": "m1", "error": None}] * 2


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ([("summary", pa.array([b"mug"]))], "summaries must be text, got 'binary'"),
        ([("summary", pa.array([{"en": "mug"}]))], "summaries must be text, got 'struct<en"),
        ([("summary", pa.array(["a"])), ("summary", pa.array(["b"]))], "summary stands in it twi"),
        ([("id", pa.array([1.5])), ("summary", pa.array(["a"]))], "whole numbers, got 'double'"),
    ],
)
def test_columns_of_which_no_row_could_be_priced_are_told_before(tmp_path, columns, reason):
    names, values = zip(*columns, strict=True)
    pq.write_table(pa.Table.from_arrays(values, names), tmp_path / "a.parquet")
    with pytest.raises(ItemsError, match=reason):
        plan(str(tmp_path), 2)


def test_a_header_that_changed_makes_other_parts(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("summary,title\nmug,1\npot,2\n")
    before = plan(str(path), 1).parts
    path.write_text("title,summary\nmug,1\npot,2\n")
    assert not {part.sha256 for part in before} & {part.sha256 for part in plan(str(path), 1).parts}
    with pytest.raises(ItemsError, match="not as it was"):
        list(read_part(LOCAL, before[1], "none"))


def test_no_such_place(tmp_path):
    with pytest.raises(ItemsError, match="%23"):
        locate("s3://me:secret@shop/a#1.csv")
    for where in (str(tmp_path / "none"), "nowhere://a/b"):
        with pytest.raises(ItemsError, match="none: no such file|nowhere"):
            plan(where, 2)
    filesystem, path = locate("items.jsonl")
    assert isinstance(filesystem, fs.LocalFileSystem) and path.startswith("/")


def test_a_part_says_which_rows_it_holds(tmp_path):
    path = write(tmp_path / "in.parquet", [{"summary": f"mug {n}"} for n in range(10)])
    whole = plan(str(path), 4)
    assert [(p.begin, p.end, p.start, p.rows) for p in whole.parts] == [
        (0, 4, 0, 4),
        (4, 8, 4, 4),
        (8, 10, 8, 2),
    ]
    other = replace(whole.parts[1], begin=5, end=8, rows=3)
    assert [row["summary"] for row in read_part(LOCAL, other, "none")] == [
        "mug 5",
        "mug 6",
        "mug 7",
    ]
