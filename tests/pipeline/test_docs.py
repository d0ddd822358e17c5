"""The code blocks of the pages, in the order a reader would type them."""

import gzip
import json
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT, Served, emptied
from tests.hub_server import folder_files

from .conftest import Project, knowing
from .test_hub import item_files

# docs/tuning.md has a test of its own, next to the experiments it is about
DOCS = {ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("docs/questions/*.md")}
PAGES = sorted(DOCS - {ROOT / "docs/tuning.md"})
CANNOT_RUN = {
    r"make (repro|test)": "sets up an environment; what it starts, other tests run",
    r"[!%]": "a notebook's",
    r"git clone YOUR_CLONE_URL": "a placeholder",
    r"python3 -m venv|pip install": "sets up an environment",
    r"pricer init |dvc repro && pricer": "a project of its own: test_wheel.py",
    r"nohup ": "goes on when the test has ended",
    r"pricer (serve|variants|monitor --since)": "a service's: tests/serving, tests/monitoring",
    r"curl |docker |openssl |POSTGRES": "a service's: tests/serving",
    r"dvc remote add": "a store of one's own; the project here has one",
    r"pricer preset lite($| --yes &&)": "asks on a terminal; what follows takes a GPU",
    r"pricer (compare .*hub:|export combined|judge-api|rewrite)": "what is one's own: "
    "test_export.py, tests/commands/test_judge_api.py, test_rewrite.py",
    r"ray start|pricer predict --file s3:|sbatch": "of a cluster's: test_ray.py, test_examples.py",
    r"MACHINE_RANK=": "needs several machines: test_machines.py",
    r"python -m bench": "measures for minutes: `make bench`",
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block that could be run."""
    return re.findall(r"^```(bash|python)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands_of(page: Path) -> list[list[str]]:
    """What is run for a page: lines of the shell, without comments, and blocks of Python."""
    commands = []
    for language, text in blocks(page):
        if language == "python":
            commands.append(["python", "-c", text])
            continue
        for line in text.splitlines():
            line = re.sub(r"\s+# .*", "", line).strip()
            if line and not any(re.match(pattern, line) for pattern in CANNOT_RUN):
                commands.append(["bash", "-c", line])
    return commands


RUNNABLE = [page for page in PAGES if commands_of(page)]


@pytest.fixture(scope="module")
def reader(
    reproduced: Project,
    hub_with_commands: Served,
    base_model_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Project:
    """A project with what the pages take for granted, and a Hub on loopback."""
    folder = tmp_path_factory.mktemp("reader")
    project = reproduced.copy(folder / "project")
    project.run("git", "init", "-q", "--bare", str(folder / "origin.git"))
    project.run("git", "remote", "add", "origin", str(folder / "origin.git"))
    project.run("git", "config", "push.autoSetupRemote", "true")
    products = (project.folder / "examples/products.jsonl").read_text()
    (project.folder / "products.jsonl").write_text(products)
    (project.folder / "descriptions.txt.gz").write_bytes(gzip.compress(b"kettle\nlamp\n"))
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "a reader's")
    for name in ("exp-one", "exp-two"):
        project.run("dvc", "exp", "run", "-n", name, "-S", f"evaluate.seed={len(name)}")
    project.run("git", "checkout", "-q", ".")
    project.run("dvc", "checkout")
    # not committed: docs/gpu.md does it
    project.run("dvc", "remote", "add", "--default", "store", str(folder / "store"))
    served = emptied(hub_with_commands)
    hub, *_ = served
    hub.add("dataset", "ed-donner/items_lite", item_files(folder))
    files = folder_files(base_model_dir)
    hub.add("model", "meta-llama/Llama-3.2-3B", files, gated=True)
    hub.add("model", "HuggingFaceTB/SmolLM2-135M", files)
    hub.tokens["hf_reader"] = {"meta-llama/Llama-3.2-3B"}
    return knowing(served, project, "hf_reader")


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_the_commands_of_a_page_run(reader, page, tmp_path):
    project = reader.copy(tmp_path / "project")
    said = {tuple(command): project.run(*command).stdout for command in commands_of(page)}
    if page.name == "README.md":
        diff = said["bash", "-c", "dvc metrics diff"]
        assert re.search(r"prompts.json +example_tokens_max ", diff)
        assert re.search(r"train.json +validation_loss ", diff)
        metrics = json.loads((project.folder / "metrics/evaluate.json").read_text())
        assert metrics["n"] == 12 and "floor_mae" not in metrics  # of the last run, from the Hub


def test_the_readme_shows_the_main_commands():
    commands = [line.split() for _, _, line in commands_of(ROOT / "README.md")]
    assert sum(command[1:3] == ["exp", "run"] for command in commands) == 4
    assert {"metrics", "compare", "publish", "doctor", "preset"} <= {
        command[1] for command in commands
    }
    assert len(RUNNABLE) >= 8
