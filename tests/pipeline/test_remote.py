"""Artefacts that travel by a DVC remote."""

import json
import shutil
from dataclasses import replace


def test_a_clone_without_training_pulls_the_adapter_and_predicts(reproduced, tmp_path):
    trained = replace(reproduced, folder=tmp_path / "trained")
    shutil.copytree(reproduced.folder, trained.folder, symlinks=True)
    trained.run("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    trained.run("git", "commit", "-qam", "where artefacts are kept")
    trained.run("dvc", "push")

    clone = replace(reproduced, folder=tmp_path / "clone")
    trained.run("git", "clone", "-q", str(trained.folder), str(clone.folder))
    assert not (clone.folder / "data").exists()
    failed = clone.run("pricer", "predict", "A steel kettle", ok=False)
    assert "data/base_model is missing" in failed.stderr
    needed = ["data/base_model", "data/adapter", "data/serving/tuned.json", "data/evidence"]
    clone.run("dvc", "pull", *needed)
    assert clone.hashes(*needed[:2]) == trained.hashes(*needed[:2])
    assert not (clone.folder / "data/prompts").exists()
    found, expected = (
        json.loads(project.run("pricer", "predict", "A steel kettle").stdout)
        for project in (clone, trained)
    )
    assert found == expected

    # with the rest of it, nothing is left to run
    clone.run("dvc", "pull")
    assert "up to date" in clone.run("dvc", "repro").stdout
    assert clone.run("git", "status", "--porcelain").stdout == ""
