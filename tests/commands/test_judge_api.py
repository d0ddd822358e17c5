"""Models behind an API: a real llama.cpp server on loopback, and one that refuses in every way."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from pricer.files import write_parquet
from pricer.judging.asked import read_all_asked, read_asked
from pricer.products.prompts import build_prompt
from tests.api_server import KEY, Api, serving
from tests.conftest import ROOT

COMMAND = ("judge-api", "--model", "shop/m1", "--key-variable", "OPENAI_API_KEY")


@pytest.fixture
def desk(tmp_path, items) -> Path:
    """A folder with a test split of 12 products, and their prompts."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    test = items.head(12)
    write_parquet(tmp_path / "data/items/test.parquet", test)
    prompts = test[["id", "price"]].assign(prompt=test["summary"].map(build_prompt))
    write_parquet(tmp_path / "data/prompts/test.parquet", prompts)
    return tmp_path


@pytest.fixture
def judge(desk, commands):
    """Runs the command; what it says never holds the key."""

    def run(url: str, *options: str, ok: bool = True, **environment: str):
        done = subprocess.run(
            [str(commands / "pricer"), *COMMAND, "--url", url, *options],
            cwd=desk,
            env=os.environ | {"OPENAI_API_KEY": KEY} | environment,
            capture_output=True,
            text=True,
        )
        assert KEY not in done.stdout + done.stderr
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        if ok:
            return done.stdout
        [line] = [line for line in done.stderr.splitlines() if line.startswith("pricer: ")]
        assert done.returncode == 1 and "Traceback" not in done.stderr
        return line

    return run


@pytest.fixture
def api() -> Iterator[Api]:
    with serving(Api()) as running:
        yield running


def test_answers_are_judged_with_interval_and_n(desk, judge, api):
    told = judge(api.url, "--yes", "--input-price", "2", "--output-price", "8", "--products", "10")
    assert "shop/m1 at" in told and "10 of 10 products to ask, about" in told
    assert "n = 10, 0 answers without a number); 900 tokens in, 40 out, for $0.00" in told
    asked = read_asked(desk / "metrics/api/shop-m1.json")
    assert asked.cost_usd == pytest.approx((900 * 2 + 40 * 8) / 1e6)
    table = read_all_asked(desk / "metrics/api", pd.read_parquet(desk / "data/items/test.parquet"))
    assert list(table) == ["shop-m1"] and set(table["shop-m1"]["estimate_usd"]) == {25.0}
    question = api.requests[0]["messages"][0]["content"]
    assert question.startswith("What does this product cost in US dollars?")
    assert api.requests[0]["model"] == "shop/m1" and "temperature" not in api.requests[0]
    assert api.keys == {f"Bearer {KEY}"}
    for file in desk.rglob("*.json*"):
        assert KEY not in file.read_text()
    # nothing is asked twice; more products are
    told = judge(api.url, "--yes", "--products", "10")
    assert "900 tokens in, 40 out, at" in told and "would tell, 0 and 0, at" in told
    assert len(api.requests) == 10
    judge(api.url, "--yes", "--products", "12")
    assert len(api.requests) == 12
    # nor is a text that products share
    test = pd.read_parquet(desk / "data/items/test.parquet").assign(summary="The same mug")
    write_parquet(desk / "data/items/test.parquet", test)
    assert "; 90 tokens in, 4 out, at" in judge(api.url, "--yes")
    assert len(api.requests) == 13
    assert read_asked(desk / "metrics/api/shop-m1.json").input_tokens == 90


def test_a_server_that_asks_to_wait_is_asked_again(judge, api):
    api.refusals = [(429, {"Retry-After": "0"}), (503, {"Retry-After": "0"})] * 2
    assert "n = 12" in judge(api.url, "--yes", "--concurrency", "3")
    assert len(api.requests) == 12


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "it refuses the key (HTTP 401): see --key-variable; 0 of 12 answers are kept"),
        (404, "no model 'shop/m1' there, or no such address (HTTP 404)"),
        (400, "[key] is not allowed"),
    ],
)
def test_refusals_are_told_in_a_line_without_the_key(judge, api, status, says):
    api.refusals = [(status, {})] * 12
    assert says in judge(api.url, "--yes", "--concurrency", "1", ok=False)


def test_an_interrupted_run_goes_on(desk, judge, api, commands):
    api.hold_after = 5
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
    [kept] = (desk / "data/api").iterdir()
    with kept.open("a") as stream:
        stream.write('{"key": "torn')
    before = sum(line.endswith("}") for line in kept.read_text().splitlines())
    assert before == 5 and not (desk / "metrics/api/shop-m1.json").exists()
    api.hold_after, asked = None, len(api.requests)
    assert "7 of 12 products to ask" in judge(api.url, "--yes")
    assert len(api.requests) == asked + 7
    assert len(read_asked(desk / "metrics/api/shop-m1.json").answers) == 12


def test_nobody_is_asked_before_someone_agrees(judge, api):
    assert "nobody to confirm it: add --yes" in judge(api.url, ok=False)
    assert not api.requests
    assert "--url must be an address" in judge("ftp://host", "--yes", ok=False)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"{",
        b"{}",
        b"[]",
        b"null",
        b'{"choices": []}',
        b'{"choices": [{}]}',
        b'{"error": {"message": "no"}}',
    ],
)
def test_what_is_no_such_api_is_told_and_not_kept(desk, judge, api, body):
    api.body = body
    line = judge(api.url, "--yes", "--products", "1", ok=False)
    assert "does not answer like an OpenAI-compatible API" in line and "/v1" in line
    assert not list((desk / "data").glob("api/*"))


def test_the_first_number_counts_however_late_and_a_loop_of_digits_is_none(desk, judge, api):
    api.answer = "Well, " * 100 + "$150 \ud800"
    judge(api.url, "--yes", "--products", "2")
    file = desk / "metrics/api/shop-m1.json"
    assert set(read_asked(file).predictions()["estimate_usd"]) == {150.0}
    api.answer = "9" * 150
    judge(api.url, "--yes", "--products", "4")
    assert read_asked(file).predictions()["unparsed"].tolist() == [False, False, True, True]


def test_a_key_goes_to_whom_it_is_for(judge, api):
    assert "--url must be an address" in judge("http://[::1", "--yes", ok=False)
    assert "--url must be an address" in judge("https://host:abc/v1", "--yes", ok=False)
    line = judge("http://elsewhere.invalid/v1", "--yes", ok=False)
    assert "a key goes over https alone" in line
    for value, says in (("", "is not set"), ("sk\u201c", "holds no key that can be sent")):
        line = judge(api.url, "--yes", ok=False, OPENAI_API_KEY=value)
        assert f"OPENAI_API_KEY {says}" in line
    assert not api.requests
    judge(api.url, "--yes", "--products", "1", "--key-variable", "", OPENAI_API_KEY="other")
    assert api.keys == {"Bearer none"}


@pytest.mark.parametrize("name", ["tuned", "base", "mlp", "workspace", "../x", ""])
def test_names_that_are_taken_or_none(judge, api, name):
    line = judge(api.url, "--yes", "--name", name or "-", ok=False)
    assert "is what a predictor here is called" in line or "no name of a file" in line
    assert not api.requests


def test_nobody_there_is_told(judge):
    line = judge("http://127.0.0.1:9/v1", "--yes", "--products", "1", ok=False)
    assert "it does not answer (APIConnectionError): check --url and the network" in line


def test_text_without_a_number_counts_as_nothing(desk, judge, api):
    api.answer = "I cannot say."
    assert "12 answers without a number" in judge(api.url, "--yes")
    table = read_asked(desk / "metrics/api/shop-m1.json").predictions()
    assert set(table["estimate_usd"]) == {0.0} and table["unparsed"].all()


def test_llama_cpp_serves_our_own_model_to_it(desk, judge, base_model_dir, tmp_path):
    """The real server of the wheel: this pipeline's prompts continued, and a chat."""
    from pricer.export.gguf_file import write_gguf
    from pricer.export.llama_cpp import llama_server

    write_gguf(base_model_dir, tmp_path / "tiny.gguf", "f16")
    with llama_server(tmp_path / "tiny.gguf", tokens=400, slots=2) as client:
        url = f"{str(client.base_url).rstrip('/')}/v1"
        ours = ("--endpoint", "completions", "--max-tokens", "6", "--name", "ours")
        assert "n = 12" in judge(url, "--yes", *ours)
        assert "n = 3" in judge(url, "--yes", "--products", "3", "--max-tokens", "6")
    assert {file.stem for file in (desk / "metrics/api").iterdir()} == {"ours", "shop-m1"}
    assert read_asked(desk / "metrics/api/ours.json").input_tokens > 12 * 20
