"""The page in a real browser."""

import csv
import importlib.util
import io
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.pipeline.conftest import Project
from tests.serving.conftest import KETTLE, Running, serving

HOSTILE = (
    '<img src=x onerror="window.owned=1"><script>window.owned=1</script>=HYPERLINK("http://e")'
)


@pytest.fixture(scope="module")
def browser():
    chromium = Path("/usr/bin/chromium")
    if not chromium.exists():
        pytest.skip("needs Debian's chromium package")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu"]
        yield playwright.chromium.launch(executable_path=chromium, args=arguments)


@pytest.fixture
def open_page(browser, tmp_path):
    """Return what opens the page in a tab; nothing may go wrong or be asked of another host."""
    said: list[str] = []
    tabs = []

    def open_(running: Running, **options):
        tab = browser.new_page(reduced_motion="reduce", accept_downloads=True, **options)
        tabs.append(tab)
        tab.on(
            "console", lambda message: None if _is_refusal(message) else said.append(message.text)
        )
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda one: None if _is_own(one.url, running) else said.append(one.url))
        tab.goto(running.url)
        return tab

    yield open_
    for tab in tabs:
        tab.close()
    assert said == []


def _is_refusal(message) -> bool:
    """Tell whether the browser says that a request was refused, as it always does."""
    return "Failed to load resource: the server responded with a status of 4" in message.text


def _is_own(url: str, running: Running) -> bool:
    return url.startswith((running.url, "data:", f"blob:{running.url}"))


def a_training_product(project: Project) -> str:
    """Return a description that has neighbours."""
    return str(pd.read_parquet(project.folder / "data/items/train.parquet")["summary"][3])


def ask(tab, description: str = KETTLE) -> None:
    tab.fill("#description", description)
    tab.click("#ask button")
    tab.wait_for_selector("#answer:not([hidden])")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_a_description_becomes_an_estimate(service, shop, open_page, scheme, width, tmp_path):
    tab = open_page(service, viewport={"width": width, "height": 800}, color_scheme=scheme)
    ask(tab, a_training_product(shop))
    assert tab.inner_text("#price").startswith("$")
    assert "80% of such products cost $" in tab.inner_text("#interval")
    assert tab.locator("#distribution rect").count() > 5
    assert "$" in tab.get_attribute("#distribution", "aria-label")
    assert 1 <= tab.locator("#neighbors tr").count() <= 3
    assert tab.evaluate("document.activeElement.id") == "price"  # a screen reader reads it
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    light = tab.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g)"
        ".reduce((sum, v) => sum + +v, 0)"
    )
    assert (light > 380) == (scheme == "light")
    tab.screenshot(path=tmp_path / "page.png", full_page=True)


def test_the_pictures_of_the_readme_can_be_made(service, shop, browser, tmp_path, monkeypatch):
    """`make pictures`, of a tiny project."""
    spec = importlib.util.spec_from_file_location("make_pictures", ROOT / "docs/make_pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    monkeypatch.setenv("PATH", shop.environment["PATH"])
    pictures.picture_of_page(browser, service.url, tmp_path / "page.png")
    pictures.picture_of_terminal(browser, shop.folder, tmp_path / "terminal.png")
    report = shop.folder / "metrics/report.html"
    pictures.picture_of_report(browser, report, tmp_path / "report.png")
    files = list(tmp_path.glob("*.png"))
    assert len(files) == 3
    for file in files:
        with Image.open(file) as picture:
            assert picture.width == 1200 and 300 < picture.height < 2000, file.name


def test_the_real_price_goes_into_the_log(service, open_page):
    tab = open_page(service)
    before = service.meter("pricer_outcome_error_dollars_count")
    ask(tab)
    tab.fill("#sold", "39.90")
    tab.click("#outcome button")
    tab.wait_for_selector("#told:not(:empty)")
    assert "in the log" in tab.inner_text("#told")
    assert service.meter("pricer_outcome_error_dollars_count") == before + 1


def test_the_keyboard_is_enough(service, open_page):
    tab = open_page(service)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "description"
    tab.keyboard.type("A red lamp")
    tab.keyboard.press("Control+Enter")
    tab.wait_for_selector("#answer:not([hidden])")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "sold"


def test_every_field_and_picture_has_a_name(service, open_page):
    tab = open_page(service)
    ask(tab)
    unnamed = tab.evaluate(
        "[...document.querySelectorAll('input, select, textarea')]"
        ".filter(one => !one.labels.length).map(one => one.id)"
    )
    assert unnamed == []
    assert tab.evaluate("document.documentElement.lang") == "en"
    assert tab.get_attribute("#problem", "role") == "alert"


def test_hostile_text_is_shown_and_does_nothing(shop, open_page, tmp_path):
    """In the description, in an error, in the titles of similar products, in a file."""
    project = shop.copy(tmp_path / "project")
    file = project.folder / "data/evidence/models/products.parquet"
    products = pd.read_parquet(file)
    products["title"] = HOSTILE
    products.to_parquet(file)
    options = ("--database", str(tmp_path / "log.sqlite"), "--fallback-only")
    with serving(project, *options) as running:
        tab = open_page(running)
        ask(tab, f"{HOSTILE} {a_training_product(project)}")
        assert HOSTILE in tab.inner_text("#neighbors")
        content = f'description,{HOSTILE.replace(",", "").replace(chr(34), "")}\n"kettle","=1+1"\n'
        saved = price_file(tab, content)
        assert "'=1+1" in saved
        assert tab.evaluate("window.owned") is None
        # an attribute cannot be scripted, nor can another place be asked
        policy = tab.evaluate("fetch('/').then(r => r.headers.get('content-security-policy'))")
        assert "default-src 'none'" in policy and "unsafe" not in policy


def price_file(tab, content: str) -> str:
    """Return the CSV that comes back for a CSV."""
    payload = {"name": "products.csv", "mimeType": "text/csv", "buffer": content.encode()}
    tab.set_input_files("#file", payload)
    tab.wait_for_selector("#save:not([hidden])")
    with tab.expect_download() as download:
        tab.click("#save")
    return Path(download.value.path()).read_bytes().decode()


def test_a_file_comes_back_with_prices(service, open_page):
    lines = ["name,description", *(f'{n},"Kettle, {n} litres"' for n in range(40))]
    lines[3] = '2,"a ""quoted""\nkettle"'
    lines[5] = "4,"
    tab = open_page(service)
    saved = price_file(tab, "\ufeff" + "\r\n".join(lines))
    assert "40 of 40 products, 1 without a price: done" in tab.inner_text("#counted")
    assert tab.evaluate("document.getElementById('progress').value") == 40
    rows = list(csv.DictReader(io.StringIO(saved)))
    assert [row["name"] for row in rows] == [str(n) for n in range(40)]
    assert rows[2]["description"] == 'a "quoted"\nkettle'
    assert rows[4]["error"] == "no description" and rows[4]["estimate_usd"] == ""
    for row in rows[:4] + rows[5:]:
        assert float(row["low_usd"]) <= float(row["high_usd"]) and not row["error"]
    assert len({row["estimate_id"] for row in rows}) == 40


def test_a_file_may_have_titles_or_summaries(service, open_page):
    tab = open_page(service)
    for header in ("title,category", "summary,title"):
        rows = list(csv.DictReader(io.StringIO(price_file(tab, f"{header}\nKettle,Kitchen\n"))))
        assert float(rows[0]["estimate_usd"]) > 0 and not rows[0]["error"]
        tab.reload()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "no product in this file"),
        ("description\n", "no product in this file"),
        ("price,colour\n1,red\n", "must name a column"),
        ('description\n"endless', "ends within a quoted field"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(service, open_page, content, reason):
    tab = open_page(service)
    payload = {"name": "products.csv", "mimeType": "text/csv", "buffer": content.encode()}
    tab.set_input_files("#file", payload)
    tab.wait_for_selector("#problem:not(:empty)")
    assert reason in tab.inner_text("#problem")


def test_a_product_that_is_refused_stops_no_other(service, open_page):
    tab = open_page(service)
    long = "a" * 20_001
    rows = list(csv.DictReader(io.StringIO(price_file(tab, f"description\nlamp\n{long}\nhose\n"))))
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert "20000 characters" in rows[1]["error"]


def test_a_key_is_asked_for_and_kept_in_the_tab(shop, browser, tmp_path):
    key = "0123456789abcdef0123456789"
    file = tmp_path / "keys"
    file.write_text(key)
    file.chmod(0o600)
    options = ("--database", str(tmp_path / "log.sqlite"), "--fallback-only")
    with serving(shop, *options, "--api-key-file", str(file)) as running:
        tab = browser.new_page()
        tab.goto(running.url)
        tab.fill("#description", KETTLE)
        tab.click("#ask button")
        tab.wait_for_selector("#access[open]")
        assert "Authorization" in tab.inner_text("#problem")
        tab.fill("#key", key)
        ask(tab)
        tab.reload()
        ask(tab)
        assert key not in tab.content()
        tab.close()
