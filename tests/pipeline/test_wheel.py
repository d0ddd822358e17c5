"""A wheel as a new user has it: in an empty environment, with nothing of this clone near."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PIPELINE, ROOT
from tests.fork_server import fork_server

from .conftest import TINY, Project, clone, set_params
from .test_pipeline import ran

# where pip finds packages on this machine, in uv's words: it is several times as fast
UV_NAMES = {
    "PIP_CERT": "SSL_CERT_FILE",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """What `python -m build` makes: an archive of the sources, and the wheel out of that."""
    folder = tmp_path_factory.mktemp("built")
    clone(folder / "sources")
    build = [sys.executable, "-m", "build", "--installer", "uv", "--outdir", str(folder)]
    run([*build, str(folder / "sources")], folder, uv_environment())
    [file] = folder.glob("*.whl")
    assert len(list(folder.glob("*.tar.gz"))) == 1
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Iterator[Project]:
    """A folder to begin a project in, where the commands are those of the wheel alone."""
    folder = tmp_path_factory.mktemp("user")
    venv.create(folder / "venv", symlinks=True)
    python = str(folder / "venv/bin/python")
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python]
    pins = ["--constraint", str(ROOT / "constraints.txt")]
    run([*install, *pins, str(wheel)], folder, uv_environment())
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "PATH": on_path(folder / "venv/bin")}
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        environment |= {f"{name}_NAME": "tests", f"{name}_EMAIL": "tests@localhost"}
    yield Project(folder, environment)
    shutil.rmtree(folder / "venv")  # more than a gigabyte


def run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def uv_environment() -> dict[str, str]:
    told = {uv: os.environ[pip] for pip, uv in UV_NAMES.items() if pip in os.environ}
    return os.environ | told | {"UV_INDEX_STRATEGY": "unsafe-best-match"}


def on_path(folder: Path) -> str:
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "pricer"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    ours = {name for name in listed.stdout.split() if (ROOT / name).is_file()}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == ours


def test_from_nothing_to_a_priced_product(installed, base_model_dir):
    said = installed.run("pricer", "init", "shop").stdout
    assert "committed to a git repository of its own" in said and "cd shop" in said
    folder = installed.folder / "shop"
    set_params(folder, TINY | {"model.path": str(base_model_dir)})
    python = str(installed.folder / "venv/bin/python")
    with fork_server(installed.environment, python) as commands:
        shop = Project(folder, installed.environment | {"PATH": on_path(commands)})
        assert ran(shop.run("dvc", "repro").stdout) == {"library", *PIPELINE}
        # an upgrade reruns what it changes, and nothing else
        report = next(installed.folder.glob("venv/lib/*/site-packages/pricer/judging/report.py"))
        report.write_text(report.read_text() + "# another version\n")
        assert ran(shop.run("dvc", "repro").stdout) == {"library", "evaluate"}
        priced = shop.run("pricer", "predict", "A steel kettle, 1.7 litres").stdout
    assert '"estimate_usd"' in priced and '"calibrated": true' in priced
    page = (folder / "metrics/report.html").read_text()
    assert "<code>pricer/judging/report.py</code>" in page
