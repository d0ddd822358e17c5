"""The fetch stages as real processes, with the Hub's own clients, against a Hub on loopback."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import pandas as pd
import pytest
from transformers import AutoModelForCausalLM

from pricer.errors import HubError
from pricer.model.sources import describe_base_model
from pricer.products.items import SPLITS, read_items
from pricer.products.prompts import build_prompt
from tests.conftest import ROOT, Served
from tests.hub_server import Fault, Hub, folder_files

from .pipeline.conftest import set_params

TOKEN = "hf_secretOfTheTests"
FILES = {
    "train": "data/train-00000-of-00001.parquet",
    "val": "data/val-00000-of-00001.parquet",
    "test": "data/test-00000-of-00001.parquet",
}
CARD = """---
license: mit
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train-*}
  - {split: val, path: data/val-*}
  - {split: test, path: data/test-*}
- config_name: other
  data_files:
  - {split: train, path: other.parquet}
---
# Mugs
"""


@dataclass
class Desk:
    """A folder with params of its own, where stages run against one Hub."""

    folder: Path
    hub: Hub
    home: Path
    commands: Path
    token: str | None = None

    def set(self, **values: object) -> None:
        """Change params, dots written as two underscores."""
        set_params(self.folder, {key.replace("__", "."): value for key, value in values.items()})

    def items(self, **how):
        return self.run("pricer.stages", "fetch_items", "data/items", "metrics/items.json", **how)

    def model(self, **how):
        return self.run(
            "pricer.stages", "fetch_model", "data/base_model", "metrics/base_model.json", **how
        )

    def run(self, *command: str, ok: bool = True, **environment: str) -> str:
        """Run a stage and return what it says.

        A failure must be exit code 1 and one line, which is what is returned.
        """
        code, stdout, stderr = self.start(*command, **environment)
        assert TOKEN not in stdout + stderr
        assert (code == 0) == ok, stdout + stderr
        if ok:
            return stdout
        assert code == 1 and "Traceback" not in stderr, stderr
        [line] = [line for line in stderr.splitlines() if line.startswith("fetch@")]
        return line

    def start(self, *command: str, **environment: str) -> tuple[int, str, str]:
        """Run a module as a process; return exit code, stdout and stderr."""
        done = subprocess.run(
            [str(self.commands / "python"), "-m", *command],
            cwd=self.folder,
            env=self.environment() | environment,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout, done.stderr

    def environment(self) -> dict[str, str]:
        hub = self.hub.environment(self.home, self.token)
        return os.environ | {"PYTHONPATH": str(ROOT)} | hub

    def read(self, name: str):
        return json.loads((self.folder / name).read_text())


@pytest.fixture
def desk(served: Served, tmp_path: Path, base_model_dir: Path) -> Desk:
    """A desk before a Hub with a data set of mugs and the tiny base model, and an empty cache."""
    hub, home, commands = served
    shutil.copy(ROOT / "params.yaml", tmp_path)
    hub.add("dataset", "shop/mugs", data_set(tmp_path))
    card = b"---\nlicense: apache-2.0\nlicense_link: null\nlicense_name: [7]\n---\n# Tiny\n"
    hub.add("model", "shop/tiny", folder_files(base_model_dir) | {"README.md": card})
    hub.tokens[TOKEN] = set()
    desk = Desk(tmp_path, hub, home, commands)
    desk.set(items__source="hub", items__hub__dataset="shop/mugs")
    desk.set(model__source="hub", model__hub__id="shop/tiny")
    return desk


def mugs(start: int, n: int) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "title": f"Mug {number}",
                "category": "Kitchen",
                "price": 1.0 + number,
                "full": "a long text",
                "weight": 0.4,
                "summary": f"Title: Mug {number}\nCategory: Mugs\nDescription: holds {number} ml",
                "prompt": None,
                "completion": None,
                "id": None,
            }
            for number in range(start, start + n)
        ]
    )


def data_set(folder: Path, **splits: pd.DataFrame) -> dict[str, bytes]:
    """Return the files of a data set on the Hub."""
    tables = {"train": mugs(0, 30), "val": mugs(100, 8), "test": mugs(200, 8)} | splits
    files = {"README.md": CARD.encode(), "notes.txt": b"not wanted"}
    for split, table in tables.items():
        table.to_parquet(folder / "table.parquet")
        files[FILES[split]] = (folder / "table.parquet").read_bytes()
    return files


def titles(desk: Desk) -> dict[str, list[str]]:
    return {
        split: read_items(desk.folder / "data/items", split)["title"].tolist() for split in SPLITS
    }


def test_a_data_set_is_read_at_a_commit_and_what_is_left_out_is_counted(desk):
    strange = mugs(0, 3).assign(price=[0.1, 5000.0, None], summary=["a", "b", "c"])
    blank = mugs(50, 2).assign(summary=[None, " "])
    again = mugs(3, 2)
    taken = mugs(200, 1).assign(summary="another text")
    train = pd.concat([mugs(0, 6), strange, blank, again, taken, mugs(6, 20)])
    commit = desk.hub.add("dataset", "shop/mugs", data_set(desk.folder, train=train)).find("main")
    done = desk.items()
    assert f"shop/mugs: revision main is commit {commit} now, and can move" in done
    assert titles(desk)["train"] == [f"Mug {number}" for number in range(26)]
    counts = desk.read("metrics/items.json")
    assert counts["commit"] == commit and counts["dataset"] == "shop/mugs"
    assert counts["source"] == "hub" and "moved" not in counts
    assert counts["origin"] == f"`shop/mugs` at commit `{commit}` on the Hugging Face Hub"
    assert counts["read"] == 50 and counts["splits"]["validation"]["n"] == 8
    assert counts["left_out"] == {
        "empty summary": 2,
        "no positive price": 1,
        "price outside min_price..max_price": 2,
    }
    assert counts["duplicates"] == 2 and counts["shared_between_splits"] == 1
    assert not desk.hub.asked("notes.txt")


def test_a_pinned_commit_stays_whatever_the_branch_does_and_needs_no_network(desk):
    repo = desk.hub.repos["dataset", "shop/mugs"]
    first = repo.find("main")
    repo.commit(data_set(desk.folder, train=mugs(500, 5)))
    desk.set(items__hub__revision=first)
    assert "can move" not in desk.items()
    before = titles(desk)
    assert before["train"] == [f"Mug {number}" for number in range(30)]
    desk.hub.faults[:] = [Fault(".", status=503)]
    desk.items(HF_HUB_OFFLINE="1")
    assert titles(desk) == before
    desk.hub.faults.clear()
    desk.set(items__hub__revision="main")
    desk.items()
    assert titles(desk)["train"] == [f"Mug {number}" for number in range(500, 505)]


def test_sizes_take_the_first_usable_products(desk):
    desk.set(items__hub__train_size=4, items__hub__test_size=2)
    desk.items()
    assert titles(desk)["train"] == ["Mug 0", "Mug 1", "Mug 2", "Mug 3"]
    assert titles(desk)["test"] == ["Mug 200", "Mug 201"] and len(titles(desk)["validation"]) == 8
    desk.set(items__hub__test_size=9)
    assert "9 test products asked for, but 8 of 8 rows are usable" in desk.items(ok=False)


def test_prompts_alone_give_items(desk):
    def prompts(table: pd.DataFrame, *, cents: bool) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "prompt": table["summary"].map(build_prompt),
                "completion": [f"{price:.2f}" if cents else f"{price}" for price in table["price"]],
            }
        )

    bare = mugs(300, 1).assign(summary="A mug without a form\nand a second line")
    other = pd.DataFrame({"prompt": ["How much is this mug?"], "completion": ["1.00"]})
    files = data_set(
        desk.folder,
        train=pd.concat([prompts(mugs(0, 5), cents=True), prompts(bare, cents=True), other]),
        val=prompts(mugs(100, 3), cents=True),
        test=prompts(mugs(200, 3).assign(price=12.34), cents=False),
    )
    desk.hub.add("dataset", "shop/mugs", files)
    desk.items()
    train = read_items(desk.folder / "data/items", "train")
    assert train["summary"][0] == mugs(0, 1)["summary"][0]
    assert train["title"].tolist() == [f"Mug {i}" for i in range(5)] + ["A mug without a form"]
    assert train["category"].tolist() == ["Mugs"] * 5 + ["unknown"]
    assert train["price"].tolist() == [1, 2, 3, 4, 5, 301]
    assert desk.read("metrics/items.json")["left_out"] == {"empty summary": 1}
    assert read_items(desk.folder / "data/items", "test")["price"].tolist() == [12.34] * 3


@pytest.mark.parametrize(
    ("config", "files", "says"),
    [
        ("nothing", {}, "config nothing .items.hub.config.: .*Available: \\['default', 'other'"),
        ("other", {"other.parquet": b""}, "no validation split .has train; validation or val or"),
        (None, {FILES["train"]: b"PAR1 and no more"}, "train-00000-of-00001.parquet is not reada"),
    ],
)
def test_data_sets_that_cannot_be_used_say_why(desk, config, files, says):
    desk.hub.repos["dataset", "shop/mugs"].commit(files)
    desk.set(items__hub__config=config)
    assert re.search(says, line := desk.items(ok=False)), line


def test_a_data_set_without_parquet_files_or_columns(desk):
    desk.hub.add("dataset", "shop/mugs", {"mugs.csv": b"title\n"})
    assert "no Parquet files at commit" in desk.items(ok=False)
    cups = pd.DataFrame({"text": ["a cup"]})
    desk.hub.add("dataset", "shop/mugs", data_set(desk.folder, test=cups))
    assert "shop/mugs test: has columns text: items need title" in desk.items(ok=False)


def test_what_repositories_say_of_other_places_is_refused(desk, base_model_dir):
    """No address is asked and no file is read, made or removed there."""
    card = CARD.replace("data/val-*", f"{desk.hub.url}/leak.parquet")
    desk.hub.repos["dataset", "shop/mugs"].commit({"README.md": card.encode()})
    assert "data_files in its card: 'http://127.0.0.1" in desk.items(ok=False)
    assert not desk.hub.asked("leak")
    for name in ("../../../evil.parquet", f"{desk.folder}/evil.parquet"):
        desk.hub.add("dataset", "shop/mugs", data_set(desk.folder) | {name: b"PAR1"})
        assert "is no name of a file in a repository" in desk.items(ok=False)
    assert not list(desk.folder.rglob("evil*")) and not list(desk.home.rglob("evil*"))

    mine = desk.folder / ("0" * 64)
    mine.write_bytes(b"mine")
    files = folder_files(base_model_dir)
    del files["model.safetensors"]
    index = json.dumps({"weight_map": {"a": str(mine)}}).encode()
    desk.hub.add("model", "shop/tiny", files | {"model.safetensors.index.json": index})
    assert "is no name of a file in a repository" in desk.model(ok=False)
    assert mine.read_bytes() == b"mine"


def test_a_connection_that_breaks_is_taken_up_where_it_broke(desk):
    noise = random.Random(0)
    heavy = mugs(0, 13).assign(full=[noise.randbytes(1_000_000) for _ in range(13)])
    desk.hub.add("dataset", "shop/mugs", data_set(desk.folder, train=heavy))
    # the library writes ten mebibytes at a time
    desk.hub.faults[:] = [Fault("GET /storage/", cut_at=12_000_000, times=3)]
    desk.items()
    assert len(titles(desk)["train"]) == 13
    ranges = [headers.get("range") for headers in desk.hub.asked("GET /storage/")]
    assert ranges == [None, None, None, f"bytes={10 * 2**20}-"]


def test_what_is_finished_is_not_downloaded_again(desk):
    desk.hub.faults[:] = [Fault("GET /storage/", status=503)]
    assert "the Hub has a problem (HTTP 503)" in desk.model(ok=False)
    small = len(desk.hub.asked("GET /shop/tiny/resolve/"))
    desk.hub.faults.clear()
    desk.model()
    assert small >= 4 and len(desk.hub.asked("GET /shop/tiny/resolve/")) == small
    assert len(desk.hub.asked("GET /storage/")) == 2


def test_a_damaged_file_is_found_by_its_hash_and_removed(desk):
    desk.hub.faults[:] = [Fault("GET /storage/", damage=True, times=1)]
    line = desk.model(ok=False)
    assert "model.safetensors in the Hub's cache is damaged" in line
    assert not (desk.folder / "data/base_model").exists()
    desk.model()


LOAD = """
import json
from pathlib import Path
import torch
from pricer.model.base import load_base_model, load_tokenizer
from pricer.prices.record import QUANTIZATION

def logits(folder):
    model = load_base_model(folder, device=torch.device("cpu"), dtype=torch.float32,
        quantization=QUANTIZATION.model_copy(update={"load_in_4bit": False}))
    ids = load_tokenizer(folder)("Mug 219", return_tensors="pt")["input_ids"]
    return model(ids).logits.tolist()

if __name__ == "__main__":
    Path("logits.json").write_text(json.dumps(logits(Path("data/base_model"))))
"""


def test_a_file_that_comes_short_is_not_used(desk):
    desk.hub.faults[:] = [Fault("GET /storage/", short=True, times=1)]
    line = desk.items(ok=False)
    assert "shop/mugs: a file came incomplete: run the same command again" in line
    assert len(desk.hub.asked("GET /storage/")) == 3
    desk.items()
    assert len(desk.hub.asked("GET /storage/")) == 4  # the two that were whole are still there


@pytest.mark.parametrize("shards", [1, 2])
def test_a_model_stays_in_the_cache_and_is_loaded_from_there(
    desk, base_model_dir, monkeypatch, shards
):
    if shards > 1:
        files = folder_files(base_model_dir)
        del files["model.safetensors"]
        model = AutoModelForCausalLM.from_pretrained(base_model_dir)
        model.save_pretrained(desk.folder / "shards", max_shard_size="60KB")
        card = {"README.md": b"---\nlicense: apache-2.0\n---\n"}
        desk.hub.add("model", "shop/tiny", files | folder_files(desk.folder / "shards") | card)
    assert "shop/tiny: revision main is commit" in desk.model()
    folder = desk.folder / "data/base_model"
    assert not list(folder.glob("*.safetensors")) and (folder / "tokenizer.json").is_file()
    origin = json.loads((folder / "origin.json").read_text())
    pinned = origin["hub"]
    assert origin["base_model"] == f"shop/tiny at commit {pinned['commit']} on the Hugging Face Hub"
    assert set(origin) == {"base_model", "hub"}  # the commit, however it was named
    assert pinned["repo"] == "shop/tiny" and pinned["license"] == {"license": "apache-2.0"}
    assert pinned["commit"] == desk.hub.repos["model", "shop/tiny"].find("main")
    weights = [name for name in pinned["files"] if name.endswith(".safetensors")]
    assert (len(weights) > 1) == (shards > 1) and weights
    assert all(len(known["sha256"]) == 64 for known in pinned["files"].values())
    facts = desk.read("metrics/base_model.json")
    assert facts["parameters"] == describe_base_model(base_model_dir)["parameters"] > 100_000

    here: dict = {"__name__": "load"}
    exec(LOAD, here)
    expected = here["logits"](base_model_dir)
    # these tests' own process is offline
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(desk.home / "hub"))
    assert here["logits"](folder) == expected

    # the branch moves on and the cache is cleared: the very same weights come back
    desk.hub.repos["model", "shop/tiny"].commit({name: b"other" for name in weights})
    shutil.rmtree(desk.home)
    with pytest.raises(HubError, match="shop/tiny: HF_HUB_OFFLINE is set, and revision"):
        here["logits"](folder)
    (desk.folder / "load.py").write_text(LOAD)
    code, _, said = desk.start("load")
    assert code == 0, said
    assert desk.read("logits.json") == expected


def test_models_without_safetensors_or_with_code_of_their_own_are_refused(desk, base_model_dir):
    files = folder_files(base_model_dir)
    weights = files.pop("model.safetensors")
    desk.hub.add("model", "shop/tiny", files | {"pytorch_model.bin": weights})
    line = desk.model(ok=False)
    assert "shop/tiny: no model.safetensors or" in line and "has pytorch_model.bin" in line
    assert not desk.hub.asked("pytorch_model.bin")

    config = json.loads(files["config.json"]) | {"model_type": "evil"}
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_evil.Evil"}
    evil = {
        "config.json": json.dumps(config).encode(),
        "modeling_evil.py": b"open('was_here', 'w')",
        "model.safetensors": weights,
    }
    desk.hub.add("model", "shop/tiny", files | evil)
    assert "a model of type 'evil' needs code from its repository" in desk.model(ok=False)
    assert not desk.hub.asked("modeling_evil.py|GET /storage")


def test_no_token_for_a_gated_model(desk):
    desk.hub.repos["model", "shop/tiny"].gated = True
    line = desk.model(ok=False)
    assert f"accept its licence at {desk.hub.url}/shop/tiny" in line and "HF_TOKEN" in line


def test_tokens_that_do_not_open_a_gated_model(desk):
    desk.hub.repos["model", "shop/tiny"].gated = True
    desk.token = TOKEN
    says = f"its licence is not accepted by your token's account: accept it at {desk.hub.url}/shop/"
    assert says in desk.model(ok=False)
    desk.hub.tokens[TOKEN] = {"pending"}
    assert "have not yet answered your request for access" in desk.model(ok=False)
    desk.hub.tokens[TOKEN] = {"shop/tiny"}
    desk.model()
    # the token goes to the Hub alone, never to the host of large files or into an output
    assert all("authorization" not in headers for headers in desk.hub.asked("/storage/"))
    for file in (desk.folder / "data").rglob("*"):
        assert file.is_dir() or TOKEN.encode() not in file.read_bytes()
    shutil.rmtree(desk.home)
    for said, code, says in (
        ("Please enable access in your fine-grained token settings", "GatedRepo", "may not read"),
        ("Access to this resource is disabled.", "", "its authors or the Hub have disabled it"),
    ):
        headers = {"X-Error-Message": said, "X-Error-Code": code}
        desk.hub.faults[:] = [Fault("HEAD .*/resolve/", status=403, headers=headers)]
        assert says in desk.model(ok=False)
    desk.hub.faults.clear()
    desk.hub.tokens.clear()
    assert "does not know the token in HF_TOKEN" in desk.model(ok=False)


def test_repositories_and_revisions_that_are_not_there(desk):
    desk.set(items__hub__dataset="shop/cups")
    assert "shop/cups: not found, or private: check items.hub.dataset" in desk.items(ok=False)
    desk.token = TOKEN
    assert "or your token's account may not see it" in desk.items(ok=False)
    desk.set(items__hub__dataset="shop/mugs", items__hub__revision="v9")
    line = desk.items(ok=False)
    assert "shop/mugs: no revision v9 (items.hub.revision)" in line
    desk.set(items__hub__revision="0" * 40)
    assert "shop/mugs: no revision 00000000" in desk.items(ok=False)
    desk.hub.repos["dataset", "shop/mugs"].private = True
    desk.token = None
    assert "not found, or private" in desk.items(ok=False)


def test_short_rate_limits_are_waited_for_and_long_ones_told(desk):
    after = {"Retry-After": "0"}
    desk.hub.faults[:] = [Fault("HEAD .*train", status=429, headers=after, times=1)]
    assert "the Hub asks to wait 1 s" in desk.items()
    limit = {"RateLimit": '"api";r=0;t=1800', "RateLimit-Policy": '"fixed window";"api";q=5;w=300'}
    desk.hub.faults[:] = [Fault("revision/main", status=429, headers=limit)]
    line = desk.items(ok=False)
    assert "allows no more requests for 1800 seconds" in line and "HF_TOKEN" in line
    assert len(desk.hub.asked("revision/main")) == 2  # one of the run that went well


def test_offline_needs_a_commit_that_is_in_the_cache(desk):
    line = desk.items(ok=False, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set, and revision main is not all in the cache" in line
    commit = desk.hub.repos["dataset", "shop/mugs"].find("main")
    desk.set(items__hub__revision=commit)
    assert "HF_HUB_OFFLINE is set" in desk.items(ok=False, HF_HUB_OFFLINE="1")
    assert not desk.hub.requests


def test_no_network_and_no_proxy(desk):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}"
        proxy = nowhere.replace("//", "//user:pass-word@")
        line = desk.items(ok=False, HF_ENDPOINT=proxy)
        assert f"cannot reach {nowhere} (ConnectError): check the network" in line
        assert "pass-word" not in line
        line = desk.items(ok=False, HF_ENDPOINT="https://hub.invalid", HTTPS_PROXY=proxy)
        assert "cannot reach https://hub.invalid" in line and "HTTPS_PROXY" in line
        assert "pass-word" not in line
    # a server that is no proxy
    line = desk.items(ok=False, HF_ENDPOINT="https://hub.invalid", HTTPS_PROXY=desk.hub.url)
    assert "the proxy (HTTPS_PROXY, HTTP_PROXY) refuses or does not answer" in line


def test_a_hub_with_problems(desk):
    desk.hub.faults[:] = [Fault("revision/main", status=503)]
    assert "the Hub has a problem (HTTP 503): try later" in desk.items(ok=False)
    desk.hub.faults[:] = [Fault("HEAD .*README", status=200)]
    assert "does not answer like the Hub: check HF_ENDPOINT" in desk.items(ok=False)


def test_a_full_disk_names_the_cache(desk):
    full = desk.folder / "full.py"
    full.write_text(
        "import resource, runpy, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "sys.argv[1:1] = ['fetch_model']\n"
        "runpy.run_module('pricer.stages', run_name='__main__', alter_sys=False)\n"
    )
    code, _, said = desk.start("full", "data/base_model", "metrics/base_model.json")
    assert code == 1 and "Traceback" not in said
    assert "fetch@model: shop/tiny: no disk space left in" in said and "HF_HOME" in said


def test_a_token_in_a_dotenv_file_is_used_and_the_environment_wins(desk):
    desk.hub.repos["model", "shop/tiny"].gated = True
    desk.hub.tokens[TOKEN] = {"shop/tiny"}
    (desk.folder / ".env").write_text(f"HF_TOKEN={TOKEN}\n")
    environment = desk.environment()
    del environment["HF_TOKEN"]
    command = [sys.executable, "-m", "pricer.stages", "fetch_model", "data/base_model", "m.json"]
    subprocess.run(command, cwd=desk.folder, env=environment, check=True, capture_output=True)
    desk.token = "hf_unknown"
    shutil.rmtree(desk.home)
    assert "does not know the token" in desk.model(ok=False)


LOCAL = """
import json, os, shutil
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import huggingface_hub
import pandas as pd
import torch

from pricer.errors import BaseModelError
from pricer.model.adapters import CONFIG, WEIGHTS, save_adapter
from pricer.model.base import load_base_model, load_tokenizer
from pricer.params import Lora, Train, read_params
from pricer.prices.predictor import Predictor
from pricer.prices.record import QUANTIZATION, ServingRecord
from pricer.products.prompts import build_prompts
from pricer.training.run import Run, fit
from pricer.training.trackers import Logged

# of the tests' own environment
huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = False
os.environ.pop("CI", None)

@contextmanager
def without(file):
    kept = file.read_bytes()
    file.unlink()
    yield
    file.write_bytes(kept)

def refused(call):
    try:
        call()
    except BaseModelError as error:
        assert chr(10) not in str(error)
    else:
        raise AssertionError("loaded")

base, adapter, params = Path("data/base_model"), Path("data/adapter"), read_params()
whole = QUANTIZATION.model_copy(update={"load_in_4bit": False})
settings = ServingRecord(quantization=whole, dtype="float32", cutoff=40)
load = partial(load_base_model, base, device=torch.device("cpu"), dtype=torch.float32,
    quantization=whole)

for name in ("config.json", "model.safetensors"):
    with without(base / name):
        refused(load)
with without(base / "tokenizer.json"):
    refused(lambda: load_tokenizer(base))
(base / CONFIG).write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "a/b"}))
refused(load)  # an adapter without weights beside the base model
(base / CONFIG).unlink()

tokenizer = load_tokenizer(base)
products = pd.DataFrame([{"id": n, "title": f"Mug {n}", "category": "Mugs", "price": 5.0 + n,
    "summary": f"Title: Mug {n}"} for n in range(8)])
prompts = build_prompts(tokenizer, products, cutoff=40, rounded=True)
few = {"per_device_train_batch_size": 4, "num_train_epochs": 1.0, "logging_steps": 1,
    "eval_steps": 2, "save_steps": 1, "save_strategy": "steps", "validation_size": 4}
run = Run(Lora(**params.lora.model_dump() | {"r": 2}), Train(**params.train.model_dump() | few),
    torch.float32, tokenizer, prompts, prompts, Path("checkpoints"))
trainer, _, _ = fit(load, run, Logged(Path("curves"), names=[], folder=Path("trackers"),
    run_name="a", tags=[], params={}))
adapter.mkdir()
save_adapter(trainer.model, adapter, base_model="shop/tiny")
estimate, = Predictor(base, adapter, settings=settings).predict(["Title: Mug 3"])
assert 0 <= estimate.estimate_usd <= 999
for name in (CONFIG, WEIGHTS):
    with without(adapter / name):
        refused(lambda: Predictor(base, adapter, settings=settings))
"""


def test_local_folders_never_reach_the_hub(desk, base_model_dir):
    """Whole or with files missing, trained on and predicted with: nobody is asked for anything."""
    shutil.copytree(base_model_dir, desk.folder / "data/base_model")
    desk.hub.add("model", "data/adapter", {"adapter_model.safetensors": b"others"})
    desk.token = TOKEN
    (desk.folder / "local.py").write_text(LOCAL)
    code, _, said = desk.start("local")
    assert code == 0, said
    assert not [line for line, _ in desk.hub.requests]
