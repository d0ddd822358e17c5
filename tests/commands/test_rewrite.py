"""Descriptions written anew: a server on loopback, honest, hostile and gone in the middle."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from pricer.commands.rewrite import EMPTY, OTHER_FORM, TELLS_PRICE, TOO_LONG, checked
from pricer.products.file_source import file_items
from pricer.products.items import SPLITS, read_items, write_items
from tests.api_server import KEY, Api, serving

COMMAND = ("rewrite", "--model", "shop/m1", "--key-variable", "OPENAI_API_KEY")
FULL = "Delfa blue mug\nHolds 12 oz. Was $19.99 once."
GOOD = "Title: Mug\nCategory: Kitchen\nBrand: Delfa\nDescription: A mug.\nDetails: Holds 12 oz."


def answer(asked: str) -> str:
    """What an honest model says: five lines with the title in them."""
    title = asked.rpartition("does not say.\n\n")[2].splitlines()[0]
    return GOOD.replace("A mug.", f"{title.removeprefix('Title: ')}, newly told.")


@pytest.fixture
def desk(tmp_path, items) -> Path:
    """A folder with items in splits: 12, 4 and 4."""
    write_items(
        tmp_path / "data/items",
        {
            split: items.iloc[begin:end].reset_index(drop=True)
            for split, (begin, end) in zip(SPLITS, ((0, 12), (12, 16), (16, 20)), strict=True)
        },
    )
    return tmp_path


@pytest.fixture
def api() -> Iterator[Api]:
    with serving(Api()) as running:
        running.answer = answer
        yield running


@pytest.fixture
def rewrite(desk, commands):
    """Runs the command; what it says never holds the key."""

    def run(url: str, *options: str, ok: bool = True, stdin: str = "</dev/null") -> str:
        command = [str(commands / "pricer"), *COMMAND, "--url", url, *options]
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {stdin}', "sh", *command],
            cwd=desk,
            env=os.environ | {"OPENAI_API_KEY": KEY},
            capture_output=True,
            text=True,
        )
        assert KEY not in done.stdout + done.stderr
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if ok else done.stdout + done.stderr

    return run


def test_products_get_new_descriptions_that_can_be_trained_on(desk, rewrite, api):
    told = rewrite(api.url, "--yes", "--input-price", "2", "--output-price", "8")
    assert re.search(
        r"20 of 20 products to ask, about [\d,]+ tokens in and 1,800 out, for \$0.0", told
    )
    assert (
        "20 of 20 descriptions are new; 1,800 tokens in, 80 out, for $0.00, all in this run" in told
    )
    assert "-S items.source=files -S items.files.path=data/rewritten" in told
    for split in SPLITS:
        before, after = (
            read_items(desk / "data/items", split),
            read_items(desk / "data/rewritten", split),
        )
        assert after["full"].tolist() == before["summary"].tolist()
        assert after["summary"].str.contains("newly told").all()
        same = ["id", "title", "category", "price"]
        pd.testing.assert_frame_equal(after[same], before[same])
    record = json.loads((desk / "data/rewritten/rewritten.json").read_text())
    assert record["model"] == "shop/m1" and record["products"] == 20 and record["unchanged"] == {}
    assert record["all_answers"]["cost_usd"] == pytest.approx((1800 * 2 + 80 * 8) / 1e6)
    assert record["this_run"] == record["all_answers"]
    # `items.source: files` reads them, and what is written of those is the same, without asking
    sizes = dict.fromkeys(SPLITS, 1)
    splits, _ = file_items(
        desk / "data/rewritten", sizes, seed=1, on_invalid="error", min_price=0.5, max_price=999.49
    )
    assert [len(splits[split]) for split in SPLITS] == [12, 4, 4]
    asked = len(api.requests)
    write_items(desk / "data/items", splits)
    told = rewrite(api.url, "--input-price", "200", "--output-price", "800")
    assert "0 of 20 products to ask" in told
    assert "1,800 tokens in, 80 out, for $0.42, 0 and 0, for $0.00, in this run" in told
    record = json.loads((desk / "data/rewritten/rewritten.json").read_text())
    assert record["all_answers"]["input_tokens"] == 1800 and record["this_run"]["input_tokens"] == 0
    assert len(api.requests) == asked == 20
    assert KEY not in "".join(file.read_text() for file in desk.rglob("*.json*"))
    # products that share a text share its answer and its cost
    same = {split: items.assign(full="The same mug") for split, items in splits.items()}
    write_items(desk / "data/items", same)
    assert "20 of 20 descriptions are new; 90 tokens in, 4 out, at" in rewrite(api.url, "--yes")
    assert len(api.requests) == 21


@pytest.mark.parametrize("stdin", ["</dev/null", "<&-"])
def test_nobody_is_asked_before_someone_agrees(desk, rewrite, api, stdin):
    told = rewrite(api.url, ok=False, stdin=stdin)
    assert "20 of 20 products to ask, about" in told and "at most 8,000 out (--max-tokens)" in told
    assert "nobody to confirm it: add --yes" in told
    assert not api.requests and not (desk / "data/rewritten").exists()


def test_hostile_answers_change_nothing(desk, rewrite, api):
    prices = pd.concat([read_items(desk / "data/items", split) for split in SPLITS])
    price = dict(zip(prices["summary"], prices["price"], strict=True))
    kinds = iter(range(20))

    def hostile(asked: str) -> str:
        text = asked.rpartition("does not say.\n\n")[2]
        match next(kinds) % 5:
            case 0:
                return ""
            case 1:
                return GOOD + " and so on" * 2_000
            case 2:
                return f"{answer(asked)} It sells for ${price[text]:,.2f}."
            case 3:
                return "I cannot help with that. \x1b[2J"
            case _:
                return answer(asked)

    api.answer = hostile
    told = rewrite(api.url, "--yes", "--concurrency", "1")
    assert "4 of 20 descriptions are new (the others keep theirs: " in told
    record = json.loads((desk / "data/rewritten/rewritten.json").read_text())
    assert record["unchanged"] == {
        "answer too long": 4,
        "empty answer": 4,
        "not the five lines": 4,
        "tells a price": 4,
    }
    after = pd.concat([read_items(desk / "data/rewritten", split) for split in SPLITS])
    new = after["summary"].str.contains("newly told")
    assert new.sum() == 4 and (after["summary"] == after["full"])[~new].all()
    # a name that looks like ours is not to be replaced
    (desk / "mine").mkdir()
    (desk / "mine/train.csv").write_text("precious")
    assert "mine is there, and not from `pricer rewrite`" in rewrite(
        api.url, "--yes", "--output", "mine", ok=False
    )
    assert "is what `dvc repro` writes" in rewrite(api.url, "--output", "data/items", ok=False)
    assert (desk / "mine/train.csv").read_text() == "precious"


def test_a_killed_run_goes_on_where_it_was(desk, rewrite, api, commands):
    api.hold_after = 7
    process = subprocess.Popen(
        [str(commands / "pricer"), *COMMAND, "--url", api.url, "--yes", "--concurrency", "1"],
        cwd=desk,
        env=os.environ | {"OPENAI_API_KEY": KEY},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert api.held.wait(60)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (desk / "data/rewritten").exists()
    api.hold_after, asked = None, len(api.requests)
    assert "13 of 20 products to ask" in rewrite(api.url, "--yes")
    assert len(api.requests) == asked + 13
    assert read_items(desk / "data/rewritten", "test")["summary"].str.contains("newly told").all()


def test_a_refusal_is_one_line_and_leaves_nothing_half_written(desk, rewrite, api):
    api.refusals = [(401, {})] * 20
    assert "it refuses the key (HTTP 401): see --key-variable" in rewrite(
        api.url, "--yes", "--concurrency", "1", ok=False
    )
    assert not (desk / "data/rewritten").exists()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (GOOD, ""),
        ("<think>\nIt costs $12.99?\n</think>\n" + GOOD, ""),
        (GOOD.replace("Title:", "**Title:**").replace("\n", "\n\n"), ""),
        (GOOD.replace("A mug.", "Once $19.99."), ""),  # the listing says so itself
        ("", EMPTY),
        ("<think></think> \u200b", EMPTY),
        (GOOD.replace("A mug.", "x" * 2_000), TOO_LONG),
        ("<think> and no end", OTHER_FORM),
        (GOOD.partition("\nDetails")[0], OTHER_FORM),
        ("Sure!\n" + GOOD, OTHER_FORM),
        *((GOOD.replace("A mug.", text), TELLS_PRICE) for text in ("Costs $20.", "24.99 it is")),
        *((GOOD.replace("A mug.", text), TELLS_PRICE) for text in ("25 dollars", "priced at 25")),
        *((GOOD.replace("A mug.", text), TELLS_PRICE) for text in ("USD49.99", "USD49", "$12,99")),
        *((GOOD.replace("A mug.", text), TELLS_PRICE) for text in ("a 49-dollar mug", "costs 9")),
        (GOOD.replace("A mug.", "priced at USD49.99"), TELLS_PRICE),
        *((GOOD.replace("A mug.", text), TELLS_PRICE) for text in ("At 34", "at 35.", "34,56")),
        *((GOOD.replace("A mug.", text), TELLS_PRICE) for text in ("34.560", "for35", "34.56EUR")),
        (GOOD.replace("A mug.", "33 mugs of 36 g, 134 or 340 ml"), ""),
        (GOOD.replace("A mug.", "Price is $"), TELLS_PRICE),
    ],
)
def test_an_answer_is_a_summary_or_says_why_not(said, reason):
    text, found = checked(said, FULL, 34.56)
    assert found == reason
    assert reason or re.fullmatch(
        r"Title: .*\nCategory: .*\nBrand: .*\nDescription: .*\nDetails: .*", text
    )


def test_a_price_that_the_listing_has_as_a_number_may_be_told():
    assert checked(GOOD, FULL, 12.0)[1] == ""  # holds 12 oz
    assert checked(GOOD.replace("12 oz", "12 or 13 oz"), FULL, 13.0)[1] == TELLS_PRICE
    thousand = GOOD.replace("A mug.", "Of 1,299 parts.")
    assert checked(thousand, FULL, 1299.0)[1] == TELLS_PRICE
    assert checked(thousand, FULL + " 1299 parts.", 1299.0)[1] == ""


def test_a_real_server_that_babbles_changes_nothing(desk, rewrite, base_model_dir, tmp_path):
    """llama.cpp, from the wheel, with a model of two random layers."""
    from pricer.export.gguf_file import write_gguf
    from pricer.export.llama_cpp import llama_server

    write_gguf(base_model_dir, tmp_path / "tiny.gguf", "f16")
    with llama_server(tmp_path / "tiny.gguf", tokens=2_000, slots=2) as client:
        url = f"{str(client.base_url).rstrip('/')}/v1"
        told = rewrite(url, "--yes", "--max-tokens", "5", "--output", "out")
    assert "0 of 20 descriptions are new (the others keep theirs: " in told
    record = json.loads((desk / "out/rewritten.json").read_text())
    tokens = record["all_answers"]
    assert tokens["input_tokens"] > 20 * 50 and 0 < tokens["output_tokens"] <= 20 * 6
    after = read_items(desk / "out", "train")
    assert (after["summary"] == after["full"]).all()
