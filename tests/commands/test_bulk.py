import csv
import errno
import io
import json
import os
import random
import signal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from pricer.commands import bulk, partial
from pricer.commands.bulk import predict_file, read_rows
from pricer.commands.partial import partial_file
from pricer.errors import ItemsError, explain

PRODUCTS = [{"id": n, "summary": f"kettle {n}, “steel”\nblue"} for n in range(10)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(partial, "CHUNK", 4)


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


def predict(source, out, estimate=price, *, resume=False, raw_csv=False, **options):
    """How many rows there are."""

    def load():
        return estimate, {"level": 80} | options

    return predict_file(source, out, load, resume=resume, raw_csv=raw_csv).total()


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


TITLE = '=HYPERLINK(1)\x1b[2J\n\u202e, "a"<b>'


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("raw_csv", [False, True])
def test_neighbours_come_back_as_they_were(tmp_path, suffix, raw_csv):
    """Also where the first product, from which a type could be guessed, has none."""
    neighbors = [{"title": TITLE, "price_usd": 5.0, "similarity": 0.5}]
    wanted = [None, [], *[neighbors] * 8]

    def estimate(products):
        told = {row["id"]: wanted[row["id"]] for row in products}
        return [row | {"neighbors": told[row["id"]]} for row in price(products)]

    out = tmp_path / f"out{suffix}"
    predict(write(tmp_path / "in.jsonl"), out, estimate, raw_csv=raw_csv)
    if suffix == ".parquet":
        read = pa.parquet.read_table(out)
        fields = pa.struct(
            {"title": pa.string(), "price_usd": pa.float64(), "similarity": pa.float64()}
        )
        assert read.schema.field("neighbors").type == pa.list_(fields)
        assert read["neighbors"].to_pylist() == wanted
        return
    content = out.read_text()
    assert "\x1b" not in content and "\u202e" not in content
    if suffix == ".csv":
        with out.open(newline="") as stream:
            found = [row["neighbors"] for row in csv.DictReader(stream)]
        assert [json.loads(cell) if cell else None for cell in found] == wanted
        assert "\n" not in found[2] and found[2][0] == "["
    else:
        assert [json.loads(line)["neighbors"] for line in content.splitlines()] == wanted


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
        ("in.jsonl", b'\n{"title": "a"}\n', "in.jsonl: no summary in any of its products"),
        ("in.json", b'[{"summary": " "}]', "in.json: no summary in any of its products"),
        ("in.csv", b"title\nkettle\n", "in.csv: no summary in any of its products"),
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


@pytest.mark.parametrize("left", [0, 1, 30])
def test_a_kill_before_the_first_row_loses_nothing(tmp_path, left):
    out = tmp_path / "out.jsonl"
    partial_file(out).write_bytes(stopped(tmp_path, write(tmp_path / "in.jsonl"), out)[:left])
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


def stopped(tmp_path, source, out, chunks=2):
    """What an interruption after so many chunks leaves."""
    calls = iter(range(chunks))

    def estimate(products):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return price(products)

    with pytest.raises(KeyboardInterrupt):
        predict(source, out, estimate)
    return partial_file(out).read_bytes()


def price_by_chunk(products):
    """As a model does: the last digits hang on what else is in a batch."""
    digits = len(products) + products[0]["id"] / 1000
    return [row | {"estimate_usd": 9 + digits} for row in price(products)]


def test_a_run_that_was_cut_anywhere_ends_in_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    source, out, whole = write(tmp_path / "in.jsonl"), tmp_path / "o.jsonl", tmp_path / "w.jsonl"
    predict(source, whole, price_by_chunk)
    monkeypatch.setattr(bulk, "_write", lambda *_, **__: pytest.fail("before the last step"))
    with pytest.raises(pytest.fail.Exception):
        predict(source, out, price_by_chunk)
    monkeypatch.undo()
    monkeypatch.setattr(partial, "CHUNK", 4)
    complete = partial_file(out).read_bytes()
    for cut in random.Random(1).sample(range(len(complete) + 1), 60):
        partial_file(out).write_bytes(complete[:cut])
        assert predict(source, out, price_by_chunk, resume=True) == 10
        assert out.read_bytes() == whole.read_bytes()
        out.unlink()


def test_an_interruption_while_the_first_rows_are_synced_loses_none(tmp_path, monkeypatch):
    source, out = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    syncs, fsync = [], os.fsync

    def interrupted(descriptor):
        syncs.append(fsync(descriptor))
        if len(syncs) == 2:  # the first is of the options
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict(source, out)
    assert len(partial_file(out).read_text().splitlines()) == 5


def price_a_chunk_and_die(source, out):
    calls = []

    def estimate(products):
        calls.append(1)
        return price_by_chunk(products) if len(calls) == 1 else os.kill(os.getpid(), signal.SIGKILL)

    predict(source, out, estimate, resume=True)
    os._exit(0)


def test_a_killed_process_leaves_what_another_goes_on_with(tmp_path):
    """Its lock dies with it."""
    source, out, whole = write(tmp_path / "in.jsonl"), tmp_path / "o.jsonl", tmp_path / "w.jsonl"
    predict(source, whole, price_by_chunk)
    for rows in (4, 8):
        child = os.fork()
        if not child:
            price_a_chunk_and_die(source, out)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        assert len(partial_file(out).read_text().splitlines()) == 1 + rows
    assert predict(source, out, price_by_chunk, resume=True) == 10
    assert out.read_bytes() == whole.read_bytes()


def test_two_processes_do_not_write_one_output(tmp_path):
    source, out = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"

    def meanwhile(products):
        for resume in (False, True):
            with pytest.raises(ItemsError, match="out.jsonl: another process writes it"):
                predict(source, out, lambda _: pytest.fail("priced"), resume=resume)
        return price(products)

    assert predict(source, out, meanwhile) == 10
    assert len(out.read_text().splitlines()) == 10


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda kept: b"a file of mine, without an end of its line", "line 1: damaged, or not of"),
        (lambda kept: b'{"id": 1}\n{"id": 2', "line 1: damaged, or not of"),
        (lambda kept: kept.split(b"\n", 1)[1], "line 1: damaged, or not of"),
        (lambda kept: b"\0" * len(kept), "line 1: damaged, or not of"),
        (lambda kept: b'{"options": 1}\n', "line 1: damaged, or not of"),
        (lambda kept: b"[" * 100_000 + b"\n" + kept, "line 1: damaged, or not of"),
        (lambda kept: kept.replace(b'"id": 3', b"\0" * 7), "line 5: damaged: remove the lines"),
        (lambda kept: kept.replace(b": 9.5", b": 9.6", 1), "line 2: damaged"),  # a flipped bit
        (lambda kept: kept.replace(b"\n", b"\n\xff\n", 3), "line 2: damaged"),
        (lambda kept: kept.replace(b"\n", b"\n12\n", 1), "line 2: damaged"),
        (lambda kept: kept.replace(b'9.5, "long"', b"9.5", 2), "line 2: damaged"),
    ],
)
def test_a_damaged_or_foreign_partial_file_is_one_line_and_stays(tmp_path, damage, says):
    source, out = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    content = damage(stopped(tmp_path, source, out))
    partial_file(out).write_bytes(content)
    with pytest.raises(ItemsError, match=says) as error:
        predict(source, out, resume=True)
    assert "\n" not in str(error.value)
    assert partial_file(out).read_bytes() == content and not out.exists()


def test_what_an_interrupted_run_left_is_not_overwritten(tmp_path):
    source, out = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    kept = stopped(tmp_path, source, out)
    with pytest.raises(ItemsError, match="is an interrupted run's: add --resume, or remove it"):
        predict(source, out)
    assert partial_file(out).read_bytes() == kept


@pytest.mark.parametrize(
    ("make", "name", "says"),
    [
        (lambda path: path.mkdir(), "out.jsonl", "out.jsonl: is a folder or a device"),
        (os.mkfifo, "out.jsonl", "out.jsonl: is a folder or a device"),
        (lambda path: partial_file(path).mkdir(), "out.csv", "out.csv.partial.jsonl: is a folder"),
        (lambda path: path.parent.write_text("a file"), "sub/out.csv", "sub: File exists"),
        (lambda path: None, "out", "out: unknown file type, must end in .jsonl"),
        (lambda path: None, "x.csv.partial.jsonl", ".partial.jsonl is the end of unfinished"),
        (lambda path: None, "in.jsonl", "in.jsonl is the file of the products"),
    ],
)
def test_an_output_that_cannot_be_is_told_before_the_model_is_loaded(tmp_path, make, name, says):
    source, out = write(tmp_path / "in.jsonl"), tmp_path / name
    make(out)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((ItemsError, OSError)) as error:
        predict_file(source, out, lambda: pytest.fail("loaded"), resume=False)
    assert says in explain(error.value)
    assert sorted(tmp_path.rglob("*")) == before and "kettle 0" in source.read_text()


def test_the_file_of_rows_is_not_taken_for_the_products(tmp_path):
    out = tmp_path / "out.csv"
    source = write(partial_file(out))
    with pytest.raises(ItemsError, match="is the file of the products"):
        predict(source, out, resume=True)
    assert len(source.read_text().splitlines()) == 10


def test_a_full_disk_is_told_before_anything_is_priced(tmp_path, monkeypatch):
    source, out = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        predict(source, out, lambda _: pytest.fail("priced"))
    assert "no disk space left" in explain(error.value)


def no_estimate(row, why="why not"):
    return {"estimate_usd": None, "error": why, "summary": row["summary"]}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_product_without_an_estimate_is_flagged_and_the_rest_goes_on(tmp_path, suffix):
    """The first one too, from which columns of a table could be guessed."""

    def estimate(products):
        fine = {"estimate_usd": 9.5, "error": None}
        return [
            fine | {"summary": row["summary"]} if row["summary"] == "kettle" else no_estimate(row)
            for row in products
        ]

    rows = [{"summary": text} for text in (None, *["kettle"] * 4, 7, "\x01", "kettle", [])]
    source, out = write(tmp_path / "in.jsonl", rows), tmp_path / f"out{suffix}"

    calls = [estimate]
    with pytest.raises(IndexError):
        predict(source, out, lambda products: calls.pop()(products))
    counts = predict_file(source, out, lambda: (estimate, {"level": 80}), resume=True)
    assert counts == {"priced": 5, "failed": 4}
    read = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    found = read[suffix](out) if suffix in read else pd.read_json(out, lines=True)
    assert found["estimate_usd"].notna().tolist() == [False, *[True] * 4, False, False, True, False]
    assert found["error"].isna().tolist() == found["estimate_usd"].notna().tolist()


def test_a_model_that_prices_nothing_does_not_go_through_a_million_products(tmp_path):
    source, out = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    asked = []

    def estimate(products):
        asked.extend(products)
        return [no_estimate(row) for row in products]

    with pytest.raises(ItemsError, match="products 1 to 4, every one: why not"):
        predict(source, out, estimate)
    assert len(asked) == 4 and [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_broken_line_at_the_end_is_told_before_the_first_product_is_priced(tmp_path):
    source = write(tmp_path / "in.jsonl")
    source.write_text(source.read_text() + '{"summary": "lamp')
    with pytest.raises(ItemsError, match="in.jsonl line 11: not valid JSON"):
        predict_file(source, tmp_path / "o.csv", lambda: pytest.fail("loaded"), resume=False)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_text_that_cannot_be_written_is_replaced_and_the_file_goes_on(tmp_path, suffix):
    source, out = tmp_path / "in.jsonl", tmp_path / f"out{suffix}"
    source.write_text(
        '{"id": "a\\ud83d", "summary": "cut \\ud83d"}\n{"id": "b", "summary": "ok"}\n'
    )
    assert next(read_rows(source)) == {"id": "a\ufffd", "summary": "cut \ufffd"}
    assert predict(source, out) == 2
    read = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    found = read[suffix](out) if suffix in read else pd.read_json(out, lines=True)
    assert found["summary"].tolist() == ["cut \ufffd", "ok"]


@pytest.mark.parametrize("raw", [False, True])
def test_a_spreadsheet_finds_no_formula_in_a_csv(tmp_path, raw):
    texts = ["=1+1", " +cmd|' /C calc'!A0", "-2", "@SUM(A1)", "\t=1", "plain = 1"]
    rows = [{"id": text, "summary": text} for text in texts]
    out = tmp_path / "out.csv"
    predict(write(tmp_path / "in.jsonl", rows), out, raw_csv=raw)
    with out.open(newline="") as stream:
        found = list(csv.DictReader(stream))
    wanted = texts if raw else [f"'{text}" for text in texts[:-1]] + texts[-1:]
    assert [row["id"] for row in found] == [row["summary"] for row in found] == wanted


def test_ids_that_no_column_holds_are_told_before_anything_is_priced(tmp_path):
    for number, own_id in enumerate(("9223372036854775808", "true", "1.5", "1" * 5000)):
        source = tmp_path / f"{number}.jsonl"
        source.write_text(f'{{"summary": "lamp"}}\n{{"id": {own_id}, "summary": "lamp"}}\n')
        source.write_text(source.read_text().replace("{", '{"id": 1, ', 1))
        with pytest.raises(ItemsError, match=f"{number}.jsonl line 2: ") as error:
            predict(source, tmp_path / "out.parquet", lambda _: pytest.fail("priced"))
        assert len(str(error.value)) < 400


def test_closed_stdin_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ItemsError, match="-: standard input is closed"):
        predict_file(Path("-"), tmp_path / "o.csv", lambda: pytest.fail("loaded"), resume=False)


def test_a_pipe_is_read_once(tmp_path):
    pipe, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    os.mkfifo(pipe)
    child = os.fork()
    if not child:
        pipe.write_text('{"summary": "kettle"}\n{"summary": "lamp"}\n')
        os._exit(0)
    assert predict(pipe, out) == 2
    os.waitpid(child, 0)
