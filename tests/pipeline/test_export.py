"""What a run trained, taken along by the real commands: judged again, run without Python."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from .conftest import Project

# llama.cpp alone: neither torch nor pricer is there
ANSWER = """
import importlib.util, json, sys
import xllamacpp

assert not any(map(importlib.util.find_spec, ("torch", "transformers", "pricer")))
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.verbosity = sys.argv[1], 512, -1
server = xllamacpp.Server(params)
asked = {"prompt": sys.stdin.read(), "max_tokens": 8, "temperature": 0}
print(json.dumps(server.handle_completions(asked)["choices"][0]["text"]))
"""


@pytest.fixture(scope="module")
def project(reproduced: Project, tmp_path_factory) -> Project:
    return reproduced.copy(tmp_path_factory.mktemp("export") / "project")


def read(project: Project, name: str) -> pd.DataFrame:
    return pd.read_parquet(project.folder / "data" / name)


def test_merged_weights_price_like_the_adapter_in_a_run_of_their_own(project, tmp_path):
    told = project.run("pricer", "export", "merged", "merged", "--tolerance", "30").stdout
    assert told.startswith("merged: merged onto the numbers that its quantized weights stand for")
    assert "12 validation products" in told and "Mean total variation" in told
    card = (project.folder / "merged/README.md").read_text()
    assert "| MAE " in card and "evidence/" in card
    other = project.copy(tmp_path / "other")
    other.set(model__path="merged", quantization__load_in_4bit=False)
    other.run("dvc", "repro", "predict_base")
    tuned, again = (
        read(project, "predictions/tuned.parquet"),
        read(other, "predictions/base.parquet"),
    )
    assert list(again["id"]) == list(tuned["id"])
    # bfloat16 rounds the merged weights and all that is computed with them
    assert np.abs(again["mean"] - tuned["mean"]).mean() < 0.05 * tuned["mean"].mean()
    asked = (
        "from pricer import Predictor\n"
        "said = Predictor('merged', evidence='merged/evidence').predict(['Steel kettle, 2 l'])\n"
        "print(said[0].estimate_usd)"
    )
    assert float(project.run("python", "-c", asked).stdout) >= 0


def test_a_gguf_file_answers_where_there_is_neither_torch_nor_pricer(project, tmp_path):
    told = project.run(
        "pricer", "export", "gguf", "prices.gguf", "--products", "4", "--tolerance", "100"
    ).stdout
    assert told.startswith("prices.gguf: q8_0, ") and "4 validation products" in told
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    [packages] = venv.glob("lib/python*/site-packages")
    there = Path(importlib.util.find_spec("xllamacpp").origin).parent
    (packages / "xllamacpp").symlink_to(there)
    test = read(project, "prompts/test.parquet").head(4)
    said = []
    for prompt in test["prompt"]:
        done = subprocess.run(
            [str(venv / "bin/python"), "-I", "-c", ANSWER, str(project.folder / "prices.gguf")],
            input=prompt,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        said.append(json.loads(done.stdout.splitlines()[-1]))
    tuned = read(project, "predictions/tuned.parquet").set_index("id")
    ours = tuned.loc[test["id"], "greedy_text"].tolist()
    assert sum(a.strip()[:1] == b.strip()[:1] for a, b in zip(said, ours, strict=True)) >= 3


def test_ollama_gets_a_file_and_how_to_ask_it(project):
    project.run("pricer", "export", "ollama", "ollama", "--type", "f16", "--no-judge")
    folder = project.folder / "ollama"
    assert {file.name for file in folder.iterdir()} == {"prices.gguf", "Modelfile", "README.md"}
    lines = (folder / "Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./prices.gguf" and "PARAMETER temperature 0" in lines
    assert 'TEMPLATE """{{ .Prompt }}"""' in lines and "PARAMETER num_predict 8" in lines
    assert "not judged" in (folder / "README.md").read_text()


@pytest.mark.parametrize("what", ["merged", "gguf"])
def test_what_is_worse_than_allowed_is_not_kept(project, what):
    """A model of other weights than those that were judged: the adapter's sign is turned."""
    weights = project.folder / "data/adapter/adapter_model.safetensors"
    name = f"worse_{what}"
    (project.folder / name).mkdir()
    done = project.run("pricer", "export", what, name, ok=False)
    assert done.stderr == f"pricer: {name} exists: name what is to be made, or remove it first\n"
    (project.folder / name).rmdir()
    assert weights.is_file()
    script = (
        "import sys\n"
        "from pricer.export import fidelity\n"
        "whole = fidelity.compare_prices\n"
        "def turned(products, trained, exported):\n"
        "    return whole(products, trained, exported[:, ::-1])\n"
        "fidelity.compare_prices = turned\n"
        "from pricer.commands.main import main\n"
        f"sys.argv[1:] = ['export', '{what}', '{name}', '--products', '3']\n"
        "main()\n"
    )
    done = project.run("python", "-c", script, ok=False)
    [line] = [line for line in done.stderr.splitlines() if line.startswith("pricer: ")]
    assert f"pricer: {name}: the exported model is worse" in line and "was not kept" in line
    assert not [file for file in project.folder.iterdir() if name in file.name]


def test_adapters_are_summed_and_compared(project):
    folder = project.folder
    shutil.copytree(folder / "data/adapter", folder / "weaker")
    file = folder / "weaker/adapter_model.safetensors"
    save_file({name: weight * 0.9 for name, weight in load_file(file).items()}, file)
    told = project.run(
        *("pricer", "export", "combined", "sum", "--tolerance", "1000"),
        *("--adapter", "data/adapter=0.5", "--adapter", "weaker=0.5"),
    ).stdout
    assert told.startswith("sum: data/adapter=0.5 + weaker=0.5")
    parts = [load_file(folder / name / file.name) for name in ("data/adapter", "weaker", "sum")]
    config = [
        json.loads((folder / name / "adapter_config.json").read_text())
        for name in ("data/adapter", "sum")
    ]
    assert config[1]["r"] == 2 * config[0]["r"]

    def added(weights, name, scale):
        b, a = (weights[name.replace("lora_A", part)].numpy() for part in ("lora_B", "lora_A"))
        return b @ a * scale

    scale = config[0]["lora_alpha"] / config[0]["r"]
    for name in (name for name in parts[0] if "lora_A" in name):
        wanted = (added(parts[0], name, scale) + added(parts[1], name, scale)) / 2
        found = added(parts[2], name, config[1]["lora_alpha"] / config[1]["r"])
        assert np.allclose(found, wanted, atol=1e-4)

    told = project.run("pricer", "compare", "weaker", "sum", "--format", "json").stdout
    assert json.loads(told)["n"] == 8
    tuned = json.loads(
        project.run("pricer", "compare", "tuned", "data/adapter", "--format", "json").stdout
    )
    # an adapter in a folder has no calibration: its medians are its own
    code = (
        "import pandas as pd; from pricer import Predictor;"
        "test = pd.read_parquet('data/items/test.parquet');"
        "p = Predictor('data/base_model', 'data/adapter', evidence='data/evidence/models');"
        "found = pd.Series([one.estimate_usd for one in p.predict(test['summary'].tolist())]);"
        "print((found - test['price']).abs().mean())"
    )
    own = float(project.run("python", "-c", code).stdout)
    assert tuned["b"]["mae"] == pytest.approx(own, rel=1e-3)
    assert len(list((folder / "data/compared").iterdir())) == 3
    done = project.run(
        *("pricer", "export", "combined", "one", "--adapter", "data/adapter=1"), ok=False
    )
    assert "a combination needs two adapters at least" in done.stderr
    done = project.run(
        *("pricer", "export", "combined", "one", "--adapter", "data/adapter", "--adapter", "=2"),
        ok=False,
    )
    assert "--adapter must be FOLDER=WEIGHT" in done.stderr


def test_an_adapter_from_elsewhere_is_judged_without_training(project, tmp_path):
    other = project.copy(tmp_path / "other")
    shutil.copytree(other.folder / "data/adapter", tmp_path / "adapter")
    other.set(adapter__source="path", adapter__path=str(tmp_path / "adapter"))
    told = other.run("dvc", "repro").stdout
    assert "nothing is trained: the adapter is folder" in told
    before, after = (read(one, "predictions/tuned.parquet") for one in (project, other))
    pd.testing.assert_frame_equal(before, after)
    report = (other.folder / "metrics/report.md").read_text()
    assert report.startswith("The tuned model is off by")
    other.run("git", "commit", "-qam", "judged")
    card = other.run("pricer", "publish", "--adapter", "me/again", "--dry-run").stdout
    assert "## Origin\n\nTaken as it is from a folder." in card and str(tmp_path) not in card
