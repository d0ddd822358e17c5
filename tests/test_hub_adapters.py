"""Adapters on a Hub on loopback: fetched at a commit, asked as they were trained, or told why."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from pricer.hub import card_data
from pricer.model.base import base_model_sha256, load_base_model
from tests.conftest import ROOT, Served
from tests.hub_server import Hub, folder_files
from tests.pipeline.conftest import set_params
from tests.quantization import quantization

TOKEN = "hf_secretOfTheTests"
REPO = "shop/price-lite"
CARD = "---\nlicense: llama3.2\npricer: {settings}\n---\n# Prices\n"


@pytest.fixture(scope="module")
def adapter(base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an adapter of the tiny base model, which lies on the Hub as shop/tiny."""
    folder = tmp_path_factory.mktemp("adapter")
    base = load_base_model(
        base_model_dir,
        device=torch.device("cpu"),
        dtype=torch.float32,
        quantization=quantization(16),
    )
    get_peft_model(base, LoraConfig(r=2, task_type="CAUSAL_LM")).save_pretrained(folder)
    config = folder / "adapter_config.json"
    named = json.loads(config.read_text()) | {"base_model_name_or_path": "shop/tiny"}
    config.write_text(json.dumps(named))
    files = folder_files(folder)
    return {name: files[name] for name in ("adapter_config.json", "adapter_model.safetensors")}


@dataclass
class Desk:
    """A folder where the stages that take an adapter run against a Hub."""

    folder: Path
    hub: Hub
    home: Path
    commands: Path
    token: str | None = None

    def set(self, **values: object) -> None:
        set_params(self.folder, {key.replace("__", "."): value for key, value in values.items()})

    def stage(self, name: str, *paths: str, ok: bool = True) -> str:
        """Run a stage; a failure must be exit code 1 and one line, which is returned."""
        done = subprocess.run(
            [str(self.commands / "python"), "-m", "pricer.stages", name, *paths],
            cwd=self.folder,
            env=os.environ
            | {"PYTHONPATH": str(ROOT)}
            | self.hub.environment(self.home, self.token),
            capture_output=True,
            text=True,
        )
        assert TOKEN not in done.stdout + done.stderr
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        if ok:
            return done.stdout
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        [line] = [line for line in done.stderr.splitlines() if line.startswith(("fetch@", "train"))]
        return line

    def fetch(self, **how: bool) -> str:
        return self.stage("fetch_adapter", "data/fetched", "metrics/adapter.json", **how)

    def take(self, **how: bool) -> str:
        paths = ("data/base_model", "data/fetched", "data/adapter", "metrics/train.json", "curves")
        return self.stage("train", "data/prompts", *paths, **how)


@pytest.fixture
def desk(served: Served, tmp_path: Path, base_model_dir: Path, adapter: dict[str, bytes]) -> Desk:
    hub, home, commands = served
    shutil.copy(ROOT / "params.yaml", tmp_path)
    card = b"---\nlicense: llama3.2\n---\n# Tiny\n"
    hub.add("model", "shop/tiny", folder_files(base_model_dir) | {"README.md": card})
    hub.add("model", REPO, adapter | {"README.md": b"---\nlicense: mit\n---\n# Prices\n"})
    hub.tokens[TOKEN] = set()
    desk = Desk(tmp_path, hub, home, commands)
    desk.set(model__source="hub", model__hub__id="shop/tiny", evidence__words=False)
    desk.set(adapter__source="hub", adapter__hub__id=REPO, adapter__hub__revision="main")
    desk.stage("fetch_model", "data/base_model", "metrics/base_model.json")
    return desk


def test_an_adapter_is_taken_as_it_is_with_its_licence_and_origin(desk, adapter):
    commit = desk.hub.repos["model", REPO].find("main")
    told = desk.fetch()
    assert f"{REPO}: revision main is commit {commit} now, and can move" in told
    assert "adapter.hub.revision set to that hash pins it" in told
    desk.set(adapter__cutoff=96, adapter__evidence=False)
    assert f"nothing is trained: the adapter is {REPO} at commit {commit}" in desk.take()
    for name, content in adapter.items():
        assert (desk.folder / "data/adapter" / name).read_bytes() == content
    card = card_data(desk.folder / "data/adapter")
    assert card["license"] == "mit" and card["pricer"]["cutoff"] == 96
    assert card["pricer"]["base_model_sha256"] == base_model_sha256(desk.folder / "data/base_model")
    text = (desk.folder / "data/adapter/README.md").read_text()
    assert "# Prices" in text and "## Origin" in text and commit in text
    assert json.loads((desk.folder / "metrics/train.json").read_text()) == {"steps": 0}


def test_a_revision_that_moved_is_fetched_at_its_commit(desk, adapter):
    before = desk.hub.repos["model", REPO].find("main")
    desk.hub.add("model", REPO, adapter | {"README.md": b"# Newer\n"})
    moved = desk.hub.repos["model", REPO].find("main")
    assert moved != before
    desk.set(adapter__hub__revision=moved)
    assert "can move" not in desk.fetch()
    assert json.loads((desk.folder / "metrics/adapter.json").read_text())["commit"] == moved
    desk.set(adapter__hub__revision="v9")
    assert f"{REPO}: no revision v9 (adapter.hub.revision)" in desk.fetch(ok=False)


def test_without_a_card_what_it_would_say_is_asked_for_by_name(desk, adapter):
    desk.hub.add("model", REPO, adapter)
    desk.fetch()
    assert "set adapter.cutoff to it, and prompts.cutoff to the same" in desk.take(ok=False)
    desk.set(adapter__cutoff=110)
    line = desk.take(ok=False)
    assert "at most 110 tokens, prompts.cutoff is 96: set it to that" in line
    desk.set(prompts__cutoff=110, prompts__max_length=160)
    line = desk.take(ok=False)
    assert "set adapter.evidence to true or false" in line
    desk.set(adapter__evidence=True)
    line = desk.take(ok=False)
    assert "adapter.evidence is true, the params have {'neighbors': 0, 'words': False}" in line
    assert not (desk.folder / "data/adapter").exists()
    desk.set(adapter__evidence=False)
    desk.take()
    # the licence of the base model holds for what is made from it
    assert card_data(desk.folder / "data/adapter")["license"] == "llama3.2"


def test_what_a_card_says_is_held_against_the_params(desk, adapter):
    told = {"cutoff": 96, "evidence": {"neighbors": 3, "words": False}}
    card = CARD.format(settings=json.dumps(told)).encode()
    desk.hub.add("model", REPO, adapter | {"README.md": card})
    desk.fetch()
    assert "trained with evidence of {'neighbors': 3, 'words': False}" in desk.take(ok=False)
    desk.set(evidence__neighbors=3)
    desk.take()
    card = CARD.format(settings=json.dumps(told | {"base_model_sha256": "0" * 64})).encode()
    desk.hub.add("model", REPO, adapter | {"README.md": card})
    desk.fetch()
    line = desk.take(ok=False)
    assert "its card names a base model of SHA-256" in line and "shop/tiny at commit" in line


def test_another_base_model_is_told(desk, adapter):
    config = json.loads(adapter["adapter_config.json"])
    config["base_model_name_or_path"] = "meta-llama/Llama-3.2-3B"
    other = {"adapter_config.json": json.dumps(config).encode()}
    desk.hub.add("model", REPO, adapter | other)
    desk.fetch()
    line = desk.take(ok=False)
    assert "names the base model 'meta-llama/Llama-3.2-3B', the params have shop/tiny" in line


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            {"adapter_config.json": b"{}", "adapter_model.bin": b"pickled"},
            "no adapter_model.safetensors at commit",
        ),
        ({"config.json": b"{}"}, "no adapter_config.json at commit"),
    ],
    ids=["pickled", "no adapter"],
)
def test_only_adapters_in_safetensors_are_fetched(desk, files, says):
    desk.hub.add("model", REPO, files)
    line = desk.fetch(ok=False)
    assert says in line and "only adapters of PEFT in safetensors are loaded" in line
    assert not (desk.folder / "data/fetched").exists()


def test_gated_and_missing_ones_are_told(desk):
    desk.hub.repos["model", REPO].gated = True
    assert "it is gated, and there is no token" in desk.fetch(ok=False)
    desk.token = TOKEN
    assert "its licence is not accepted by your token's account" in desk.fetch(ok=False)
    desk.hub.tokens[TOKEN] = {REPO}
    desk.fetch()
    desk.set(adapter__hub__id="shop/nothing")
    assert "check adapter.hub.id" in desk.fetch(ok=False)


def test_a_folder_is_taken_too(desk, adapter, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name, content in adapter.items():
        (folder / name).write_bytes(content)
    desk.set(adapter__source="path", adapter__path=str(folder))
    assert f"adapter: folder {folder}" in desk.fetch()
    (folder / "adapter_model.safetensors").unlink()
    assert "no adapter there (no adapter_model.safetensors)" in desk.fetch(ok=False)
    desk.set(adapter__source="train")
    assert "adapter: trained here" in desk.fetch()
