"""fetch@adapter: an adapter that was trained elsewhere, if the params name one."""

from pathlib import Path

from pricer.files import write_json, writing
from pricer.model.adapter_sources import fetch_adapter
from pricer.params import read_params


def main(fetched_dir: Path, facts_file: Path) -> None:
    """Write the adapter to `fetched_dir`, and where it comes from to there and `facts_file`."""
    with writing(fetched_dir, folder=True) as partial:
        record = fetch_adapter(read_params().adapter, partial)
        moved = record.pop("moved", None)
        write_json(partial / "origin.json", record)
    if moved:
        print(moved)
    write_json(facts_file, record)
    print(f"adapter: {record['adapter']}")
