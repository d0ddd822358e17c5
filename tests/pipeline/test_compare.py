"""`pricer compare` between predictors, files, revisions and experiments of a real project."""

import json

import pandas as pd
import pytest

from pricer.judging.metrics import mae


@pytest.fixture(scope="module")
def tuned(reproduced) -> pd.DataFrame:
    return pd.read_parquet(reproduced.folder / "data/predictions/tuned.parquet")


def compare(project, *arguments: str, **options) -> dict:
    return json.loads(
        project.run("pricer", "compare", *arguments, "--format", "json", **options).stdout
    )


def test_predictors_of_one_run(reproduced, tuned):
    baselines = pd.read_parquet(reproduced.folder / "data/predictions/baselines.parquet")
    found = compare(reproduced, "ridge", "tuned")
    expected = mae(tuned["price"], tuned["estimate_usd"]) - mae(
        baselines["price"], baselines["ridge"]
    )
    assert found["n"] == 8 and found["delta"]["mae"]["value"] == pytest.approx(expected)
    assert "crps" not in found["delta"]  # a baseline gives no distribution
    assert "crps" in compare(reproduced, "base", "workspace")["delta"]
    assert set(found["slices"]) == {"price", "category"}


def test_an_experiment_and_a_revision(reproduced, tuned):
    """The experiment runs in a folder of its own: the workspace stays as it is."""
    reproduced.run("dvc", "exp", "run", "--temp", "-n", "modes", "-S", "predict.point=mode")
    try:
        found = compare(reproduced, "modes", "HEAD")
        expected = mae(tuned["price"], tuned["median"]) - mae(tuned["price"], tuned["mode"])
        assert found["delta"]["mae"]["value"] == pytest.approx(expected)
        assert found["a"]["crps"] == found["b"]["crps"]
        text = reproduced.run("pricer", "compare", "HEAD").stdout
        assert "A: HEAD\nB: workspace\n8 products" in text
        assert "A and B are equally good" in text
    finally:
        reproduced.run("dvc", "exp", "remove", "modes")
    assert reproduced.run("git", "status", "--porcelain").stdout == ""


def test_a_file_of_predictions(reproduced, tuned, tmp_path):
    better = tuned.assign(estimate_usd=tuned["price"])[["id", "price", "estimate_usd"]]
    better.to_parquet(tmp_path / "better.parquet")
    found = compare(reproduced, "workspace", str(tmp_path / "better.parquet"))
    assert found["b"]["mae"] == 0 and found["win_rate"] == 1
    assert found["moved"][0]["title"]


def test_a_gate_for_ci(reproduced, tuned, tmp_path):
    worse = tuned.assign(estimate_usd=tuned["estimate_usd"] + 1000)[["id", "price", "estimate_usd"]]
    worse.to_parquet(tmp_path / "worse.parquet")
    gate = ["tuned", str(tmp_path / "worse.parquet"), "--fail-if-worse", "0.02"]
    failed = reproduced.run("pricer", "compare", *gate, ok=False)
    assert failed.returncode == 2 and "above A's, more than the 2.0% allowed" in failed.stderr
    reproduced.run("pricer", "compare", *reversed(gate[:2]), *gate[2:])
    reproduced.run("pricer", "compare", "tuned", "tuned", "--fail-if-worse", "0")


def test_whatever_is_worse_than_no_error_at_all_is_worse(reproduced, tuned, tmp_path):
    exact = tuned.assign(estimate_usd=tuned["price"])[["id", "price", "estimate_usd"]]
    exact.to_parquet(tmp_path / "exact.parquet")
    gate = ["pricer", "compare", str(tmp_path / "exact.parquet")]
    failed = reproduced.run(*gate, "tuned", "--fail-if-worse", "0.5", ok=False)
    assert failed.returncode == 2 and "error is above A's, which is 0, more than" in failed.stderr
    reproduced.run(*gate, str(tmp_path / "exact.parquet"), "--fail-if-worse", "0")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere", "'nowhere' is no predictor, git revision or experiment"),
        ("nowhere.parquet", "nowhere.parquet is missing: run `dvc repro`"),
        (
            "data/predictions/baselines.parquet",
            "no predictions of one predictor (estimate_usd missing",
        ),
        ("data/items/test.parquet", "no predictions of one predictor (estimate_usd missing"),
        ("broken.parquet", "broken.parquet: not a readable Parquet file"),
        ("other.parquet", "share no product"),
    ],
)
def test_what_cannot_be_compared_is_one_line(reproduced, tuned, name, says, tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    tuned.assign(id=tuned["id"] + 1).to_parquet(tmp_path / "other.parquet")
    if name in ("broken.parquet", "other.parquet"):
        name = str(tmp_path / name)
    failed = reproduced.run("pricer", "compare", "tuned", name, ok=False)
    assert failed.returncode == 1 and len(failed.stderr.splitlines()) == 1
    assert says in failed.stderr


def test_predictions_of_another_run_than_the_params_are_told(reproduced):
    """As an interrupted run leaves them: its first stages are new, what is judged is not."""
    before = reproduced.hashes("data", "metrics")
    reproduced.set(prompts__cutoff=40)
    try:
        reproduced.run("dvc", "repro", "prompts")
        told = reproduced.run("pricer", "compare", "HEAD").stderr
        assert "the predictions here are not of the params and code here" in told
        assert "would run" in told and "train" in told
        gate = ["pricer", "compare", "HEAD", "--fail-if-worse", "0.02"]
        failed = reproduced.run(*gate, ok=False)
        assert failed.returncode == 1 and len(failed.stderr.splitlines()) == 1
        assert not reproduced.run("pricer", "compare", "HEAD", "base").stderr
    finally:
        reproduced.run("git", "checkout", "params.yaml", "dvc.lock", "metrics")
        reproduced.run("dvc", "checkout")
    assert reproduced.hashes("data", "metrics") == before
    assert not reproduced.run(*gate).stderr


def test_a_run_of_another_machine(reproduced, tmp_path):
    """A clone without a remote has none of its predictions but those that git holds."""
    project = reproduced.__class__(tmp_path / "clone", reproduced.environment)
    reproduced.run("git", "clone", "-q", ".", str(project.folder))
    own = reproduced.folder / "data/predictions/base.parquet"
    done = project.run("pricer", "compare", "HEAD", str(own), "--format", "json")
    assert "HEAD: not in DVC's cache; compared by the 8 estimates" in done.stderr
    expected = compare(reproduced, "HEAD", "base")["delta"]["mae"]
    assert json.loads(done.stdout)["delta"]["mae"] == pytest.approx(expected, rel=1e-3)

    project.run("git", "rm", "-q", "metrics/plots/scatter.json")
    project.run("git", "commit", "-qm", "a run without")
    failed = project.run("pricer", "compare", "HEAD", str(own), ok=False)
    assert "data/predictions/tuned.parquet of HEAD is not in the DVC cache" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1
