"""`pricer predict` around a model that says the same of everything."""

import csv
import io
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from pricer.commands import main as command
from pricer.commands.predict import predict
from pricer.commands.pricing import Question, load
from pricer.errors import PricerError
from pricer.evidence.models import Neighbor
from pricer.prices.predictor import Predictor, PriceEstimate
from pricer.prices.record import Calibration, ServingRecord, ToldEvidence

ESTIMATE = PriceEstimate(9.5, 1.0, 20.0, 80, True, 4.2, 0.9, 0.0, False)
HOSTILE = "\x1b[2Jred [bold]\u202e ✂"
TITLES = (HOSTILE, "=HYPERLINK(1)", "x" * 10_000)
LIKENED = replace(
    ESTIMATE,
    neighbors=tuple(Neighbor(title, 11.5, 0.731) for title in TITLES),
    words_estimate_usd=1234.5,
)
COLUMNS = ["estimate_usd", "low_usd", "high_usd", "interval", "calibrated"]
COLUMNS += ["expected_error_usd", "price_mass"]
COLUMNS += ["dropped_mass", "truncated", "damaged_text", "error", "summary"]


class FakePredictor:
    """A Predictor as far as the command sees it."""

    settings = ServingRecord()
    model = SimpleNamespace(device=torch.device("cpu"))

    def predict_each(self, products, **_):
        return [ESTIMATE if product["summary"] else "no description" for product in products]


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    fake = FakePredictor()
    monkeypatch.setattr(Predictor, "from_pipeline", lambda *_: fake)
    return fake


@pytest.fixture
def told(fake, monkeypatch):
    """A model whose prompts tell evidence."""
    fake.settings = ServingRecord(evidence=ToldEvidence(neighbors=3, words=True))
    likened = replace(LIKENED, probabilities=[0.5, 0.5])
    monkeypatch.setattr(
        fake,
        "predict_each",
        lambda products, **_: [likened if row["summary"] else "no description" for row in products],
    )


@pytest.fixture
def source(tmp_path) -> Path:
    file = tmp_path / "in.jsonl"
    rows = [{"summary": HOSTILE}, {"summary": None}, {"summary": "cut \ud83d"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def ascii_stdout(monkeypatch) -> io.BytesIO:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    return written


def test_json_lines_are_utf8_and_safe_to_print_whatever_the_locale(source, monkeypatch, capsys):
    written = ascii_stdout(monkeypatch)
    predict(file=str(source))
    text = written.getvalue().decode()
    assert "\x1b" not in text and "\u202e" not in text and "✂" in text
    hostile, none, cut = map(json.loads, text.splitlines())
    assert hostile["summary"] == HOSTILE and hostile["estimate_usd"] == 9.5
    assert none["estimate_usd"] is None and none["error"] == "no description"
    assert cut["summary"] == "cut \ufffd" and cut["damaged_text"] and not hostile["damaged_text"]
    assert list(hostile) == list(none) == list(cut)
    assert capsys.readouterr().err.endswith("1 products without an estimate, see `error`\n")


def test_the_table_on_a_terminal_holds_no_control_characters(source, monkeypatch, capsys):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    predict(file=str(source))
    said = capsys.readouterr().out
    assert "\x1b[2J" not in said and "\\x1b[2Jred [bold]\\u202e" in said
    assert "$9.50" in said and "no description" in said


def test_without_evidence_there_are_no_columns_for_it(source, capsys):
    predict(file=str(source))
    assert {tuple(json.loads(line)) for line in capsys.readouterr().out.splitlines()} == {
        tuple(COLUMNS)
    }


def test_json_lines_tell_what_a_product_is_likened_to(told, source, capsys):
    predict(file=str(source))
    text = capsys.readouterr().out
    assert "\x1b" not in text and "\u202e" not in text
    fine, none, _ = map(json.loads, text.splitlines())
    assert (
        list(fine)
        == list(none)
        == [*COLUMNS[:9], "neighbors", "words_estimate_usd"] + (COLUMNS[9:])
    )
    assert fine["neighbors"] == [
        {"title": title, "price_usd": 11.5, "similarity": 0.731} for title in TITLES
    ]
    assert fine["words_estimate_usd"] == 1234.5
    assert none["neighbors"] is none["words_estimate_usd"] is None


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_has_what_products_are_likened_to_in_a_column(told, source, tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    predict(file=str(source), output=str(out))
    if suffix == ".csv":
        with out.open(newline="") as stream:
            fine, none, _ = csv.DictReader(stream)
        assert "\x1b" not in fine["neighbors"] and none["neighbors"] == ""
        neighbors = json.loads(fine["neighbors"])
    else:
        fine, none, _ = pd.read_parquet(out).to_dict(orient="records")
        assert none["neighbors"] is None
        neighbors = list(fine["neighbors"])
    assert [one["title"] for one in neighbors] == list(TITLES)
    assert float(fine["words_estimate_usd"]) == 1234.5


def test_one_product_is_shown_with_what_it_is_likened_to(told, monkeypatch, capsys):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setenv("COLUMNS", "80")
    predict("kettle")
    said = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)  # bold and the like
    assert "\x1b" not in said and max(map(len, said.splitlines())) <= 80
    likened = said[said.index("likened to") :]
    assert len(likened.splitlines()) == 5
    assert "\\x1b[2Jred [bold]\\u202e ✂" in likened and "xxx…" in likened
    assert likened.count("$11.50") == likened.count("0.73") == 3
    assert "words and these suggest" in likened and "$1,234.50" in likened


def test_without_evidence_nothing_is_likened(monkeypatch, capsys):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setattr(
        FakePredictor, "predict_each", lambda *_, **__: [replace(ESTIMATE, probabilities=[1.0])]
    )
    predict("kettle")
    assert "likened" not in capsys.readouterr().out


@pytest.mark.parametrize("distribution", [False, True])
def test_columns_are_the_same_with_an_estimate_and_without(distribution):
    estimate, _ = load(Question(90, distribution=distribution))
    fine, none = estimate([{"id": 1, "summary": "kettle"}, {"id": 2, "summary": None}])
    assert list(fine) == list(none) and ("probabilities" in fine) == distribution
    assert none["interval"] == 90 and none["estimate_usd"] is None and none["id"] == 2


def test_all_that_shapes_an_estimate_is_compared_when_a_file_is_resumed(fake, monkeypatch):
    def options(**asked):
        return load(Question(**asked))[1]

    before = options()
    assert before == options() == options(point="median")
    assert json.loads(json.dumps(before)) == before
    for asked in ({"interval": 90}, {"point": "mean"}, {"distribution": True}):
        assert [key for key in before if before[key] != options(**asked)[key]] == list(asked)
    calibration = Calibration(method="made up", n=9, offsets={"80": 0.1})
    for change in (
        {"base_model_sha256": "0" * 64},
        {"adapter_sha256": "0" * 64},
        {"calibration": calibration},
        {"cutoff": 7},
        {"dtype": "float32"},
        {"max_price": 500},
        {"evidence": ToldEvidence(neighbors=1, words=True)},
    ):
        fake.settings = ServingRecord(**change)
        assert [key for key in before if before[key] != options()[key]] == ["model"], change
    fake.settings = ServingRecord()
    monkeypatch.setattr("pricer.commands.pricing.pricing_hashes", lambda: {"pricer/x.py": "other"})
    assert [key for key in before if before[key] != options()[key]] == ["code"]


def test_one_product_that_cannot_be_priced_is_an_error(fake, monkeypatch):
    fake.predict_each = lambda *_, **__: ["no numbers"]
    with pytest.raises(PricerError, match="no numbers"):
        predict("kettle")


def test_closed_standard_streams_are_told_or_done_without(source, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    for asked in ({"description": "kettle"}, {"file": source}):
        with pytest.raises(PricerError, match="standard output is closed: name a file"):
            predict(**asked)
    monkeypatch.setattr("sys.stderr", None)
    out = tmp_path / "out.jsonl"
    monkeypatch.setattr(
        "sys.argv", ["pricer", "predict", "--file", str(source), "--output", str(out)]
    )
    command.main()
    sys.stderr.close()
    assert len(out.read_text().splitlines()) == 3


def test_too_little_memory_is_one_line(fake, monkeypatch, capsys):
    def no_memory(*_, **__):
        raise MemoryError

    fake.predict_each = no_memory
    monkeypatch.setattr("sys.argv", ["pricer", "predict", "kettle"])
    with pytest.raises(SystemExit):
        command.main()
    assert capsys.readouterr().err.startswith("pricer: not enough memory")


def test_a_terminal_shows_what_its_encoding_lacks_as_escapes(monkeypatch):
    written = ascii_stdout(monkeypatch)
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    fake_row = replace(ESTIMATE, probabilities=[0.5, 0.5])
    monkeypatch.setattr(FakePredictor, "predict_each", lambda *_, **__: [fake_row])
    monkeypatch.setattr("sys.argv", ["pricer", "predict", os.fsdecode("kettle ✂".encode())])
    command.main()
    assert b"kettle \\u2702" in written.getvalue()
