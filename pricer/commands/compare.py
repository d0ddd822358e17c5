"""`pricer compare`: is B better than A, product by product."""

import math
import sys
from typing import Annotated, Literal

import typer

from pricer.errors import PricerError
from pricer.escaping import json_text
from pricer.workspace import Workspace


def compare(
    a: Annotated[str, typer.Argument(help="what B is compared with")],
    b: Annotated[str, typer.Argument()] = "workspace",
    output_format: Annotated[
        Literal["text", "markdown", "json"], typer.Option("--format", help="of what is printed")
    ] = "text",
    fail_if_worse: Annotated[
        float | None,
        typer.Option(min=0, help="exit with 2 if B's MAE is more than this share above A's"),
    ] = None,
) -> None:
    """Say whether B is better than A on the products that both have judged.

    A and B are git revisions or names of DVC experiments (their tuned model), `workspace`, a
    predictor of the workspace (`base`, `tuned`, `ridge`, ...), files of predictions, or adapters:
    their folders, or hub:OWNER/NAME@REVISION.
    """
    # DVC, pandas and the rest take a second to import: only a command that compares waits for it
    from pricer.commands.runs import is_adapter, read_items_of, read_run, stages_to_run
    from pricer.judging.comparison import compare as compare_tables
    from pricer.judging.comparison import comparison_json, comparison_text, worsening
    from pricer.judging.paired import Bootstrap
    from pricer.params import read_params

    left, settings = Workspace(), read_params().evaluate
    items_file = left.items / "test.parquet"
    priced = {}
    if adapters := [name for name in (a, b) if is_adapter(name)]:
        from pricer.commands.adapter_runs import price_with_adapters  # torch, as nothing else here

        priced = price_with_adapters(adapters, left)
    (table_a, _), (table_b, items) = (
        (priced[name], read_items_of(items_file))
        if name in priced
        else read_run(name, predictions_dir=left.predictions, items_file=items_file)
        for name in (a, b)
    )
    if {a, b} & {"workspace", "tuned"} and (stale := stages_to_run("predict")):
        line = (
            f"the predictions here are not of the params and code here: `dvc repro` would run "
            f"{', '.join(stale)} first"
        )
        if fail_if_worse is not None:
            raise PricerError(line)
        print(f"pricer: {line}", file=sys.stderr)
    bootstrap = Bootstrap(settings.bootstrap_resamples, settings.seed)
    result = compare_tables(table_a, table_b, items, bootstrap)
    if output_format == "json":
        print(json_text({"a_is": a, "b_is": b} | comparison_json(result)))
    else:
        print(comparison_text(result, a, b, markdown=output_format == "markdown"), end="")
    if fail_if_worse is not None:
        share = worsening(result)
        if share > fail_if_worse:
            above = f"{share:.1%} above A's" if share < math.inf else "above A's, which is 0"
            print(
                f"pricer: B's mean absolute error is {above}, "
                f"more than the {fail_if_worse:.1%} allowed",
                file=sys.stderr,
            )
            sys.exit(2)
