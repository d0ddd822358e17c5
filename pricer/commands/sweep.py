"""`pricer sweep show`: experiments side by side."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pricer.errors import ItemsError
from pricer.escaping import json_text
from pricer.workspace import Workspace


def show(
    revision: Annotated[str, typer.Argument(help="commit that the experiments began at")] = "HEAD",
    output_format: Annotated[
        Literal["text", "markdown", "json"], typer.Option("--format", help="of what is printed")
    ] = "text",
    chart: Annotated[Path | None, typer.Option(help="PNG file to draw")] = None,
) -> None:
    """Rank a commit and its experiments by the tuned model's error, paired with the best one's."""
    # DVC, pandas and the rest take a second to import: only a command that compares waits for it
    from pricer.commands.runs import read_tuned
    from pricer.commands.sweeps import list_experiments, sweep, sweep_chart, sweep_json, sweep_text
    from pricer.judging.paired import Bootstrap
    from pricer.params import flat_params, read_params

    if chart and chart.suffix.lower() != ".png":
        raise ItemsError(f"--chart {chart} must end in .png")
    params = read_params()
    finished, unfinished = list_experiments(revision, list(flat_params(dict(params))))
    rows = sweep(
        finished,
        {name: read_tuned(Workspace().predictions / "tuned.parquet", name) for name in finished},
        Bootstrap(params.evaluate.bootstrap_resamples, params.evaluate.seed),
    )
    if output_format == "json":
        print(json_text(sweep_json(rows)))
    else:
        print(sweep_text(rows, unfinished, markdown=output_format == "markdown"), end="")
    if chart:
        sweep_chart(chart, rows, f"Experiments of {revision}")
