"""Damaged and hostile inputs of every kind: each gives a right result, or ends in one line.

Inputs are made from sound ones by a seeded hand that flips bytes, cuts, repeats, and puts in what
has gone wrong somewhere before. `pytest tests/test_fuzz.py --fuzz 20000` is the long form. A
failure names the input, which `--fuzz-from N --fuzz 1` makes again.
"""

import gzip
import json
import math
import os
import random
import resource
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pricer.commands import partial
from pricer.commands.bulk import predict_file
from pricer.commands.partial import partial_file
from pricer.errors import explain
from pricer.evidence.folds import make_evidence
from pricer.evidence.models import read_models, write_models
from pricer.judging.comparison import compare, comparison_json, comparison_text
from pricer.judging.paired import Bootstrap
from pricer.model.base import load_tokenizer
from pricer.model.sources import copy_base_model, describe_base_model
from pricer.params import read_params
from pricer.prices.distribution import LEVELS
from pricer.prices.predictions import read_predictions
from pricer.prices.predictor import Predictor
from pricer.prices.record import QUANTIZATION, ServingRecord, read_record, write_record
from pricer.products.file_source import file_items
from pricer.products.raw_source import raw_items
from pricer.training.checkpoints import find_start, seal
from tests.conftest import ROOT

LONGEST_S = 10
LARGEST_GIB = 3  # of this process, with torch and a tiny model in it

Door = Callable[[random.Random, Path], None]

VALUES: list[Any] = [
    None, True, [], {}, [[]], {"a": {"b": []}}, 0, -1, 1, 0.1 + 0.2, 1e-9, -0.0, 1e308,
    2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**400, math.nan, math.inf, -math.inf,
    "", " ", "\u200b", "\ufeff", "cut \ud83d", "\x1b[2J", "\x00", "\u202eevil", "a\nb\r\nc",
    "=HYPERLINK(1)", "<script>alert(1)</script>", "![x](http://192.0.2.1/x)", "| a | b |",
    "../../outside", "/etc/passwd", "http://192.0.2.1/x", "file:///etc/passwd", "hf://a/b",
    "$.99", "US $12.00", "19.99$", "1,234.50", "1.234,50", "1e5", "NaN", "inf", "4e-05", "٣",
    "x" * 100_000, "é" * 3_000, "e\u0301", "9" * 5_000, "9" * 400,
]  # fmt: skip
PIECES = [
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\n", b"\r", b'"', b"'", b",", b"\\",
    b"{", b"}", b"[" * 20_000, b'{"a":' * 5_000, b"&a [*a, *a]", b"*a", b"!!python/object:a.b",
    b": ", b"- ", b"\t", b"NaN", b"1e999", b"9" * 5_000, b"-", b"#", b"null", b"PAR1", b"\x1b[31m",
]  # fmt: skip


def harmed(rng: random.Random, data: bytes) -> bytes:
    """Return `data` with one to three things done to it."""
    for _ in range(rng.randint(1, 3)):
        start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        end = min(end, start + rng.choice([1, 4, 64, 4096]))
        match rng.randrange(6):
            case 0:
                data = data[:start]
            case 1:
                data = data[:start] + data[end:]
            case 2:
                data = data[:start] + rng.choice(PIECES) + data[end:]
            case 3:
                data = data[:end] + data[start:]
            case 4:
                data = data[:start] + bytes(len(data) - start)  # what a power loss leaves
            case _:
                place = min(start, max(len(data) - 1, 0))
                flipped = bytes(byte ^ (1 << rng.randrange(8)) for byte in data[place : place + 1])
                data = data[:place] + flipped + data[place + 1 :]
    return data


def changed(rng: random.Random, value: Any) -> Any:
    """Return JSON values with one to three of them replaced, renamed, removed or repeated."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, 3)):
        places = list(_places(value))
        if not places:
            return rng.choice(VALUES)
        holder, key = rng.choice(places)
        match rng.randrange(8):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[str(rng.choice(VALUES))] = holder.pop(key)
            case 2 if isinstance(holder, list):
                holder.insert(key, holder[key])
            case _:
                holder[key] = rng.choice(VALUES)
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list) and value[key]:
            yield from _places(value[key])


def spoil(rng: random.Random, file: Path) -> None:
    """Harm a file's bytes, or the values in it if it is JSON."""
    data = file.read_bytes()
    if file.suffix == ".json" and rng.random() < 0.6:
        file.write_text(json.dumps(changed(rng, json.loads(data))))
    else:
        file.write_bytes(harmed(rng, data))


def write_products(rng: random.Random, file: Path, rows: list[dict[str, Any]]) -> None:
    """Write products with some of their values changed, and now and then the file's bytes."""
    if rng.random() < 0.7:
        rows = changed(rng, rows)
    try:
        _write(file, rows)
    except (ValueError, TypeError, AttributeError, OverflowError, KeyError, Warning):
        _write(file, PRODUCTS)  # such values do not go into such a file
        file.write_bytes(harmed(rng, file.read_bytes()))
        return
    if rng.random() < 0.4:
        file.write_bytes(harmed(rng, file.read_bytes()))


def _write(file: Path, rows: Any) -> None:
    lines = rows if isinstance(rows, list) else [rows]
    match file.suffix:
        case ".json":
            file.write_text(json.dumps(rows), encoding="utf-8")
        case ".jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
        case ".txt":
            text = "".join(f"{row['summary']}\n" for row in lines)
            file.write_bytes(text.encode("utf-8", "surrogatepass"))
        case ".csv":
            pd.DataFrame(lines).to_csv(file, index=False, errors="surrogatepass")
        case _:
            pd.DataFrame(lines).to_parquet(file)


PRODUCTS = [
    {
        "id": n,
        "title": f"Kettle {n}",
        "category": ["Kitchen", "Garden"][n % 2],
        "price": 10.0 + n,
        "summary": f"A kettle of {n} litres, steel",
        "weight": 1.5,
        "noise_free_price": 11.0 + n,
    }
    for n in range(40)
]


def params_door(rng: random.Random, folder: Path) -> None:
    file = folder / "params.yaml"
    shutil.copy(ROOT / "params.yaml", file)
    spoil(rng, file)
    read_params(file)


def items_door(rng: random.Random, folder: Path) -> None:
    file = folder / f"items{rng.choice(['.jsonl', '.json', '.csv', '.parquet'])}"
    write_products(rng, file, PRODUCTS)
    splits, record = file_items(
        file,
        {"train": 12, "validation": 9, "test": 6},
        seed=1,
        on_invalid=rng.choice(["drop", "error"]),
        min_price=0.5,
        max_price=999.49,
    )
    every = pd.concat(splits.values())
    assert every["id"].is_unique and every["id"].between(-(2**63), 2**63 - 1).all()
    assert every["price"].between(0.5, 999.49).all()
    assert all(text.strip() and text.encode() for text in every["summary"])
    json.dumps(record, allow_nan=False)


LISTINGS = [
    {
        "main_category": ["Kitchen", "Garden"][n % 2],
        "title": f"Kettle {n}",
        "features": [f"{n} <b>litres</b>", "steel"],
        "description": [f"Word{n} and word{n + 1} &amp; word{n * n}, told at length"],
        "price": f"{10 + n}.00",
        "details": json.dumps({"Brand": f"Brand {n % 3}", "Item Weight": f"{n} pounds"}),
    }
    for n in range(60)
]


def raw_door(rng: random.Random, folder: Path) -> None:
    file = folder / f"items{rng.choice(['.jsonl', '.json', '.csv', '.parquet'])}"
    write_products(rng, file, LISTINGS)
    if file.suffix == ".jsonl" and rng.random() < 0.3:
        file = folder / "items.jsonl.gz"
        packed = gzip.compress((folder / "items.jsonl").read_bytes())
        file.write_bytes(harmed(rng, packed) if rng.random() < 0.5 else packed)
    sizes = {"train": 12, "validation": 9, "test": 6}
    raw = read_params(ROOT / "params.yaml").items.raw.model_copy(update={"min_characters": 40})
    splits, record = raw_items(file, sizes, seed=1, raw=raw, min_price=0.5, max_price=999.49)
    every = pd.concat(splits.values())
    assert every["id"].is_unique and every["title"].is_unique and every["summary"].is_unique
    assert every["price"].between(0.5, 999.49).all()
    assert all(len(text.encode()) >= 40 for text in every["summary"])
    counted = sum(record["left_out"].values()) + record["duplicates"] + record["unused"]
    assert record["read"] == counted + len(every)
    json.dumps(record, allow_nan=False)


def loaded() -> tuple[Any, dict[str, Any]]:
    """Stand in for a model: each product costs the same."""

    def estimate(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row | {"estimate_usd": 9.5, "error": None} for row in rows]

    return estimate, {"interval": 80}


def bulk_door(rng: random.Random, folder: Path) -> None:
    source = folder / f"in{rng.choice(['.txt', '.jsonl', '.json', '.csv', '.parquet'])}"
    out = folder / f"out{rng.choice(['.jsonl', '.csv', '.parquet'])}"
    write_products(rng, source, PRODUCTS)
    counts = predict_file(source, out, loaded, resume=False)
    assert counts["priced"] and out.is_file() and not partial_file(out).exists()


def resume_door(rng: random.Random, folder: Path) -> None:
    source, out = folder / "in.jsonl", folder / "out.jsonl"
    _write(source, PRODUCTS)
    estimate, options = loaded()
    rows = [{"options": options}, *estimate(PRODUCTS[:25])]
    partial_file(out).write_bytes(b"".join(map(partial._line, rows)))
    spoil(rng, partial_file(out))
    before = partial_file(out).read_bytes()
    try:
        predict_file(source, out, loaded, resume=True)
    except Exception:
        assert not before or partial_file(out).read_bytes() == before  # left as it was
        raise
    assert len(out.read_text().splitlines()) == len(PRODUCTS)


def compare_door(rng: random.Random, folder: Path) -> None:
    tables = []
    for name in ("a", "b"):
        file = folder / f"{name}.parquet"
        rows: list[dict[str, Any]] = [
            {"id": n, "price": 10.0 + n, "estimate_usd": 12.0 + n % 7, "crps": 2.0}
            for n in range(30)
        ]
        try:
            pd.DataFrame(changed(rng, rows) if rng.random() < 0.6 else rows).to_parquet(file)
        except (ValueError, TypeError, AttributeError, OverflowError, Warning):
            pd.DataFrame(rows).to_parquet(file)
        if rng.random() < 0.3:
            spoil(rng, file)
        tables.append(read_predictions(file, str(file)))
    result = compare(tables[0], tables[1], None, Bootstrap(100, 1))
    json.dumps(comparison_json(result), allow_nan=False)
    assert "nan" not in comparison_text(result, "a", "b", markdown=False)


def record_door(rng: random.Random, folder: Path) -> None:
    offsets = {str(level): 0.1 for level in LEVELS}
    calibration = {"method": "conformal", "n": 100, "offsets": offsets}
    file = folder / "tuned.json"
    write_record(file, ServingRecord.model_validate({"calibration": calibration}))
    spoil(rng, file)
    record = read_record(file)
    if record.calibration:
        assert all(math.isfinite(offset) for offset in record.calibration.offsets.values())


def checkpoint_door(rng: random.Random, folder: Path) -> None:
    checkpoint = folder / "run" / "checkpoint-7"
    checkpoint.mkdir(parents=True)
    for name in ("trainer_state.json", "adapter_config.json"):
        (checkpoint / name).write_text('{"a": [1, 2, {"b": null}]}')
    seal(checkpoint)
    sound = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    spoil(rng, rng.choice(sorted(checkpoint.iterdir())))
    found, _ = find_start(folder / "run")
    if found:  # nothing that matters was changed
        assert {name: (found / name).read_bytes() for name in sound if name != "complete.json"} == {
            name: data for name, data in sound.items() if name != "complete.json"
        }


@pytest.fixture(scope="module")
def trained(base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model and an adapter on it, as a pipeline leaves them."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(base_model_dir, folder / "base_model")
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folder / "base_model")
    get_peft_model(base, LoraConfig(r=2, task_type="CAUSAL_LM")).save_pretrained(folder / "adapter")
    return folder


def model_door(trained: Path) -> Door:
    exact = ServingRecord(
        quantization=QUANTIZATION.model_copy(update={"load_in_4bit": False}), dtype="float32"
    )

    def door(rng: random.Random, folder: Path) -> None:
        for name in ("base_model", "adapter"):
            shutil.copytree(trained / name, folder / name)
        spoil(rng, rng.choice(sorted(path for path in folder.rglob("*") if path.is_file())))
        (folder / "copy").mkdir()
        copy_base_model(folder / "base_model", folder / "copy")
        describe_base_model(folder / "copy")
        load_tokenizer(folder / "copy")
        predictor = Predictor(folder / "copy", folder / "adapter", settings=exact, device="cpu")
        [estimate] = predictor.predict(["steel kettle"], distribution=True)
        assert 0 <= estimate.estimate_usd <= 999 and estimate.probabilities is not None
        assert math.isclose(estimate.probabilities.sum(), 1)

    return door


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of evidence, as a pipeline leaves them."""
    table = pd.DataFrame(PRODUCTS)
    folder = tmp_path_factory.mktemp("evidence") / "models"
    settings = read_params(ROOT / "params.yaml").evidence
    write_models(folder, make_evidence({"train": table}, settings)[1])
    return folder


def evidence_door(sound: Path) -> Door:
    def door(rng: random.Random, folder: Path) -> None:
        shutil.copytree(sound, folder / "models")
        spoil(rng, rng.choice(sorted((folder / "models").iterdir())))
        models = read_models(folder / "models")
        with np.errstate(over="ignore"):  # a coefficient may be large, what it says is capped
            table = models.of_texts(["steel kettle", "garden kettle of 7 litres"])
        assert np.isfinite(table["words_estimate_usd"]).all()
        for neighbors in models.neighbors(table, 3):
            assert all(0 < one.similarity and 0 <= one.price_usd for one in neighbors)

    return door


# how many of a hundred inputs go through each
DOORS: dict[str, tuple[int, Door]] = {
    "params": (15, params_door),
    "items": (25, items_door),
    "raw": (5, raw_door),
    "bulk": (20, bulk_door),
    "resume": (5, resume_door),
    "compare": (10, compare_door),
    "record": (5, record_door),
    "checkpoint": (5, checkpoint_door),
}
MODELS, EVIDENCE = 10, 5


def _too_long(*_: object) -> None:
    raise AssertionError(f"takes more than {LONGEST_S} s")


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder to work in: nothing beside it is touched, and nobody is asked anything."""
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "outside").write_text("mine")
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(tmp_path))
    asked: list[object] = []

    def refuse(*address: object) -> None:
        asked.append(address)
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    before = _listed(tmp_path)
    yield work
    assert _listed(tmp_path) == before and not asked
    used_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    assert used_gib < LARGEST_GIB


def _listed(folder: Path) -> dict[str, int]:
    """Return what lies in a folder, and when it was changed, but for the folder `work`."""
    return {
        str(path): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if folder / "work" not in (path, *path.parents)
    }


def go_through(door: Door, seed: str, folder: Path) -> None:
    """Give one input to a door; let nothing but a right result or one line come out."""
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
    try:
        door(random.Random(seed), folder)
    except AssertionError as error:
        raise AssertionError(f"input {seed}") from error
    except BaseException as error:
        line = explain(error)
        assert line, f"input {seed} ends in a traceback"
        assert line.isprintable() and len(line) <= 2_000, f"input {seed}: {line[:300]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.parametrize("name", [*DOORS, "models", "evidence"])
def test_whatever_comes_in_a_right_result_or_one_line_comes_out(
    name: str, guarded: Path, request: pytest.FixtureRequest
) -> None:
    share, door = DOORS.get(name) or (
        (MODELS, model_door(request.getfixturevalue("trained")))
        if name == "models"
        else (EVIDENCE, evidence_door(request.getfixturevalue("evidence")))
    )
    first, inputs = (request.config.getoption(f"--fuzz{end}") for end in ("-from", ""))
    signal.signal(signal.SIGALRM, _too_long)
    for number in range(first, first + math.ceil(inputs * share / 100)):
        folder = guarded / str(number)
        folder.mkdir()
        os.chdir(folder)
        go_through(door, f"{name} {number}", folder)
        os.chdir(guarded)
        shutil.rmtree(folder)
