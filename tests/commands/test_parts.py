"""The parts of a folder: complete or absent, gone on with, never of other products."""

import errno
import json
import os

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from pricer.commands import in_parts, parts, pricing
from pricer.commands.in_parts import Bulk, price_shard, shard_numbers
from pricer.commands.pricing import Question
from pricer.errors import ItemsError, PricerError
from pricer.prices.record import ServingRecord
from tests.s3_server import BUCKET, s3_server

OPTIONS = {"interval": 80, "point": "median", "model": "m"}
COLUMNS = ["id", "estimate_usd", "neighbors", "error", "summary"]


def price(products):
    return [
        {
            "id": row["id"],
            "estimate_usd": row["id"] + 0.5 if row["summary"] else None,
            "neighbors": [{"title": "x", "price_usd": 1.0, "similarity": 0.5}],
            "error": None if row["summary"] else "no description",
            "summary": row["summary"],
        }
        for row in products
    ]


@pytest.fixture(autouse=True)
def model(monkeypatch):
    """A model that is loaded at once; returns how often, and what of."""
    loaded = []
    monkeypatch.setattr(in_parts, "CHUNK", 2)
    monkeypatch.setattr(parts, "CHUNK", 2)
    monkeypatch.setattr(in_parts, "require", lambda *_: None)
    monkeypatch.setattr(in_parts, "read_record", lambda _: ServingRecord())
    monkeypatch.setattr(in_parts, "load", lambda asked: loaded.append(asked) or (price, {}))
    monkeypatch.setattr(pricing, "pricing_hashes", dict)
    return loaded


@pytest.fixture
def products(tmp_path):
    folder = tmp_path / "products"
    folder.mkdir()
    rows = [{"id": n, "summary": f"mug {n}" if n != 3 else ""} for n in range(11)]
    lines = [json.dumps(row) for row in rows]
    (folder / "a.jsonl").write_text("\n".join([*lines[:4], "{", *lines[4:9]]))
    pd.DataFrame(rows[9:]).to_parquet(folder / "b.parquet")
    return folder


def bulk(products, out, *, resume=False, part_rows=4, **asked):
    return Bulk(str(products), str(out), Question(**asked), part_rows, None, resume)


def content(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def test_every_product_has_one_row_in_the_order_of_its_file(products, tmp_path):
    out = tmp_path / "out"
    assert price_shard(bulk(products, out), "1/1") == {"priced": 10, "failed": 2}
    names = [f"a.jsonl-{n:06}.parquet" for n in range(3)] + ["b.parquet-000000.parquet"]
    assert sorted(content(out)) == names
    rows = pd.read_parquet(out)
    assert list(rows) == COLUMNS and list(rows["id"][:4]) == [0, 1, 2, 3]
    assert pq.read_schema(out / names[0]).field("id").type == "int64"
    assert [n for n in rows["id"] if n == n] == list(range(11))
    assert rows["error"].dropna().tolist()[0] == "no description"
    assert "line 5: not valid JSON" in rows["error"].dropna().tolist()[1]


def test_shards_that_know_nothing_of_one_another_make_the_same_folder(products, tmp_path):
    price_shard(bulk(products, tmp_path / "one"), "1/1")
    for number in (3, 1, 2):
        price_shard(bulk(products, tmp_path / "three"), f"{number}/3")
    assert content(tmp_path / "three") == content(tmp_path / "one")


def test_a_second_call_prices_what_is_missing_and_nothing_twice(products, tmp_path, model):
    out = tmp_path / "out"
    counts = price_shard(bulk(products, out), "1/1")
    whole = content(out)
    footer = bytearray(whole["a.jsonl-000002.parquet"])
    footer[-60:-20] = b"\xff" * 40
    (out / "a.jsonl-000002.parquet").write_bytes(footer)  # damaged
    (out / "a.jsonl-000001.parquet").unlink()
    (out / "b.parquet-000000.parquet").write_bytes(whole["b.parquet-000000.parquet"][:-9])  # torn
    leftover = out / ".a.jsonl-000001.parquet.0a1b.partial"
    leftover.write_bytes(b"PAR1")
    kept = (out / "a.jsonl-000000.parquet").stat().st_mtime_ns
    assert price_shard(bulk(products, out, resume=True), "1/1") == counts
    assert content(out) == whole and not leftover.exists()
    assert (out / "a.jsonl-000000.parquet").stat().st_mtime_ns == kept
    assert price_shard(bulk(products, out, resume=True), "1/1") == counts
    assert len(model) == 2  # nothing left to price: no model


def test_parts_are_never_of_other_products_or_options(products, tmp_path):
    out = tmp_path / "out"
    price_shard(bulk(products, out), "1/2")
    with pytest.raises(ItemsError, match="2 of 2 parts are there: add --resume"):
        price_shard(bulk(products, out), "1/2")
    with pytest.raises(ItemsError, match="cannot resume with another interval"):
        price_shard(bulk(products, out, resume=True, interval=90), "1/1")
    with pytest.raises(ItemsError, match="cannot resume with another part_rows"):
        price_shard(bulk(products, out, resume=True, part_rows=2), "1/1")
    with pytest.raises(ItemsError, match="cannot resume with another interval"):
        price_shard(bulk(products, out, interval=90), "2/2")  # beside another's parts
    with pytest.raises(ItemsError, match="multiple of 2"):
        price_shard(bulk(products, out, resume=True, part_rows=3), "1/1")
    (products / "b.parquet").unlink()
    price_shard(bulk(products, out, resume=True), "2/2")
    (products / "a.jsonl").write_text('{"id": 1, "summary": "pot"}\n')
    with pytest.raises(ItemsError, match="a.jsonl-000001.parquet is no part of these products"):
        price_shard(bulk(products, out, resume=True), "1/1")


def test_a_part_that_cannot_be_read_stops_no_other(products, tmp_path, monkeypatch):
    whole = parts.read_part

    def read(filesystem, part, ids):
        if part.name == "a.jsonl-000001":
            raise ItemsError("a.jsonl: gone")
        return whole(filesystem, part, ids)

    monkeypatch.setattr(parts, "read_part", read)
    with pytest.raises(ItemsError, match="1 parts are missing, the first is a.jsonl-000001: a"):
        price_shard(bulk(products, tmp_path / "out"), "1/1")
    assert len(content(tmp_path / "out")) == 3


def test_a_full_disk_ends_it_with_nothing_half_written(products, tmp_path, monkeypatch):
    written = []

    def sync(path):
        written.append(path)
        if len(written) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(parts, "sync", sync)
    out = tmp_path / "out"
    with pytest.raises(PricerError, match="no disk space left .* --resume goes on"):
        price_shard(bulk(products, out), "1/1")
    assert list(content(out)) == ["a.jsonl-000000.parquet"]
    monkeypatch.undo()


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3", "²/3", ""])
def test_a_shard_is_one_of_them(text):
    with pytest.raises(ItemsError, match="--shard is I/N with I from 1 to N"):
        shard_numbers(text)


def test_nothing_is_loaded_where_nothing_could_be_written(
    products, tmp_path, model, bucket, monkeypatch
):
    long = (products / "a.jsonl").rename(products / f"{'x' * 217}.jsonl")
    with pytest.raises(ItemsError, match="the name of xxx.* is too long for its parts"):
        price_shard(bulk(long, tmp_path / "out"), "1/1")
    fits = long.rename(products / f"{'x' * 216}.jsonl")
    price_shard(bulk(fits, tmp_path / "out"), "1/1")
    assert [name[216:] for name in content(tmp_path / "out")][0] == ".jsonl-000000.parquet"
    with pytest.raises(ItemsError, match="s3://none/out: .*none"):
        price_shard(bulk(fits, "s3://none/out"), "1/1")
    assert len(model) == 1


def test_folders_lie_apart(products, tmp_path):
    (tmp_path / "link").symlink_to(products)
    for out in (products, products / "out", tmp_path, tmp_path / "link" / "out"):
        with pytest.raises(ItemsError, match="must lie apart"):
            price_shard(bulk(products, out), "1/1")
    (tmp_path / "file").touch()
    with pytest.raises(ItemsError, match="must be a folder"):
        price_shard(bulk(products, tmp_path / "file"), "1/1")
    with pytest.raises(ItemsError, match="that others can read"):
        price_shard(bulk("-", tmp_path / "out"), "1/1")


@pytest.fixture
def bucket(monkeypatch):
    """URL of a bucket on a server of S3's protocol."""
    with s3_server() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield f"s3://{BUCKET}"


def test_products_and_parts_on_an_object_store(products, tmp_path, bucket, model):
    remote, _ = fs.FileSystem.from_uri(bucket)
    for file in products.iterdir():
        with remote.open_output_stream(f"{BUCKET}/products/{file.name}") as stream:
            stream.write(file.read_bytes())
    counts = price_shard(bulk(f"{bucket}/products", f"{bucket}/out"), "1/1")
    local = tmp_path / "out"
    price_shard(bulk(products, local), "1/1")
    (tmp_path / "down").mkdir()
    fs.copy_files(f"{BUCKET}/out", str(tmp_path / "down"), source_filesystem=remote)
    texts = {name: pd.read_parquet(tmp_path / "down" / name) for name in content(local)}
    for name, rows in texts.items():
        # but for the reason that names the file
        columns = ["id", "estimate_usd", "summary"]
        pd.testing.assert_frame_equal(rows[columns], pd.read_parquet(local / name)[columns])
    remote.delete_file(f"{BUCKET}/out/a.jsonl-000002.parquet")
    resumed = bulk(f"{bucket}/products", f"{bucket}/out", resume=True)
    assert price_shard(resumed, "1/1") == counts == price_shard(resumed, "1/1")
    assert len(model) == 3
    with pytest.raises(ItemsError, match="/none: no such file"):
        price_shard(bulk(f"{bucket}/none", f"{bucket}/out"), "1/1")


def test_an_object_store_that_does_not_answer_is_told(bucket, products, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ItemsError, match="/out: .*onnect"):
        price_shard(bulk(products, f"{bucket}/out"), "1/1")
