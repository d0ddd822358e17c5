"""Publishing as real processes, through the Hub's own client, to a Hub on loopback."""

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from pricer.errors import BaseModelError
from pricer.hub import card_data
from pricer.params import read_params
from pricer.training.card import adapter_card, base_model_name
from tests.conftest import ROOT, Served
from tests.hub_server import Fault, Hub

TOKEN = "hf_secretOfTheTests"
SEND = """
import sys
import tempfile
from pathlib import Path
from pricer.params import flat_params, read_params
from pricer.commands.publications import adapter_publication, prompts_publication, publish
from pricer.stage import run_stage
from pricer.workspace import Workspace

def main():
    sent, left = Path(tempfile.mkdtemp(dir=".")), Workspace()
    params = flat_params(dict(read_params()))
    prompts = prompts_publication("tests/mugs", sent / "prompts", left, params=params, tag="run-1")
    adapter = adapter_publication(
        "tests/adapter", sent / "adapter", left, tag="run-1", evidence="bare" not in options
    )
    for publication in (prompts, adapter):
        if "dry" in options:
            print(publication.describe(public="public" in options))
        else:
            print(publish(publication, public="public" in options))

options = sys.argv[1:]
run_stage("publish", main, [])
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a run left, as far as it is published."""
    hub = {
        "repo": "meta-llama/Llama-3.2-3B",
        "commit": "c" * 40,
        "license": {"license": "llama3.2"},
    }
    origin = {"base_model": "meta-llama/Llama-3.2-3B at commit ccc", "hub": hub}
    items = {"origin": f"`shop/mugs` at commit `{'d' * 40}` on the Hugging Face Hub"}
    tokens = {"n": 6, "truncated": 1, "example_tokens_max": 99}
    scores = {"n": 2, "mae": 50.06, "mae_ci_low": 43.3, "mae_ci_high": 57.3, "coverage_80": 0.82}
    for name, content in (
        ("data/base_model/origin.json", origin),
        ("metrics/items.json", items),
        ("metrics/prompts.json", tokens),
        ("metrics/evaluate.json", scores),
        ("data/adapter/adapter_config.json", {"r": 4}),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "data/prompts").mkdir()
    for split in ("train", "validation", "test"):
        rows = {"id": [1, 2], "prompt": [f"{split} a", "b"], "completion": ["1.00", "2.00"]}
        pd.DataFrame(rows).to_parquet(tmp_path / f"data/prompts/{split}.parquet")
    models = tmp_path / "data/evidence/models"
    models.mkdir(parents=True)
    pd.DataFrame({"id": range(1400)}).to_parquet(models / "products.parquet")
    (models / "words.safetensors").write_bytes(b"fitted")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "data/adapter/adapter_model.safetensors").write_bytes(b"weights")
    card = adapter_card(read_params(), tmp_path / "data/base_model", tmp_path / "data/prompts")
    (tmp_path / "data/adapter/README.md").write_text(card)
    (tmp_path / "send.py").write_text(SEND)
    return tmp_path


@dataclass(frozen=True)
class Publisher:
    """A run, an empty Hub, and commands that know this Hub; its client's cache is in `home`."""

    run: Path
    hub: Hub
    home: Path
    commands: Path

    def send(self, *options: str, token: str | None = TOKEN, ok: bool = True) -> str:
        """Publish; return what was said."""
        done = self.start("send.py", *options, token=token)
        assert (done.returncode == 0) == ok, done.stderr
        assert "Traceback" not in done.stderr and TOKEN not in done.stdout + done.stderr
        return done.stdout if ok else done.stderr

    def start(self, *arguments: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run python in the run's folder."""
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [self.commands / "python", *arguments],
            cwd=self.run,
            env=environment | self.hub.environment(self.home, token),
            capture_output=True,
            text=True,
        )


@pytest.fixture
def publisher(served: Served, run: Path) -> Publisher:
    hub, home, commands = served
    hub.tokens[TOKEN] = {"write"}
    return Publisher(run, hub, home, commands)


def test_prompts_and_adapter_arrive_private_and_tagged(publisher):
    publisher.send()
    repos = publisher.hub.repos
    data, model = repos["dataset", "tests/mugs"], repos["model", "tests/adapter"]
    assert data.private and model.private
    files = data.commits[data.tags["run-1"]]
    for split in ("train", "val", "test"):
        table = pd.read_parquet(io.BytesIO(files[f"data/{split}-00000-of-00001.parquet"]))
        assert list(table) == ["prompt", "completion"] and len(table) == 2
    card = files["README.md"].decode()
    assert re.search(r"^\| `val` +\| +2 \|$", card, re.MULTILINE)
    assert "`shop/mugs` at commit `dddd" in card and "Cutoff: 96 tokens" in card
    assert (
        "- Prompts tell evidence after the description: what a linear model of words and "
        "neighbours suggests; for products of train, without their own price"
    ) in card
    files = model.commits[model.tags["run-1"]]
    assert files["adapter_model.safetensors"] == b"weights"
    assert files["evidence/words.safetensors"] == b"fitted" and "evidence/products.parquet" in files
    card = files["README.md"].decode()
    assert 'base_model: "meta-llama/Llama-3.2-3B"\n' in card and 'license: "llama3.2"\n' in card
    assert "Built with Llama" in card and f'revision="{"c" * 40}"' in card
    assert re.search(r"^\| mean absolute error .USD. +\| +50.06 \| +43.3 to 57.3 \|$", card, re.M)
    assert "On 2 test products" in card and "`lora.r`" in card

    # the same run once more is no error, another one is another tag's commit
    publisher.send()
    assert list(model.tags) == ["run-1"]


HOSTILE = "![x](http://127.0.0.1/x.png) | <script>a</script> `b`\n# heading"


def test_text_from_outside_is_text_in_a_card(run, monkeypatch):
    """No picture, link, heading, table or field of its own comes from the name of a model."""
    monkeypatch.chdir(run)
    (run / "data/base_model/origin.json").write_text(json.dumps({"base_model": HOSTILE}))
    params = read_params()
    lora = params.lora.model_copy(update={"target_modules": [HOSTILE]})
    card = adapter_card(
        params.model_copy(update={"lora": lora}), Path("data/base_model"), run / "data/prompts"
    )
    body = card.split("---", 2)[2]
    assert not re.search(r"(?<!\\)(!\[|\]\(|<)", body) and "\n# heading" not in body
    [row] = [line for line in card.splitlines() if "lora.target_modules" in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3


@pytest.mark.parametrize("license", [None, 7, ["mit"], {"a": "b"}, "mit: b\nbase_model: evil/evil"])
def test_whatever_a_card_says_of_its_license_an_adapter_gets_its_card(run, monkeypatch, license):
    """One that is no text is told when the model is fetched, not after it is trained on."""
    monkeypatch.chdir(run)
    hub = {"repo": "a/b", "commit": "c" * 40, "license": {"license": license}}
    origin = {"base_model": "a/b at commit c", "hub": hub}
    (run / "data/base_model/origin.json").write_text(json.dumps(origin))
    if not isinstance(license, str):
        with pytest.raises(
            BaseModelError, match="hub.license.license: Input should be a valid str"
        ):
            base_model_name(Path("data/base_model"))
        return
    (run / "data/adapter/README.md").write_text(
        adapter_card(read_params(), Path("data/base_model"), run / "data/prompts")
    )
    facts = card_data(run / "data/adapter")
    assert facts["license"] == license and facts["base_model"] == "a/b"


def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(publisher):
    said = publisher.send("dry", token=None)
    assert "model tests/adapter, private, tag run-1" in said
    assert "  adapter_model.safetensors  7 bytes" in said and "# Price adapter" in said
    assert "data/val-00000-of-00001.parquet" in said
    assert not publisher.hub.requests


def test_whether_titles_and_prices_of_training_products_go_along_is_said(publisher):
    told = "`evidence/` holds the titles and prices of 1,400 training products"
    assert told in publisher.send("dry", token=None).split("# Price adapter")[0]
    publisher.send("bare")
    model = publisher.hub.repos["model", "tests/adapter"]
    files = model.commits[model.tags["run-1"]]
    assert not [name for name in files if name.startswith("evidence")]
    assert "are not part of this repository" in files["README.md"].decode()


def test_what_is_published_without_evidence_says_nothing_of_it(run, publisher):
    params = (run / "params.yaml").read_text()
    params = params.replace("words: true", "words: false")
    (run / "params.yaml").write_text(params)
    card = adapter_card(
        read_params(run / "params.yaml"), run / "data/base_model", run / "data/prompts"
    )
    (run / "data/adapter/README.md").write_text(card)
    said = publisher.send("dry", token=None)
    assert "evidence" not in said.lower().replace("`evidence.", "")


def test_public_is_asked_for(publisher):
    publisher.hub.add("model", "tests/adapter", {})
    assert "tests/adapter exists and can be seen by all: add --public" in publisher.send(ok=False)
    assert "adapter_model.safetensors" not in publisher.hub.repos["model", "tests/adapter"].commits
    publisher.send("public")
    assert publisher.hub.repos["model", "tests/adapter"].tags


def test_what_the_hub_refuses_is_told(publisher):
    assert "no token to publish with: make one that may write" in publisher.send(
        token=None, ok=False
    )
    publisher.hub.tokens[TOKEN] = set()
    line = publisher.send(ok=False)
    assert "your token may not do this (You don't have the rights to write here" in line
    publisher.hub.tokens[TOKEN] = {"write"}
    publisher.hub.faults = [Fault("PUT /storage", status=403)]
    assert "tests/mugs: your token may not do this" in publisher.send(ok=False)
    assert not publisher.hub.repos["dataset", "tests/mugs"].tags


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "name a repository with --adapter or --prompts (OWNER/NAME)"),
        (["--adapter", "mine"], "'mine' is no name of a repository, must be OWNER/NAME"),
        (["--adapter", "tests/adapter"], "is not in a DVC project: run from the root"),
    ],
)
def test_the_command_checks_before_it_asks_the_hub(run, options, says):
    code = "from pricer.commands.main import main; main()"
    command = [sys.executable, "-c", code, "publish", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=run, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and says in done.stderr and len(done.stderr.splitlines()) == 1


def test_published_prompts_can_be_trained_on_again(publisher):
    """The data set is one that `items.source: hub` and `datasets` both read."""
    publisher.send("public")
    assert not publisher.home.exists()  # what is read comes from the Hub
    code = (
        "from datasets import load_dataset\n"
        "d = load_dataset('tests/mugs', revision='run-1')\n"
        "print({k: len(v) for k, v in d.items()}, d['train'][0])"
    )
    done = publisher.start("-c", code)
    assert not done.returncode, done.stderr
    assert "{'train': 2, 'val': 2, 'test': 2} {'prompt': 'train a', 'completion': '1.00'}" in (
        done.stdout
    )
