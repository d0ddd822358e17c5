"""Whose `.env` is read, and what is printed of an error that nobody handles."""

import os
from pathlib import Path

import pytest

from pricer.errors import PricerError
from pricer.stage import load_environment, run_stage


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder of a project, in a folder that has an `.env` of its own."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    (tmp_path / ".env").write_text("OF_ANOTHER=1\n")
    inner = tmp_path / "project/notebooks"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    return tmp_path / "project"


def test_the_projects_root_is_the_last_folder_that_is_looked_into(project):
    (project / "dvc.yaml").touch()
    load_environment()
    assert "OF_ANOTHER" not in os.environ
    (project / ".env").write_text("OF_THE_PROJECT=1\n")
    load_environment()
    assert os.environ["OF_THE_PROJECT"] == "1"


def test_outside_of_a_project_only_the_current_folder_is_looked_into(project, monkeypatch):
    load_environment()
    assert "OF_ANOTHER" not in os.environ
    monkeypatch.chdir(project.parent)
    load_environment()
    assert os.environ["OF_ANOTHER"] == "1"


def test_a_file_that_others_may_write_is_refused(project, monkeypatch):
    file = project / "notebooks/.env"
    file.write_text("HF_ENDPOINT=http://elsewhere\n")
    file.chmod(0o666)
    with pytest.raises(PricerError, match=".env can be written by everyone: `chmod 600 "):
        load_environment()
    file.chmod(0o600)
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    monkeypatch.setattr("pricer.stage.TRUSTED", ())
    with pytest.raises(PricerError, match=".env belongs to another user"):
        load_environment()
    assert os.environ.get("HF_ENDPOINT") != "http://elsewhere"
    file.write_text("")
    file.chmod(0o666)
    load_environment()


@pytest.mark.parametrize("debug", ["", "1"])
def test_no_password_is_in_a_traceback_or_a_line(project, monkeypatch, capsys, debug):
    monkeypatch.setenv("PRICER_DEBUG", debug)
    for error in (ValueError, PricerError):

        def main(error: type[Exception] = error) -> None:
            raise error("cannot reach https://me:pass-word@hub.example/a")

        with pytest.raises(SystemExit) as ended:
            run_stage("train", main, [])
        assert ended.value.code == 1
        said = capsys.readouterr().err
        assert "https://hub.example/a" in said and "pass-word" not in said
