"""Experiments ranked by their error, each paired with the best one."""

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

from pricer.commands.sweeps import label, sweep, sweep_chart, sweep_json, sweep_text
from pricer.judging.metrics import mae
from pricer.judging.paired import Bootstrap
from pricer.prices.predictions import no_number_is_zero

PARAMS = {
    "main": {"lora.r": "16", "train.seed": "42", "lora.target_modules": "all-linear"},
    "one": {"lora.r": "32", "train.seed": "42", "lora.target_modules": "['q_proj', 'v_proj']"},
    "two": {"lora.r": "64", "train.seed": "42", "lora.target_modules": "all-linear"},
}


def predictions(shift: float, first: int = 0, n: int = 80) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    price = rng.lognormal(4, 1, 200)
    estimate = price + rng.normal(0, 30, 200)
    estimate += shift * np.sign(estimate - price)
    table = pd.DataFrame({"id": np.arange(200), "price": price, "estimate_usd": estimate})
    return table.iloc[first : first + n]


def rows(**tables: pd.DataFrame):
    found = {"main": predictions(5), "one": predictions(0), "two": predictions(9)} | tables
    return sweep(PARAMS, found, Bootstrap(400, seed=0))


def test_the_best_comes_first_and_the_others_are_paired_with_it():
    first, second, third = sweep_json(rows())
    assert [first["name"], second["name"], third["name"]] == ["one", "main", "two"]
    assert first["less_first"] is None and first["shared"] == first["n"] == 80
    assert first["mae"] == mae(predictions(0)["price"], predictions(0)["estimate_usd"])
    assert first["mae_ci_low"] < first["mae"] < first["mae_ci_high"]
    # the same products: a shift is told to the cent, whatever their spread
    assert second["less_first"]["mae"] == pytest.approx(5)
    assert third["less_first"]["mae_ci_low"] == pytest.approx(9)


def test_only_what_was_changed_is_told():
    assert [row["params"] for row in sweep_json(rows())] == [
        {"lora.r": "32", "lora.target_modules": "['q_proj', 'v_proj']"},
        {"lora.r": "16", "lora.target_modules": "all-linear"},
        {"lora.r": "64", "lora.target_modules": "all-linear"},
    ]


def test_other_products_are_not_compared():
    found = rows(two=predictions(300, first=60), main=predictions(300, first=100))
    by_name = {row["name"]: row for row in sweep_json(found)}
    assert by_name["main"]["shared"] == 0 and by_name["main"]["less_first"] is None
    assert by_name["two"]["shared"] == 20
    assert by_name["two"]["less_first"]["mae"] == pytest.approx(300)
    text = sweep_text(found, {}, markdown=False)
    assert "on n" in text.splitlines()[0] and "on n" not in sweep_text(rows(), {}, markdown=False)


def test_an_estimate_without_a_number_counts_as_zero():
    table = predictions(0)
    found = sweep_json(rows(two=no_number_is_zero(table.assign(estimate_usd=np.nan))))
    assert found[-1]["mae"] == pytest.approx(table["price"].mean())
    expected = table["price"].mean() - found[0]["mae"]
    assert found[-1]["less_first"]["mae"] == pytest.approx(expected)


@pytest.mark.parametrize("markdown", [False, True])
def test_it_is_told_to_people(markdown):
    text = sweep_text(rows(), {"Queued": 2, "Running": 0, "Failed": 1}, markdown=markdown)
    assert "+$5.00 (+5.00 to +5.00)" in text and ("|:--" in text) == markdown
    assert text.endswith("\n2 queued, 1 failed: `dvc queue status`\n")


def test_a_chart(tmp_path):
    found = rows()
    assert label(found[1]) == "main  lora.r=16  lora.target_modules=all-linear"
    sweep_chart(tmp_path / "sweep.png", found, "Experiments")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_what_experiments_and_params_are_called_is_text():
    name, value = "a|b<script>`c`", "\x1b[2J![a](http://e.example) | x"
    params = {"main": {"lora.r": "16"}, name: {"lora.r": value}}
    found = sweep(params, {"main": predictions(5), name: predictions(0)}, Bootstrap(100, seed=0))
    text = sweep_text(found, {}, markdown=True)
    markdown = MarkdownIt("gfm-like", {"linkify": False})
    [tokens] = [t.children for t in markdown.parse(text) if "<script" in t.content]
    assert {child.type for child in tokens} <= {"text", "text_special"}
    assert text.count("\n") == 4 and "\x1b" not in text + sweep_text(found, {}, markdown=False)
    params, tables = {"a": {"p": "x" * 999}, "b": {"p": "y"}}, {"a": predictions(0)}
    long = sweep(params, tables | {"b": predictions(5)}, Bootstrap(100, seed=0))
    assert len(label(long[0])) < 60 and "\x1b" not in label(found[0])


def test_a_chart_has_room_for_bars_beside_many_changed_params(tmp_path):
    """Matplotlib warns where it has none, and a warning is an error in tests."""
    knobs = {f"train.some_long_knob_{number}": "0.0001" for number in range(6)}
    params = {"a": knobs, "b": dict.fromkeys(knobs, "0.0002")}
    tables = {"a": predictions(0), "b": predictions(5)}
    found = sweep(params, tables, Bootstrap(100, seed=0))
    sweep_chart(tmp_path / "sweep.png", found, "Experiments")
