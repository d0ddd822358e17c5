"""The Dockerfile's own steps in a clean folder: no container engine is needed for that."""

import json
import os
import re
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT

from .conftest import KETTLE, Project, serving

DEPLOY = ROOT / "deploy"


def steps() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions, in order."""
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    return [
        (word, rest.strip())
        for word, _, rest in (line.partition(" ") for line in lines if line[:1].isupper())
    ]


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    """A clean folder after COPY and pip's RUN, with the libraries of the tests' environment."""
    folder = tmp_path_factory.mktemp("image")
    venv.create(folder / "venv", with_pip=True)
    site = next((folder / "venv/lib").glob("python*/site-packages"))
    # the pinned libraries are there already; what is new is the project itself, built from COPY
    (site / "pinned.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = os.environ | {"PATH": f"{folder / 'venv/bin'}{os.pathsep}{os.environ['PATH']}"}
    for word, rest in steps():
        if word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                copy(ROOT / source, folder / "build" / target)
        elif word == "RUN" and "pip install" in rest:
            subprocess.run(["bash", "-ec", rest], cwd=folder / "build", env=environment, check=True)
    return folder


def copy(source: Path, target: Path) -> None:
    """Do what COPY does: what a folder holds, or a file into a folder."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def test_what_is_installed_serves_its_page_and_makes_its_tables(image, shop, tmp_path):
    """From the installed package, not from the checkout: page and migrations are in it."""
    where = subprocess.check_output(
        [image / "venv/bin/python", "-c", "import pricer; print(pricer.__file__)"],
        text=True,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
    )
    assert where.startswith(str(image / "venv"))
    project = Project(tmp_path / "project", shop.environment | {"REAL_PYTHON": "1"})
    shutil.copytree(shop.folder / "data", project.folder / "data")
    [command] = [json.loads(rest) for word, rest in steps() if word == "CMD" and "serve" in rest]
    keys = tmp_path / "keys"
    keys.write_text("0123456789abcdef0123456789\n")
    keys.chmod(0o600)
    options = [str(keys) if one == "/run/secrets/api_keys" else one for one in command[1:]]
    entry = str(image / "venv/bin/pricer")
    with serving(project, *options, program=entry) as running:
        running.headers["Authorization"] = f"Bearer {keys.read_text().strip()}"
        assert running.estimate(KETTLE)
        with running.client() as client:
            assert "What does it cost?" in client.get("/").text
            assert client.get("/script.js").status_code == 200
            assert client.get("/readyz").status_code == 200


def test_the_image_is_pinned_runs_without_rights_and_holds_no_secret():
    words = dict(steps())
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", words["FROM"])
    assert words["USER"] == "pricer" and words["STOPSIGNAL"] == "SIGTERM"
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored  # all but what is named
    copied = {part for word, rest in steps() if word == "COPY" for part in rest.split()[:-1]}
    assert {f"!{part}" for part in copied} <= set(ignored)
    for part in copied:
        assert (ROOT / part).exists()


def test_the_compose_file_names_what_is_there():
    yaml = YAML(typ="safe", pure=True)
    services = yaml.load((DEPLOY / "compose.yaml").read_text())["services"]
    assert set(services) == {"pricer", "postgres", "prometheus"}
    for service in services.values():
        image = service.get("image")
        assert image is None or re.search(r":v?\d+\.\d+", image)
    build = services["pricer"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).exists()
    jobs = yaml.load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    [target] = jobs[0]["static_configs"][0]["targets"]
    assert target.partition(":")[0] in services
    exposed = dict(steps())["EXPOSE"]
    assert target.endswith(f":{exposed}") and services["pricer"]["ports"] == [
        f"{exposed}:{exposed}"
    ]
    assert "password" not in json.dumps(services).lower().replace("postgres_password", "")
