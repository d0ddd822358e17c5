"""The evaluate stage: what it finds damaged, and what it leaves where it fails."""

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from pricer.errors import PricerError
from pricer.files import write_json, write_parquet
from pricer.judging.charts import CHARTS, CURVES
from pricer.stages.evaluate import main
from tests.conftest import ROOT
from tests.judging.conftest import EVIDENCE, make_evidence, make_predictions

FOLDERS = tuple(
    f"data/{name}"
    for name in ("items", "evidence", "prompts", "base_model", "adapter", "predictions")
)


@pytest.fixture
def project(items, tmp_path, monkeypatch):
    """What earlier stages leave, with two charts to draw."""
    monkeypatch.chdir(tmp_path)
    for name in set(CHARTS) - {"leaderboard", "error_by_category"}:
        monkeypatch.delitem(CHARTS, name)
    params = (ROOT / "params.yaml").read_text()
    Path("params.yaml").write_text(params.replace("_resamples: 10000", "_resamples: 100"))
    for folder in FOLDERS:
        Path(folder).mkdir(parents=True)
    test = items.head(40)
    write_parquet(Path("data/items/test.parquet"), test)
    for seed, name in enumerate(("tuned", "base")):
        table = make_predictions(test, 0.4, seed)
        write_parquet(Path(f"data/predictions/{name}.parquet"), table)
    write_parquet(Path("data/evidence/test.parquet"), make_evidence(test))
    guesses = {"mean_price": 100.0, "ridge_log": test["price"] * 1.5, "nearest_neighbors": 90.0}
    baselines = test[["id", "price"]].assign(**guesses)
    write_parquet(Path("data/predictions/baselines.parquet"), baselines)
    for name, facts in {"items": {"n": 40}, "prompts": {"n": 40}, "evidence": EVIDENCE}.items():
        write_json(Path(f"metrics/{name}.json"), facts)
    curves = Path("metrics/train/plots/metrics")
    curves.mkdir(parents=True)
    for name in CURVES:
        pd.DataFrame({"step": [5], name: [0.9]}).to_csv(curves / f"{name}.tsv", sep="\t")
    return tmp_path


def evaluate() -> dict[str, bytes]:
    """Run the stage and return what it wrote."""
    main(*map(Path, FOLDERS), Path("metrics"))
    return written()


def written() -> dict[str, bytes]:
    inputs = {Path(f"metrics/{name}.json") for name in ("items", "evidence", "prompts")}
    return {
        str(path): path.read_bytes()
        for path in sorted(Path("metrics").rglob("*"))
        if path.is_file() and path not in inputs and "train" not in path.parts
    }


def test_a_failure_at_any_write_leaves_whole_files_and_the_next_run_the_same(project, monkeypatch):
    whole, replace, calls = evaluate(), os.replace, []
    outputs = {"evaluate.json", "slices.json", "plots", "charts", "report.html", "report.md"}
    assert outputs == {Path(name).parts[1] for name in whole}
    for fail in range(1, 20):
        for name in outputs:
            path = Path("metrics") / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        calls.clear()

        def failing(source, target, fail=fail):
            calls.append(target)
            if len(calls) == fail:
                raise OSError("killed")
            replace(source, target)

        monkeypatch.setattr(os, "replace", failing)
        try:
            evaluate()
        except OSError:
            left = written()
            assert left.items() <= whole.items() and left != whole
        else:
            break
    assert len(calls) > 6 and written() == whole


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("items.json", b'{"n": 4', r"is damaged \(.*brings it back"),
        ("evidence.json", b"{", "is damaged"),
        ("prompts.json", b"[1]", "is damaged"),
        ("prompts.json", b"\xff", "is damaged"),
        ("train/plots/metrics/train_loss.tsv", b"", "is damaged"),
        ("train/plots/metrics/train_loss.tsv", b"step\ttrain_loss\n5\tx\n", "is damaged"),
        ("train/plots/metrics/validation_loss.tsv", None, "is damaged"),
    ],
)
def test_a_damaged_small_file_is_told_before_anything_is_written(project, name, content, says):
    file = Path("metrics") / name
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(PricerError, match=f"^metrics/{name} {says}") as told:
        evaluate()
    assert "\n" not in str(told.value) and written() == {}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"price": 5.0}, "the tuned predictions are of other prices"),
        ({"id": range(1, 41)}, "the tuned predictions are not of these items"),
        ({"crps": float("nan")}, "crps of product .* must be a finite number"),
        ("crps", "the tuned predictions lack crps: run `dvc repro`"),
    ],
)
def test_predictions_that_do_not_belong_are_told(project, change, says):
    file = Path("data/predictions/tuned.parquet")
    table = pd.read_parquet(file)
    changed = table.drop(columns=change) if isinstance(change, str) else table.assign(**change)
    write_parquet(file, changed)
    with pytest.raises(PricerError, match=says):
        evaluate()
    assert written() == {}


def test_evidence_of_other_products_is_told(project):
    file = Path("data/evidence/test.parquet")
    write_parquet(file, pd.read_parquet(file).assign(id=range(1, 41)))
    with pytest.raises(PricerError, match="the rows of evidence are not of these items"):
        evaluate()
    assert written() == {}


@pytest.mark.parametrize("told", [True, False])
def test_the_report_has_a_section_on_evidence_where_prompts_tell_it(project, told):
    if not told:
        params = Path("params.yaml").read_text().replace("words: true", "words: false")
        Path("params.yaml").write_text(params.replace("neighbors: 3", "neighbors: 0"))
    evaluate()
    for name, title in {"report.md": "## Evidence", "report.html": "<h2>Evidence</h2>"}.items():
        text = (Path("metrics") / name).read_text(encoding="utf-8")
        assert (title in text) == told and "similarity" in text
