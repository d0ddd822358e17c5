"""fetch@model: the base model and its tokenizer as one folder."""

from pathlib import Path

from pricer.files import write_json, writing
from pricer.model.sources import describe_base_model, fetch_base_model
from pricer.params import read_params


def main(base_model_dir: Path, metrics_file: Path) -> None:
    """Write the base model to `base_model_dir` and what it is to `metrics_file`."""
    with writing(base_model_dir, folder=True) as partial:
        record = fetch_base_model(read_params().model, partial)
        # the same commit under another name is the same base model: nothing trains anew for it
        moved = record.pop("moved", None)
        write_json(partial / "origin.json", record)
    if moved:
        print(moved)
    origin, facts = record["base_model"], describe_base_model(base_model_dir)
    write_json(metrics_file, {"base_model": origin} | facts)
    print(f"base model: {origin}: {facts['architecture']}, {facts['parameters']:,} parameters")
