import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pricer.errors import CONTROLS
from pricer.escaping import shortened
from pricer.judging import report as rp
from pricer.judging.charts import CHARTS
from pricer.judging.evaluation import Evaluation
from pricer.judging.leaderboard import LABELS, leaderboard, published_scores
from pricer.judging.metrics import category_groups
from pricer.judging.paired import Gap, Interval, Score
from pricer.judging.report import (
    best_and_worst,
    html_report,
    likeness,
    markdown_report,
    score_table,
    sentence,
)
from tests.judging.conftest import HOSTILE, make_report


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
    assert "\\<script\\>" in line and "\\| \\`rm\\`" in line and "\u202e" not in text
    assert "\n# heading" not in text


def markdown_tokens(text: str) -> list[str]:
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    return [t.type for token in tokens for t in (token, *(token.children or ()))]


class Elements(HTMLParser):
    """Of a page: the elements with their attributes' names, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.found, self.text = [], []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, *(name for name, _ in attributes)))

    def handle_data(self, data):
        self.text.append(data)


def elements(page: str) -> list[tuple[str, ...]]:
    parser = Elements()
    parser.feed(page)
    return parser.found


# no half of a surrogate pair: no table holds one
HOSTILE_TEXT = st.text(
    st.characters(exclude_categories=["Cs"])
    | st.sampled_from("<>|`*_[]()!#&\\~:/\n\r\x1b\u202e\u2028א"),
    max_size=50,
) | st.lists(
    st.sampled_from(
        [
            "<script>",
            "</script>",
            "</td>",
            "<b onclick=x>",
            "![a](http://e.example)",
            "|",
            "\n\n# a",
        ]
        + [
            "[a](b)",
            "http://e.example",
            "www.e.example",
            "a@e.example",
            "| - |\n|---|",
            "```",
            "\x1b[2J",
        ]
        + ["&lt;b&gt;", "<!--", "]]>", "{{ 7 }}", "{% raw %}", "<http://e.example>", "\\", "`"]
    ),
    max_size=6,
).map("".join)


@pytest.fixture(scope="module")
def no_charts(tmp_path_factory):
    """Empty files: a page without a megabyte of pictures is parsed at once."""
    folder = tmp_path_factory.mktemp("no_charts")
    for name in CHARTS:
        (folder / f"{name}.png").touch()
    return folder


@settings(max_examples=20, deadline=None)
@given(st.lists(HOSTILE_TEXT, min_size=3, max_size=3))
def test_no_text_of_a_product_is_more_than_text(evaluation, no_charts, texts):
    """The same elements, and in Markdown the same tables, as with plain words in its place."""

    def reports(title, category, summary):
        products = evaluation.products.assign(title=title, category=category, summary=summary)
        slices = evaluation.slices["category"]["tuned"]
        [name] = set(category_groups([category]))
        groups = {name: next(iter(slices.values()))}
        changed_slices = evaluation.slices | {"category": {"tuned": groups}}
        changed = replace(evaluation, products=products, slices=changed_slices)
        report = make_report(changed, None)
        return html_report(report, no_charts), markdown_report(report)

    plain_page, plain_markdown = reports("a", "b", "c")
    page, text = reports(*texts)
    page.encode()
    text.encode()
    assert elements(page) == elements(plain_page)
    ignored = {"text", "text_special"}
    assert [t for t in markdown_tokens(text) if t not in ignored] == [
        t for t in markdown_tokens(plain_markdown) if t not in ignored
    ]
    assert not CONTROLS.search(text.replace("\n", ""))


def test_the_sentence_compares_with_the_best_predictor_without_a_language_model(evaluation):
    text = sentence(evaluation)
    names = ("mean_price", "median_price", "ridge")
    best = min(names, key=lambda name: evaluation.scores[name].values["mae"])
    assert LABELS[best] in text and "on 90 test products" in text


@pytest.mark.parametrize(
    ("gap", "ending"),
    [
        ((-12.0, -17.5, -6.75), ", $12.00 better (6.75 to 17.50) than ridge on words, the best "),
        ((12.0, 6.75, 17.5), ", $12.00 worse (6.75 to 17.50) than ridge on words, the best "),
        ((1.0, -2.5, 4.25), ", not measurably different from ridge on words."),
    ],
    ids=["better", "worse", "not measurably different"],
)
def test_the_three_endings_of_the_sentence(gap, ending):
    """Made numbers: nothing but the interval decides between them."""
    value, low, high = gap
    errors = {"tuned": 1048.5, "base": 1.0, "mean_price": 2000.0, "ridge": 1048.5 - value}
    evaluation = Evaluation(
        {
            name: Score(1300, {"mae": error}, {"mae": Interval(error - 7, error + 8)})
            for name, error in errors.items()
        },
        kinds={},
        tuned_less={"ridge": Gap(1300, value, Interval(low, high))},
        slices={},
        tuned_less_words={},
        floor_mae=None,
        products=pd.DataFrame(),
    )
    start = "The tuned model is off by $1,048.50 on average (95% interval 1,041.50 to 1,056.50) "
    end = "" if ending.endswith(".") else "predictor without a language model."
    assert sentence(evaluation) == f"{start}on 1,300 test products{ending}{end}"


def test_the_leaderboard_is_sorted_and_holds_the_floor(evaluation):
    rows = leaderboard(evaluation, None)
    assert [row.mae for row in rows] == sorted(row.mae for row in rows)
    assert {row.name for row in rows} == set(evaluation.scores)
    lines = score_table(make_report(evaluation, None)).splitlines()
    assert len(lines) == 2 + 7 + 1 and lines[-1].startswith("| floor")
    assert evaluation.floor_mae < evaluation.scores["tuned"].values["mae"]


@pytest.mark.parametrize("dataset", [None, "catalog", "somebody/items_lite"])
def test_published_numbers_are_never_beside_numbers_on_other_data(dataset, evaluation):
    assert published_scores(dataset) is None
    assert "published" not in score_table(make_report(evaluation, dataset))


def test_published_numbers_on_the_same_dataset_are_marked(evaluation, page):
    published = published_scores("ed-donner/items_full")
    assert published.scores["fine-tuned full"].mae == 39.85 and published.recorded
    assert "| fine-tuned full (published, n = 200)" in score_table(
        make_report(evaluation, "ed-donner/items_full")
    )
    assert page.count('class="published"') == len(published.scores) + 1  # the floor too
    assert published.source in page


def test_best_and_worst_are_sorted_from_the_end_they_are_named_for(evaluation):
    best, worst = best_and_worst(evaluation.products)
    errors = evaluation.products["error_usd"].abs()
    assert len(best) == len(worst) == 20
    assert abs(best[0]["error_usd"]) == errors.min() and abs(worst[0]["error_usd"]) == errors.max()
    assert shortened(HOSTILE, rp.LONGEST) in [row["title"] for row in worst]


def test_the_numbers_of_the_page_are_those_of_the_scores(page, evaluation):
    tuned = evaluation.scores["tuned"].values
    assert f"<b>{rp.usd(tuned['mae'])}</b>" in page
    assert f"<b>{100 * tuned['coverage_80']:.0f}%</b>" in page
    for group, own in evaluation.slices["price"]["tuned"].items():
        assert f"<td>{group}</td><td>{own.n}</td><td>{rp.usd(own.values['mae'])}</td>" in page


def test_evidence_alone_and_by_similarity_stand_beside_the_tuned_model(report, page):
    evaluation, text = report.evaluation, markdown_report(report)
    assert "Warning: words_mae is 36.25 in test and 32.5 in train, 5.3 standard errors" in text
    assert "words_mae is 36.25 in test and 32.5 in train" in page
    assert "<tr><td>test</td><td>90</td><td>$36.25</td><td></td><td>0.62</td></tr>" in page
    bands = likeness(evaluation)
    assert {band: those.tuned.n for band, those in bands.items()} == {
        "below 0.2": 60,
        "0.5 to 0.7": 30,
    }
    tuned_error, truth = (evaluation.products[name] for name in ("error_usd", "price"))
    far = pd.Series(range(90)) % 3 != 1
    less = tuned_error[far].abs().mean() - (0.7 * truth[far]).mean()  # the fixture's words
    assert bands["below 0.2"].tuned_less_words.value == pytest.approx(less)
    for told in (rp.usd(bands["0.5 to 0.7"].words.values["mae"]), rp.signed(less)):
        assert told in page and told in text


def test_prompts_without_evidence_leave_its_section_out(evaluation, no_charts):
    report = replace(make_report(evaluation, None), evidence=None)
    assert "Evidence" not in markdown_report(report)
    assert "Evidence" not in html_report(report, no_charts)


def test_the_published_file_names_its_source():
    known = json.loads((Path(rp.__file__).parent / "published_scores.json").read_text())
    assert known["source"] and known["recorded"] and len(known["scores"]) == 21
    assert {score["n"] for score in known["scores"].values()} == {200, 10_000}


@pytest.fixture(scope="module")
def browser():
    chromium = Path("/usr/bin/chromium")
    if not chromium.exists():
        pytest.skip("needs Debian's chromium package")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu"]
        yield playwright.chromium.launch(executable_path=chromium, args=arguments)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_a_real_browser_shows_it(page, browser, tmp_path, width, scheme):
    """No console message, no request, nothing wider than the window, text that can be read."""
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    messages, requests = [], []
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
    assert messages == []
    assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]
    assert sizes[0] <= sizes[1] == width and sizes[2]
    assert abs(colors[0] - colors[1]) > 500  # of 765
    assert (colors[0] > colors[1]) == (scheme == "dark")
