"""Adapters side by side in one running program."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from tests.pipeline.conftest import wait_until

from .conftest import KETTLE, serving


@pytest.fixture(scope="module")
def half(shop, tmp_path_factory):
    """An adapter of half the strength."""
    folder = tmp_path_factory.mktemp("half") / "adapter"
    shutil.copytree(shop.folder / "data/adapter", folder)
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({name: one * (0.5 if "lora_B" in name else 1) for name, one in weights.items()}, file)
    return folder


def alone(shop, adapter=None) -> float:
    """What an adapter says; without one, what the pipeline left, with its calibration."""
    folders = f"'data/base_model', {str(adapter)!r}, evidence='data/evidence/models'"
    code = (
        "from pricer import Predictor;"
        f"p = {f'Predictor({folders})' if adapter else 'Predictor.from_pipeline()'};"
        f"print(p.predict([{KETTLE!r}], point='mean')[0].estimate_usd)"
    )
    return float(shop.run("python", "-c", code).stdout)


def test_each_adapter_gives_what_it_gives_alone(shop, half, tmp_path):
    options = ("--database", str(tmp_path / "log.sqlite"), "--variant", f"half={half}")
    with serving(shop, *options) as running:
        found = {
            name: running.estimate(KETTLE, kind="mean", variant=name)[0]
            for name in ("half", "tuned")
        }
        [unnamed] = running.estimate(KETTLE, kind="mean")
    assert unnamed["variant"] == "tuned" and found["half"]["variant"] == "half"
    assert found["half"]["interval"]["calibrated"] is False  # of that adapter nothing is known
    tuned = alone(shop)
    assert found["half"]["estimate_usd"] == pytest.approx(alone(shop, half), rel=1e-3)
    assert found["tuned"]["estimate_usd"] == pytest.approx(tuned, rel=1e-3)
    assert found["half"]["estimate_usd"] != pytest.approx(tuned, rel=1e-3)


def test_another_project_is_a_variant_with_its_calibration(shop, tmp_path):
    other = shop.copy(tmp_path / "other")
    options = ("--database", str(tmp_path / "log.sqlite"), "--variant", f"b={other.folder}")
    with serving(shop, *options) as running:
        [b], [tuned] = (running.estimate(KETTLE, variant=name) for name in ("b", "tuned"))
    assert b["interval"] == tuned["interval"] and b["interval"]["calibrated"]


def test_an_adapter_that_does_not_fit_ends_in_one_line(shop, half, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(half, broken)
    (broken / "adapter_model.safetensors").write_bytes(b"cut off")
    options = ("--port", "0", "--database", str(tmp_path / "log.sqlite"))
    done = shop.run("pricer", "serve", *options, "--variant", f"b={broken}", ok=False)
    assert done.stderr.count("\n") == 1 and "not readable" in done.stderr


def test_a_split_and_a_shadow_are_judged_by_outcomes(shop, half, tmp_path):
    log = str(tmp_path / "log.sqlite")
    options = ("--variant", f"half={half}", "--variant", f"other={half}", "--split", "half=0.5")
    options += ("--shadow", "other", "--shadow-share", "1")
    products = [{"description": f"{KETTLE} {n}", "key": f"listing {n % 60}"} for n in range(240)]
    with serving(shop, "--database", log, *options) as running, running.client() as client:
        found = []
        for start in range(0, len(products), 60):
            asked = {"products": products[start : start + 60]}
            found += client.post("/v1/estimates", json=asked).json()["estimates"]
        names = [one["variant"] for one in found]
        assert names[:60] * 4 == names and 15 < names[:60].count("half") < 45
        wait_until(
            lambda: running.meter("pricer_estimates_total") >= 480,
            running.process,
        )
        for start in range(0, len(found), 60):
            sold = [
                {"estimate_id": one["id"], "price_usd": 40} for one in found[start : start + 60]
            ]
            assert client.post("/v1/outcomes", json={"outcomes": sold}).status_code == 201
    told = json.loads(shop.run("pricer", "variants", "--database", log, "--format", "json").stdout)
    assert set(told) == {"half", "other", "tuned"}
    assert told["other"]["compared_by"] == "shadow" and told["other"]["n"] == 240
    assert told["half"]["compared_by"] == "split"
    assert told["half"]["less_main"] is None and "too few" in told["half"]["verdict"]
    text = shop.run("pricer", "variants", "--database", log).stdout
    assert "tuned: off by $" in text and "by shadow:" in text


def test_variants_needs_a_log_with_outcomes(shop, service, tmp_path):
    done = shop.run("pricer", "variants", "--database", str(tmp_path / "none"), ok=False)
    assert "there is no log" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "none").exists()
