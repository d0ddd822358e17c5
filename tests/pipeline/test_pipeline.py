"""The pipeline through real `dvc` commands, with a tiny base model."""

import json
import re
import shutil

import pandas as pd
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from pricer.escaping import markdown
from pricer.judging.charts import CHARTS
from pricer.judging.metrics import METRICS, TABLE_METRICS
from pricer.prices.predictions import COLUMNS
from pricer.provenance import file_sha256, folder_digest
from tests.conftest import PIPELINE, ROOT
from tests.test_project import covered, stage_definitions


def ran(output: str) -> set[str]:
    """Stages that `dvc repro` ran, from what it printed."""
    return set(re.findall(r"Running stage '([\w@]+)'", output))


def test_everything_is_there(reproduced):
    metrics = json.loads((reproduced.folder / "metrics/evaluate.json").read_text())
    assert metrics["n"] == 8
    assert {"mae_ci_low", "mae_ci_high", "floor_mae", *METRICS, *TABLE_METRICS} <= set(metrics)
    assert metrics["base"]["n"] == metrics["median_price"]["n"] == metrics["ridge"]["n"] == 8
    assert 0 < metrics["floor_mae"] < metrics["median_price"]["mae"]
    slices = json.loads((reproduced.folder / "metrics/slices.json").read_text())
    assert sum(own["n"] for own in slices["price"]["tuned"].values()) == 8
    assert {"crps", "coverage_80", "raw_coverage_80", "interval_score_80", "price_mass"} <= set(
        metrics
    )
    assert metrics["points"]["median"]["mae"] == metrics["mae"]
    charts = [f"charts/{name}" for name in CHARTS]
    for name in ["summary_tokens", "example_tokens", *charts]:
        assert (reproduced.folder / f"metrics/{name}.png").read_bytes().startswith(b"\x89PNG")
    page = (reproduced.folder / "metrics/report.html").read_text()
    hash_cells = r"<code>((?:data|pricer)/[\w/.]+)</code></td><td><code>([0-9a-f]{64})<"
    told = dict(re.findall(hash_cells, page))
    code = {name for name in told if name.startswith("pricer/")}
    assert {"pricer/judging/report.py", "pricer/prices/distribution.py"} <= code
    assert code <= covered(stage_definitions()["evaluate"]["deps"])
    for name, sha256 in told.items():
        path = reproduced.folder / name
        assert sha256 == (folder_digest(path) if path.is_dir() else file_sha256(path)), name
    data = {f"data/{name}" for name in ("items", "evidence", "prompts", "base_model")}
    data |= {"data/adapter"}
    data |= {f"data/predictions/{name}.parquet" for name in ("base", "tuned", "baselines")}
    assert set(told) - code == data
    assert "<code>lora.r</code></td><td><code>4</code>" in page
    predictions = pd.read_parquet(reproduced.folder / "data/predictions/tuned.parquet")
    assert list(predictions) == list(COLUMNS)
    assert (predictions["low_80"] <= predictions["high_80"]).all()
    assert (predictions["q05"] <= predictions["q95"]).all()
    record = json.loads((reproduced.folder / "data/serving/tuned.json").read_text())
    calibration = record["calibration"]
    assert calibration["n"] == 12 and {"50", "80", "90"} <= set(calibration["offsets"])
    assert record["cutoff"] == 60 and record["adapter_sha256"] and record["base_model_sha256"]
    of_base = json.loads((reproduced.folder / "data/serving/base.json").read_text())
    assert of_base["adapter_sha256"] is None
    prompts = pd.read_parquet(reproduced.folder / "data/prompts/test.parquet")
    assert list(prompts) == [
        "id",
        "prompt",
        "completion",
        "price",
        "prompt_tokens",
        "completion_tokens",
        "truncated",
    ]
    assert reproduced.run("git", "status", "--porcelain").stdout == ""


def test_a_second_run_does_nothing_and_a_forced_one_gives_the_same_bytes(reproduced):
    again = reproduced.run("dvc", "repro")
    assert not ran(again.stdout) and "up to date" in again.stdout
    before = reproduced.hashes("data", "metrics")
    shutil.rmtree(reproduced.folder / ".checkpoints", ignore_errors=True)  # to train from the start
    forced = reproduced.run("dvc", "repro", "--force")
    assert ran(forced.stdout) == set(PIPELINE)
    assert reproduced.hashes("data", "metrics") == before
    assert reproduced.run("git", "status", "--porcelain").stdout == ""


def test_the_adapter_loads_elsewhere_and_says_what_made_it(reproduced, base_model_dir):
    folder = reproduced.folder / "data/adapter"
    model = AutoModelForCausalLM.from_pretrained(base_model_dir)
    tuned = PeftModel.from_pretrained(model, str(folder))
    assert any(p.abs().sum() > 0 for n, p in tuned.named_parameters() if "lora_B" in n)
    ids = torch.tensor([[1, 2, 3]])
    assert tuned(ids).logits.isfinite().all()
    card = (folder / "README.md").read_text()
    assert markdown(f"folder {base_model_dir}") in card
    assert "| `lora.r` | 4 |" in card and re.search("train.parquet` . `[0-9a-f]{64}", card)
    assert "loss" not in card and "MAE" not in card


@pytest.mark.parametrize(
    ("knob", "value", "stages"),
    [
        ("lora__r", 2, {"train", "predict"}),
        ("evaluate__seed", 7, {"evaluate"}),
    ],
)
def test_a_knob_reruns_what_depends_on_it(reproduced, knob, value, stages):
    reproduced.set(**{knob: value})
    try:
        # the tiny model may well say the same prices, which need no second evaluation
        assert stages <= ran(reproduced.run("dvc", "repro").stdout) <= stages | {"evaluate"}
    finally:
        reproduced.run("git", "checkout", "params.yaml", "dvc.lock", "metrics")
        reproduced.run("dvc", "checkout")
    assert not ran(reproduced.run("dvc", "repro", "--dry").stdout)


def test_a_new_product_in_the_users_file_reruns_what_reads_it(reproduced):
    file = reproduced.folder / "examples/products.jsonl"
    before = file.read_text()
    row = {"title": "One more", "category": "", "price": "$5.00", "summary": "One more thing"}
    file.write_text(before + json.dumps(row) + "\n")
    try:
        assert "fetch@items" in ran(reproduced.run("dvc", "repro", "--dry").stdout)
    finally:
        file.write_text(before)


def test_plots_overlay_two_revisions(reproduced):
    done = reproduced.run("dvc", "plots", "diff", "HEAD~1", "HEAD", "--json")
    plots = json.loads(done.stdout)["data"]
    bars = plots["Mean absolute error by price"][0]["content"]
    assert bars["encoding"]["yOffset"]["field"] == "rev" and "DVC_METRIC" not in str(bars)
    for title in ("Mean absolute error by predictor", "Calibration of quantiles", "Training loss"):
        assert plots[title][0]["revisions"] == ["HEAD~1", "HEAD"], title
    images = {name for name, found in plots.items() if found[0]["type"] == "image"}
    assert {f"metrics/charts/{name}.png" for name in CHARTS} <= images


@pytest.mark.parametrize("target", ["repro", "test", "lint", "format", "clean"])
def test_make_help_names_every_target(target):
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE)
