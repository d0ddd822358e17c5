import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest

from pricer.commands import bulk
from pricer.commands.bulk import partial_file, predict_file
from pricer.errors import ItemsError

PRODUCTS = [{"id": n, "summary": f"kettle {n}, “steel”\nblue"} for n in range(10)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(bulk, "CHUNK", 4)


def write(path, products=PRODUCTS):
    table = pd.DataFrame(products)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in products))
    elif path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        path.write_text("".join(row["summary"].replace("\n", " ") + "\n" for row in products))
    return path


def price(products):
    return [
        {"id": row.get("id"), "estimate_usd": 9.5, "long": "ü," * 3, "summary": row["summary"]}
        for row in products
    ]


def predict(source, out, estimate=price, *, resume=False, **options):
    return predict_file(source, out, estimate, options={"level": 80} | options, resume=resume)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_every_output_type_holds_every_row_in_order(tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    assert predict(write(tmp_path / "in.jsonl"), out) == 10
    if suffix == ".jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    elif suffix == ".csv":
        with out.open(newline="") as stream:
            rows = [row | {"id": int(row["id"])} for row in csv.DictReader(stream)]
    else:
        rows = pd.read_parquet(out).to_dict(orient="records")
    assert [row["id"] for row in rows] == list(range(10))
    assert rows[0]["long"] == "ü,ü,ü," and float(rows[0]["estimate_usd"]) == 9.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", out.name]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_an_interrupted_run_goes_on_where_it_ended(tmp_path, suffix):
    source, out = write(tmp_path / "in.jsonl"), tmp_path / f"out{suffix}"
    asked = []

    def interrupted(products):
        asked.extend(row["id"] for row in products)
        if len(asked) > 4:
            raise KeyboardInterrupt
        return price(products)

    with pytest.raises(KeyboardInterrupt):
        predict(source, out, interrupted)
    assert not out.exists()
    with partial_file(out).open("a") as stream:
        stream.write('{"id": 4, "pri')  # killed within a row
    asked.clear()
    assert predict(source, out, lambda p: asked.extend(p) or price(p), resume=True) == 10
    assert [row["id"] for row in asked] == [4, 5, 6, 7, 8, 9]
    again = tmp_path / f"again{suffix}"
    predict(source, again)
    assert again.read_bytes() == out.read_bytes()
    assert not partial_file(out).exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("in.jsonl", b'\n{"title": "a"}\n', "in.jsonl line 2: no summary"),
        ("in.json", b'[{"summary": " "}]', "in.json row 1: no summary"),
        ("in.csv", b"title\nkettle\n", "in.csv row 1: no summary"),
        ("in.jsonl", b'{"id": 1, "summary": "a"}\n{"summary": "b"}\n', "line 2: ids must be all"),
        ("in.jsonl", b'{"id": 1, "summary": "a"}\n{"id": "b", "summary": "b"}\n', "got 'b'"),
        ("in.jsonl", b'{"id": [1], "summary": "a"}\n', "got \\[1\\]"),
    ],
)
def test_products_that_cannot_be_priced_are_told(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ItemsError, match=says):
        predict(tmp_path / name, tmp_path / "out.jsonl")
    assert not list(tmp_path.glob("out*"))


def test_rows_are_read_as_they_are_needed(tmp_path):
    """A million rows must not be in memory at once."""
    most = 0

    def estimate(products):
        nonlocal most
        most = max(most, len(products))
        return price(products)

    source = write(tmp_path / "in.txt", [{"summary": f"kettle {n}"} for n in range(5000)])
    assert predict(source, tmp_path / "out.jsonl", estimate) == 5000
    assert most == 4


def test_nothing_is_mixed_with_other_options_or_products(tmp_path):
    source, out = write(tmp_path / "in.jsonl"), tmp_path / "out.csv"

    def stop_after_a_chunk(products):
        if products[0]["id"]:
            raise KeyboardInterrupt
        return price(products)

    with pytest.raises(KeyboardInterrupt):
        predict(source, out, stop_after_a_chunk)
    kept = partial_file(out).read_bytes()
    with pytest.raises(ItemsError, match="cannot resume with another level: repeat the command"):
        predict(source, out, resume=True, level=90)
    other = write(tmp_path / "other.jsonl", PRODUCTS[:2] + [{"id": 2, "summary": "lamp"}])
    with pytest.raises(ItemsError, match="cannot resume: product 3 is another one"):
        predict(other, out, resume=True)
    with pytest.raises(ItemsError, match="cannot resume: product 3 is another one"):
        predict(write(tmp_path / "short.jsonl", PRODUCTS[:2]), out, resume=True)
    assert partial_file(out).read_bytes() == kept
    assert predict(source, out, resume=True) == 10


@pytest.mark.parametrize("left", [b"", b'{"options": {"lev'])
def test_a_kill_before_the_first_row_loses_nothing(tmp_path, left):
    out = tmp_path / "out.jsonl"
    partial_file(out).write_bytes(left)
    assert predict(write(tmp_path / "in.jsonl"), out, resume=True) == 10
    assert len(out.read_text().splitlines()) == 10


def test_stdin_is_read_once_also_to_resume(tmp_path, monkeypatch):
    text, out = "".join(f"kettle {n}\n\n" for n in range(10)), tmp_path / "out.jsonl"

    def stop_at_the_end(products):
        if products[-1]["summary"] == "kettle 9":
            raise KeyboardInterrupt
        return price(products)

    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    with pytest.raises(KeyboardInterrupt):
        predict(Path("-"), out, stop_at_the_end)
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert predict(Path("-"), out, resume=True) == 10
    rows = [json.loads(line)["summary"] for line in out.read_text().splitlines()]
    assert rows == [f"kettle {n}" for n in range(10)]


def test_stdin_without_text_is_told(tmp_path, monkeypatch):
    for content, says in ((b"\n \n", "-: no products in it"), (b"a\n\xff", "-: not UTF-8 text")):
        stream = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")
        monkeypatch.setattr("sys.stdin", stream)
        with pytest.raises(ItemsError, match=says):
            predict(Path("-"), tmp_path / "out.jsonl")
    assert not list(tmp_path.iterdir())
