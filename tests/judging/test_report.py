import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pricer.judging import report as rp
from pricer.judging.evaluation import evaluate_run
from pricer.judging.report import (
    CHARTS,
    Report,
    best_and_worst,
    code_hashes,
    data_hashes,
    draw_charts,
    html_report,
    leaderboard,
    markdown_report,
    published_scores,
    score_table,
    sentence,
)
from pricer.prices.distribution import prediction_columns

HOSTILE = (
    '| `rm` <script>alert(1)</script><img src="http://evil.example/x.png" onerror="alert(2)">'
    "{{ 7 * 7 }} {% raw %} ](javascript:alert(3)) \u202e &amp; 😀\n# heading"
)
TOKENS = {"n": 90, "summary_tokens_mean": 48.2}


def make_predictions(items: pd.DataFrame, spread: float, seed: int) -> pd.DataFrame:
    """A predictions table of log-normal distributions around the truth, `spread` wide."""
    rng = np.random.default_rng(seed)
    center = np.log1p(items["price"]) + rng.normal(0, spread, len(items))
    z = (np.log1p(np.arange(1000)) - center.to_numpy()[:, None]) / spread
    probabilities = np.exp(-(z**2) / 2)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    offsets = {"50": 0.1, "80": 0.1, "90": 0.1}
    columns = prediction_columns(items["price"], probabilities, offsets)
    table = pd.DataFrame({"id": items["id"], "price": items["price"], "point": columns["median"]})
    return table.assign(greedy=columns["mode"], price_mass=0.9, dropped_mass=0.01).join(columns)


def make_evaluation(items: pd.DataFrame):
    items = items.reset_index(drop=True)
    estimates = {"mean": 100.0, "median": 70.0, "ridge": items["price"] * 1.6}
    return evaluate_run(
        items,
        {
            "tuned": make_predictions(items, 0.4, 0),
            "base": make_predictions(items, 1.2, 1),
        },
        items[["id", "price"]].assign(**estimates),
        resamples=200,
        seed=0,
    )


@pytest.fixture(scope="session")
def evaluation(items):
    named = items.head(90).copy()
    named.loc[named.index[3], ["title", "summary", "category"]] = [HOSTILE] * 3
    named.loc[named.index[3], "price"] = 990.0  # among the worst, so that it is shown
    return make_evaluation(named)


@pytest.fixture(scope="session")
def report(evaluation):
    return Report(
        evaluation,
        published_scores("ed-donner/items_lite"),
        tokens=TOKENS,
        params={"lora.r": 16},
        hashes={"data/items": "abc.dir"},
    )


@pytest.fixture(scope="session")
def charts(tmp_path_factory, evaluation):
    folder = tmp_path_factory.mktemp("charts")
    curves = folder / "train/plots/metrics"
    curves.mkdir(parents=True)
    for name in ("train_loss", "validation_loss"):
        (curves / f"{name}.tsv").write_text(f"step\t{name}\n5\t0.9\n10\t0.8\n")
    draw_charts(folder, evaluation, published_scores("ed-donner/items_lite"), folder / "train")
    return folder


@pytest.fixture(scope="session")
def page(report, charts):
    return html_report(report, charts)


def test_every_chart_is_drawn_and_in_the_page(charts, page):
    assert {path.stem for path in charts.glob("*.png")} == set(CHARTS)
    assert page.count('src="data:image/png;base64,') == len(CHARTS)
    assert len(page) < 3_000_000


def test_the_page_escapes_what_products_say(page):
    assert "<script" not in page and "onerror=&#34;" in page
    assert 'src="http' not in page and "url(" not in page
    assert "49" not in re.findall(r"alert\(2\)&#34;&gt;(.{0,12})", page)[0]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_markdown_shows_what_products_say_as_it_is(report):
    text = markdown_report(report)
    line = next(line for line in text.splitlines() if "alert" in line and "990" in line)
    assert "\\<script\\>" in line and "\\| \\`rm\\`" in line
    assert "\n# heading" not in text


def test_the_sentence_compares_with_the_best_predictor_without_a_language_model(evaluation):
    text = sentence(evaluation)
    best = min(("mean", "median", "ridge"), key=lambda name: evaluation.scores[name]["mae"])
    assert rp.LABELS[best] in text and "on 90 test products" in text
    gap = evaluation.scores[best]["tuned_less_this"]
    if gap["mae_ci_high"] < 0:
        assert f"${-gap['mae']:.2f} better" in text


def test_the_leaderboard_is_sorted_and_holds_the_floor(evaluation):
    rows = leaderboard(evaluation, None)
    assert [row["mae"] for row in rows] == sorted(row["mae"] for row in rows)
    assert {row["name"] for row in rows} == {"tuned", "base", "mean", "median", "ridge"}
    lines = score_table(evaluation, None).splitlines()
    assert len(lines) == 2 + 5 + 1 and lines[-1].startswith("| floor")
    assert evaluation.floor_mae < evaluation.scores["tuned"]["mae"]


@pytest.mark.parametrize("dataset", [None, "catalog", "somebody/items_lite"])
def test_published_numbers_are_never_beside_numbers_on_other_data(dataset, evaluation):
    assert published_scores(dataset) is None
    assert "published" not in score_table(evaluation, published_scores(dataset))


def test_published_numbers_on_the_same_dataset_are_marked(evaluation, page):
    published = published_scores("ed-donner/items_full")
    assert published.mae["fine-tuned full"] == 39.85 and published.recorded
    assert "| fine-tuned full (published)" in score_table(evaluation, published)
    assert page.count('class="published"') == len(published.mae) + 1  # the floor too
    assert published.source in page


def test_best_and_worst_are_sorted_from_the_end_they_are_named_for(evaluation):
    best, worst = best_and_worst(evaluation.products)
    errors = evaluation.products["error"].abs()
    assert len(best) == len(worst) == 20
    assert abs(best[0]["error"]) == errors.min() and abs(worst[0]["error"]) == errors.max()
    assert HOSTILE in [row["title"] for row in worst]


def test_hashes_are_of_the_data_and_of_the_code_that_ran(tmp_path):
    lock = tmp_path / "dvc.lock"
    lock.write_text(
        "stages:\n"
        "  train:\n    outs:\n    - {path: data/adapter, md5: aa.dir}\n"
        "  evaluate:\n    outs:\n    - {path: metrics/evaluate.json, md5: old}\n"
    )
    assert data_hashes(lock) == {"data/adapter": "aa.dir"}
    file = Path(rp.__file__)
    assert code_hashes()["pricer/judging/report.py"] == hashlib.md5(file.read_bytes()).hexdigest()


def test_the_numbers_of_the_page_are_those_of_the_scores(page, evaluation):
    tuned = evaluation.scores["tuned"]
    assert f"<b>{rp.usd(tuned['mae'])}</b>" in page
    assert f"<b>{100 * tuned['coverage_80']:.0f}%</b>" in page
    for group, own in evaluation.slices["price"]["tuned"].items():
        assert f"<td>{group}</td><td>{own['n']}</td><td>{rp.usd(own['mae'])}</td>" in page


def test_the_published_file_names_its_source():
    known = json.loads((Path(rp.__file__).parent / "published_scores.json").read_text())
    assert known["source"] and known["recorded"] and len(known["mae"]) == 14


CHROMIUM = "/usr/bin/chromium"


@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="needs Debian's chromium package")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_a_real_browser_shows_it(page, tmp_path, width, scheme):
    """No console message, no request, nothing wider than the window, text that can be read."""
    from playwright.sync_api import sync_playwright

    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    messages, requests = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        tab = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(file.as_uri())
        sizes = tab.evaluate(
            "[document.documentElement.scrollWidth, innerWidth,"
            " [...document.images].every(i => i.complete && i.naturalWidth > 0)]"
        )
        colors = tab.evaluate(
            "['color', 'backgroundColor'].map(k => getComputedStyle(document.body)[k]"
            ".match(/\\d+/g).slice(0, 3).reduce((sum, v) => sum + +v, 0))"
        )
        browser.close()
    assert messages == []
    assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]
    assert sizes[0] <= sizes[1] == width and sizes[2]
    assert abs(colors[0] - colors[1]) > 500  # of 765
    assert (colors[0] > colors[1]) == (scheme == "dark")
