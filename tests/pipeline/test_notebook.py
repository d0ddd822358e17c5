"""The notebook, from its first cell to its last, as "Run all" does."""

import json
import os
import re
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from pricer.params import read_params
from tests.conftest import ROOT

from .conftest import Project

NOTEBOOK = ROOT / "notebooks/pricer.ipynb"


def executed(
    notebook: nbformat.NotebookNode,
    folder: Path,
    environment: dict[str, str],
    commands: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> nbformat.NotebookNode:
    """Run a notebook that lies in `folder`, in a kernel that need not import torch anew."""
    kernel = tmp_path / "jupyter/kernels/forked/kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [str(commands / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    # the kernel's own, with which the commands that it starts could not be forked
    argv += ["--IPKernelApp.exec_lines=import os; os.environ.pop('MPLBACKEND', None)"]
    kernel.write_text(json.dumps({"argv": argv, "display_name": "forked", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    client = NotebookClient(
        notebook, timeout=300, kernel_name="forked", resources={"metadata": {"path": str(folder)}}
    )
    return client.execute(env=environment | {"IPYTHONDIR": str(tmp_path / "ipython")})


def said(cell: nbformat.NotebookNode) -> str:
    """Return what a cell printed or showed as text."""
    texts = [
        output.get("text") or output.get("data", {}).get("text/plain", "")
        for output in cell.outputs
    ]
    return "".join(texts)


def test_the_notebook_runs_from_beginning_to_end(
    reproduced: Project, commands: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project = reproduced.copy(tmp_path / "project")
    # retrained, but on what the shared run has fetched already
    project.set(train__seed=7, train__num_train_epochs=2)
    (project.folder / "presets").mkdir()  # a project's own come before the library's
    (project.folder / "params.yaml").replace(project.folder / "presets/small.yaml")
    project.run("git", "checkout", "-q", "params.yaml")
    notebook = executed(
        nbformat.read(NOTEBOOK, 4),
        project.folder / "notebooks",
        project.environment,
        commands,
        monkeypatch,
        tmp_path,
    )
    cells = {cell.source: cell for cell in notebook.cells if cell.cell_type == "code"}
    outputs = {source: said(cell) for source, cell in cells.items()}

    def output(part: str) -> str:
        [found] = [text for source, text in outputs.items() if part in source]
        return found

    assert "can train small; this run is small" in output("fitting_presets(")
    assert "+  seed: 7" in output("pricer preset")
    assert output('print(example["prompt"]').count("Price is $") == 1
    assert "greedy_text" in output("data/predictions/base.parquet")
    assert "trainable parameters" in output("pricer inspect")
    assert "on the validation products: loss" in output("def draw")
    assert re.search(r"off by \$\d+\.\d\d on average", output("data/predictions/base.parquet"))
    assert "words and these suggest $" in output("estimate.neighbors")
    knob = output("-S predict.point=mean")
    assert "'train' didn't change" in knob and "Running stage 'predict'" in knob
    assert re.search(r"^MAE .* \$.* to ", output("pricer compare"), re.MULTILINE)
    assert "models/merged: merged onto" in output("pricer export")
    assert "'estimate_usd'" in output("client.post") and "'fallback'" in output("client.post")
    assert output("service.wait") == "0"
    pictures = [
        image
        for cell in cells.values()
        for image in cell.outputs
        if "image/png" in image.get("data", {})
    ]
    # prices, two histograms, curves, leaderboard, scatter, distribution
    assert len(pictures) == 7
    # the run that was chosen is back, with what made it
    assert read_params(project.folder / "params.yaml").predict.point == "median"
    assert project.run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."


def test_elsewhere_the_first_cell_clones_the_version_that_it_names(
    commands: Path, tmp_path: Path
) -> None:
    [first, *_] = [cell for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version and f'TAG = "v{version[1]}"' in first.source
    origin, elsewhere = tmp_path / "origin", tmp_path / "elsewhere"
    git = ["git", "-C", str(origin), "-c", "user.name=tests", "-c", "user.email=tests@localhost"]
    (origin / "pricer/presets").mkdir(parents=True)
    elsewhere.mkdir()
    subprocess.run(["git", "init", "-q", str(origin)], check=True)
    for text in ("tagged", "later"):
        (origin / "pricer/presets/demo.yaml").write_text(text)
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-qm", text], check=True)
        if text == "tagged":
            subprocess.run([*git, "tag", f"v{version[1]}"], check=True)

    def run(**repository: str) -> subprocess.CompletedProcess[str]:
        code = f"{first.source}\nprint(Path.cwd())"
        environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull} | repository
        return subprocess.run(
            [str(commands / "python"), "-c", code],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
        )

    alone = run(PRICER_REPOSITORY="")
    assert alone.returncode == 1 and alone.stderr.startswith("not in a checkout: set REPOSITORY")
    for _ in range(2):  # the second time it is there already
        done = run(PRICER_REPOSITORY=str(origin))
        assert (done.stdout, done.stderr) == (f"{elsewhere / 'pricer'}\n", "")
    assert (elsewhere / "pricer/pricer/presets/demo.yaml").read_text() == "tagged"
