"""`pricer predict` on what a real pipeline left."""

import json
import signal

import pandas as pd
import pytest

from pricer.commands.partial import partial_file
from pricer.commands.predict import sketch
from pricer.prices.predictor import Predictor

from .conftest import wait_until


def test_the_command_and_the_predict_stage_say_the_same(reproduced, tmp_path):
    """One code path: the test products once more, through a file."""
    items = pd.read_parquet(reproduced.folder / "data/items/test.parquet")
    items[["id", "summary"]].to_parquet(tmp_path / "in.parquet")
    arguments = ["--file", str(tmp_path / "in.parquet"), "--output", str(tmp_path / "out.parquet")]
    reproduced.run("pricer", "predict", *arguments)
    found = pd.read_parquet(tmp_path / "out.parquet").set_index("id")
    staged = pd.read_parquet(reproduced.folder / "data/predictions/tuned.parquet").set_index("id")
    staged = staged.loc[found.index]
    assert (found["estimate_usd"] == staged["median"]).all()
    assert (found["low_usd"] - staged["low_80"]).abs().max() <= 0.01
    assert (found["high_usd"] - staged["high_80"]).abs().max() <= 0.01
    assert (found["interval"] == 80).all()


def test_a_knob_that_was_edited_and_not_run_changes_no_price(reproduced):
    command = ["pricer", "predict", "A steel kettle, 1.7 litres, with a long description"]
    before = json.loads(reproduced.run(*command).stdout)
    reproduced.set(prompts__cutoff=3, predict__point="mode", quantization__load_in_4bit=False)
    try:
        assert json.loads(reproduced.run(*command).stdout) == before
    finally:
        reproduced.run("git", "checkout", "params.yaml")
    assert before["calibrated"] and not before["truncated"]


def test_a_record_of_another_run_is_refused(reproduced):
    record = reproduced.folder / "data/serving/tuned.json"
    content = record.read_text()
    record.unlink()  # DVC's cache holds the file itself
    record.write_text((reproduced.folder / "data/serving/base.json").read_text())
    try:
        failed = reproduced.run("pricer", "predict", "kettle", ok=False)
        assert len(failed.stderr.splitlines()) == 1
        assert "data/adapter is not the one that the serving record is of" in failed.stderr
    finally:
        record.write_text(content)


def test_one_description_is_a_json_line_where_nobody_looks(reproduced):
    command = ["pricer", "predict", "A steel kettle [bold], 1.7 litres", "--interval", "50"]
    row = json.loads(reproduced.run(*command, "--distribution").stdout)
    assert row["interval"] == 50 and row["low_usd"] <= row["high_usd"]
    assert len(row["probabilities"]) == 1000 and sum(row["probabilities"]) == pytest.approx(1, 1e-3)
    assert row["summary"] == "A steel kettle [bold], 1.7 litres"


@pytest.mark.parametrize("source", ["products.txt", "-"])
def test_any_number_of_products_comes_out_as_json_lines(reproduced, tmp_path, source):
    """Where nobody looks; a table on a terminal has its limit."""
    text = "".join(f"kettle {n}\n" for n in range(1100))
    (tmp_path / "products.txt").write_text(text)
    named = source if source == "-" else str(tmp_path / source)
    done = reproduced.run("pricer", "predict", "--file", named, input=text)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["summary"] for row in rows] == text.splitlines()
    assert "item/s" in done.stderr and "out of memory" not in done.stderr


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(reproduced, tmp_path):
    (tmp_path / "products.txt").write_text("".join(f"kettle {n}\n" for n in range(1100)))
    command = f"pricer predict --file {tmp_path}/products.txt | head -n 1"
    done = reproduced.run("bash", "-c", command)
    assert len(done.stdout.splitlines()) == 1 and "kettle 0" in done.stdout
    assert not [word for word in ("Traceback", "pricer:", "Broken") if word in done.stderr]
    assert "1100/1100" not in done.stderr  # nothing is priced that nobody reads


def test_an_interrupted_file_is_resumed_with_the_same_options_alone(reproduced, tmp_path):
    source, out = tmp_path / "in.txt", tmp_path / "out.parquet"
    source.write_text("".join(f"kettle {n}\n" for n in range(1000)))
    command = ["pricer", "predict", "--file", str(source), "--output", str(out)]
    running = reproduced.start(*command)
    # the first rows are there, after a line of options; the others are being predicted
    part = partial_file(out)
    wait_until(lambda: part.exists() and part.read_bytes().count(b"\n") > 1, running)
    assert running.poll() is None, running.communicate()
    running.send_signal(signal.SIGINT)
    _, said = running.communicate()
    assert said.splitlines()[-1] == "pricer: interrupted: the same command with --resume goes on"
    assert running.returncode == 1 and not out.exists() and partial_file(out).exists()
    failed = reproduced.run(*command, "--resume", "--interval", "50", ok=False)
    assert "pricer: cannot resume with another interval" in failed.stderr
    reproduced.run(*command, "--resume")
    assert len(pd.read_parquet(out)) == 1000 and not partial_file(out).exists()


def test_descriptions_come_from_stdin(reproduced):
    done = reproduced.run("pricer", "predict", "--file", "-", input="kettle\n\nlamp\n")
    assert [json.loads(line)["summary"] for line in done.stdout.splitlines()] == ["kettle", "lamp"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "pricer: give either a description or --file"),
        (["kettle", "--file", "x.txt"], "pricer: give either a description or --file"),
        (["kettle", "--output", "x.jsonl"], "--output is for the products of --file"),
        (["--file", "nowhere.txt", "--resume"], "--resume goes on with an --output file"),
        (["--file", "nowhere.txt", "--output", "x.jsonl"], "nowhere.txt: no such file"),
        (["--file", "nowhere.csv"], "nowhere.csv: no such file"),
        (["--file", "x.csv", "--output", "./x.csv"], "x.csv is the file of the products"),
        (["kettle", "--interval", "99"], "an interval of 99% cannot be had: calibrated are 1 to 9"),
        (["kettle", "--interval", "101"], "Invalid value for '--interval'"),
        (["   "], "product 1: no description"),
    ],
)
def test_what_cannot_be_done_is_one_line(reproduced, arguments, says):
    failed = reproduced.run("pricer", "predict", *arguments, ok=False)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert says in failed.stderr.strip().splitlines()[-1]
    assert not (reproduced.folder / "x.jsonl").exists()


def test_without_a_trained_adapter_the_next_step_is_told(reproduced, tmp_path):
    (tmp_path / "params.yaml").write_text((reproduced.folder / "params.yaml").read_text())
    project = reproduced.__class__(tmp_path, reproduced.environment)
    failed = project.run("pricer", "predict", "kettle", ok=False)
    assert failed.stderr == (
        "pricer: data/base_model is missing: run `dvc repro` or `dvc checkout` first, and from the "
        f"project's root: {tmp_path} has no dvc.yaml\n"
    )


def test_the_same_from_python(reproduced):
    predictor = Predictor.from_pipeline(reproduced.folder)
    [one], [other] = predictor.predict(["kettle"]), predictor.predict([{"summary": "kettle"}])
    assert one == other and one.low_usd <= one.high_usd and one.probabilities is None
    assert predictor.predict([]) == []
    [cut] = predictor.predict(["steel kettle " * 200], point="mode", distribution=True)
    assert cut.truncated and cut.estimate_usd == cut.probabilities.argmax()


def test_the_sketch_has_its_peak_where_the_distribution_has():
    probabilities = [0.0] * 1000
    probabilities[100:200] = [0.005] * 100
    probabilities[150] += 0.5
    lines = sketch(probabilities, width=50, height=4).splitlines()
    assert len(lines) == 5 and lines[0].strip() == "█" and lines[0].index("█") in (26, 27, 28)
    assert lines[-1].split() == ["$101", "$197"] or lines[-1].split() == ["$102", "$197"]
