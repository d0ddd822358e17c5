"""The `pricer` command."""

import hashlib
import json
import math
import os
import re
import sys
import tempfile
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pricer.bulk import (
    Row,
    estimates,
    partial_file,
    predict_file,
    read_rows,
)
from pricer.errors import ItemsError, ParamsError, PricerError, explain, load_environment
from pricer.files import writing

if TYPE_CHECKING:
    from pricer.predictor import PriceEstimate

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

PARAMS, PRESETS = Path("params.yaml"), Path("presets")

SHOWN = 1000  # products in a table: more belong into a file


@app.callback()
def pricer() -> None:
    """Teach a language model what things cost."""


@app.command()
def predict(
    description: Annotated[str | None, typer.Argument(help="what the product is")] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="products: TXT (one a line), JSONL, CSV or Parquet; - is stdin"),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSONL, CSV or Parquet file")] = None,
    interval: Annotated[int, typer.Option(min=1, max=99, help="percent")] = 80,
    point: Annotated[
        Literal["median", "mean", "mode", "greedy"] | None,
        typer.Option(help="the estimate; predict.point in params.yaml if not given"),
    ] = None,
    distribution: Annotated[bool, typer.Option(help="every price's probability too")] = False,
    resume: Annotated[bool, typer.Option(help="go on with an interrupted --output")] = False,
) -> None:
    """Price one product, or all in a file, with the adapter that `dvc repro` trained."""
    _check_options(description, file, output, resume)
    # torch takes seconds to import: only a command that predicts waits for it
    from pricer.predictor import Predictor

    predictor = Predictor.from_pipeline()
    console = Console()
    sketched = description is not None and console.is_terminal

    def estimate(products: list[Row]) -> list[Row]:
        found = predictor.predict(
            products, point=point, level=interval, distribution=distribution or sketched
        )
        return [_row(product, one) for product, one in zip(products, found, strict=True)]

    if file and output:
        options = {
            "interval": interval,
            "point": point or predictor.point,
            "distribution": distribution,
            # what changes the estimates changes the calibration
            "model": hashlib.sha256(json.dumps(predictor.offsets).encode()).hexdigest(),
        }
        try:
            count = predict_file(file, output, estimate, options=options, resume=resume)
        except KeyboardInterrupt:
            raise PricerError("interrupted: the same command with --resume goes on") from None
        print(f"{count} products: {output}", file=sys.stderr)
        return
    if file is None:
        rows = estimate([{"summary": description}])
        if not console.is_terminal:
            _print_lines(rows)
            return
        console.print(_table(rows))
        console.print(sketch(rows[0]["probabilities"], width=min(console.width - 4, 60)))
        return
    products = read_rows(file)
    if not console.is_terminal:
        for rows in estimates(products, estimate, source=file):
            _print_lines(rows)
        return
    shown = list(islice(products, SHOWN + 1))
    if len(shown) > SHOWN:
        raise ItemsError(f"more than {SHOWN} products: name a file with --output")
    chunks = estimates(iter(shown), estimate, source=file)
    console.print(_table(list(chain.from_iterable(chunks))))


def _check_options(
    description: str | None, file: Path | None, output: Path | None, resume: bool
) -> None:
    if (description is None) == (file is None):
        raise ItemsError("give either a description or --file")
    if output and not file:
        raise ItemsError("--output is for the products of --file")
    if file and output and file.resolve() == output.resolve():
        raise ItemsError(f"--output {output} is the file of the products: name another")
    if resume and not output:
        raise ItemsError("--resume goes on with an --output file: name it")
    if output and not resume and partial_file(output).exists():
        raise ItemsError(
            f"{partial_file(output)} is an interrupted run's: add --resume, or remove it"
        )


def _print_lines(rows: list[Row]) -> None:
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))
    sys.stdout.flush()  # a reader that has gone is told here, where the command can end quietly


def _table(rows: list[Row]) -> Table:
    table = Table("description", "price", f"{rows[0]['interval']}% interval", box=None)
    for row in rows:
        table.add_row(
            escape(" ".join(str(row["summary"]).split())[:80]),
            f"${row['price_usd']:,.2f}",
            f"${row['low_usd']:,.2f} to ${row['high_usd']:,.2f}",
        )
    return table


def _row(product: Row, found: "PriceEstimate") -> Row:
    """Return what is written about a product."""
    row = {"id": product["id"]} if product.get("id") is not None else {}
    row |= {key: value for key, value in vars(found).items() if key != "probabilities"}
    row["summary"] = product["summary"]
    if found.probabilities is not None:
        row["probabilities"] = [float(f"{p:.4g}") for p in found.probabilities]
    return row


def sketch(probabilities: list[float], *, width: int = 60, height: int = 6) -> str:
    """Draw a distribution over whole-dollar prices with block characters, its tails cut off.

    Args:
        probabilities: of the prices from $0, summing to 1.
        width: columns.
        height: lines.
    """
    seen, low, high = 0.0, 0, len(probabilities) - 1
    for price, probability in enumerate(probabilities):
        low = price if seen < 0.01 else low
        seen += probability
        if seen >= 0.99:
            high = price
            break
    columns = min(width, high - low + 1)
    edges = [low + (high - low + 1) * step // columns for step in range(columns + 1)]
    # per dollar, as columns may hold a dollar more or less
    bars = [
        sum(probabilities[begin:end]) / (end - begin)
        for begin, end in zip(edges, edges[1:], strict=False)
    ]
    top = max(bars)
    lines = []
    for line in range(height, 0, -1):
        filled = [min(max(bar / top * height - line + 1, 0), 1) for bar in bars]
        lines.append("  " + "".join(" ▁▂▃▄▅▆▇█"[round(share * 8)] for share in filled).rstrip())
    end = f"${high}"
    lines.append("  " + f"${low}".ljust(max(columns - len(end), 1)) + end)
    return "\n".join(lines)


@app.command()
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
    predictor of the workspace (`base`, `tuned`, `ridge`, ...), or files of predictions.
    """
    # DVC, pandas and the rest take a second to import: only a command that compares waits for it
    from pricer.comparison import compare as compare_tables
    from pricer.comparison import comparison_text, worsening
    from pricer.params import read_params
    from pricer.runs import read_predictions

    settings = read_params().evaluate
    (table_a, _), (table_b, items) = (
        read_predictions(
            name,
            predictions_dir=Path("data/predictions"),
            items_file=Path("data/items/test.parquet"),
        )
        for name in (a, b)
    )
    result = compare_tables(
        table_a, table_b, items, resamples=settings.bootstrap_resamples, seed=settings.seed
    )
    if output_format == "json":
        print(json.dumps({"a_is": a, "b_is": b} | result, ensure_ascii=False, indent=2))
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


@app.command()
def inspect(
    preset: Annotated[
        str | None, typer.Option(help="a file of presets/ in place of params.yaml: lite, full, ...")
    ] = None,
    measure: Annotated[
        bool, typer.Option(help="load the base model, however large, and measure its weights")
    ] = False,
) -> None:
    """Show what the adapter adds to each layer and what memory training takes. Needs no weights."""
    # torch takes seconds to import: only a command that needs it waits for it
    from pricer.inspection import inspection_text
    from pricer.params import read_params
    from pricer.presets import preset_file

    file = PARAMS if preset is None else preset_file(PRESETS, preset)
    print(inspection_text(read_params(file), Path("data/base_model"), measure))


@app.command()
def doctor() -> None:
    """Show what this machine has, what the current params need of it, and what is in the way."""
    from pricer.doctor import examine

    console, group = Console(), ""
    problems: dict[str, bool] = {}  # whether they are fatal
    for finding in examine(Path()):
        if finding.group != group:
            group = finding.group
            console.print(f"[bold]{escape(group)}[/bold]", highlight=False)
        mark = "[red]![/red]" if finding.problem else " "
        console.print(f"{mark} {finding.what:<20} {escape(finding.value)}", soft_wrap=True)
        if finding.problem:
            problems.setdefault(finding.problem, finding.fatal)  # one cause may show twice
    count = "1 problem" if len(problems) == 1 else f"{len(problems) or 'no'} problems"
    console.print(f"[bold]{count}[/bold]", highlight=False)
    for problem, fatal in problems.items():
        kind = "[red]fatal[/red]" if fatal else "note "
        console.print(f"{kind} {escape(problem)}", soft_wrap=True, highlight=False)
    if any(problems.values()):
        sys.exit(1)


@app.command()
def preset(
    name: Annotated[str | None, typer.Argument(help="demo, lite or full")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="write without asking")] = False,
    check: Annotated[bool, typer.Option("--check", help="check every preset")] = False,
) -> None:
    """Write a whole set of knobs to `params.yaml`, whose comments stay; the diff comes first."""
    # params take a moment to import: only commands that read them wait for it
    from pricer.presets import difference, preset_file, preset_names, with_preset

    if (name is None) != check:
        raise ParamsError("give either the name of a preset or --check")
    if name is None:
        for known in preset_names(PRESETS) or ["demo"]:  # which says that there are none
            preset_file(PRESETS, known)
            print(f"{known}: every knob is there and allowed")
        return
    file = preset_file(PRESETS, name)
    try:
        before = PARAMS.read_text(encoding="utf-8") if PARAMS.exists() else ""
    except UnicodeDecodeError as error:
        raise ParamsError(f"{PARAMS} is not UTF-8 text (byte {error.start})") from None
    after = with_preset(before, file.read_text(encoding="utf-8"))
    if before == after:
        print(f"{PARAMS} is preset {name} already", file=sys.stderr)
        return
    print(difference(before, after, str(PARAMS)), end="", flush=True)
    if not yes and not sys.stdin.isatty():
        raise PricerError(f"nothing written: add --yes to write this to {PARAMS}")
    if not yes and not typer.confirm(f"Write this to {PARAMS}?", err=True):
        raise PricerError("nothing written")
    with writing(PARAMS) as partial:
        partial.write_text(after, encoding="utf-8")
    print(f"{PARAMS} is preset {name} now: `dvc repro` runs it", file=sys.stderr)


@app.command()
def publish(
    adapter: Annotated[str | None, typer.Option(help="OWNER/NAME of the model")] = None,
    prompts: Annotated[str | None, typer.Option(help="OWNER/NAME of the data set")] = None,
    public: Annotated[bool, typer.Option("--public", help="for all to see; else private")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be sent")] = False,
) -> None:
    """Send the adapter, the prompts or both of the last run to the Hugging Face Hub."""
    if not adapter and not prompts:
        raise PricerError("name a repository with --adapter or --prompts (OWNER/NAME)")
    # DVC, pandas and the Hub's client take a second to import: only this command waits for them
    from pricer.params import REPOSITORY, flat_params, read_params
    from pricer.publish import adapter_publication, prompts_publication, run_tag
    from pricer.publish import publish as send
    from pricer.runs import stages_to_run

    for repo in filter(None, (adapter, prompts)):
        if not re.fullmatch(REPOSITORY, repo):
            raise PricerError(f"{repo} is no name of a repository, must be OWNER/NAME")
    params = flat_params(dict(read_params()))
    # a card must not tell the scores or the data of another run
    if stale := stages_to_run("evaluate" if adapter else "prompts"):
        raise PricerError(f"{', '.join(stale)} would run anew: `dvc repro` first, then publish")
    data, metrics, tag = Path("data"), Path("metrics"), run_tag(Path("dvc.lock"))
    with tempfile.TemporaryDirectory() as temporary:
        publications = []
        if prompts:
            folder = Path(temporary) / "prompts"
            folder.mkdir()
            publications.append(
                prompts_publication(
                    prompts,
                    folder,
                    prompts_dir=data / "prompts",
                    items_metrics=metrics / "items.json",
                    prompts_metrics=metrics / "prompts.json",
                    origin_file=data / "base_model/origin.json",
                    params=params,
                    tag=tag,
                )
            )
        if adapter:
            folder = Path(temporary) / "adapter"
            folder.mkdir()
            publications.append(
                adapter_publication(
                    adapter,
                    folder,
                    adapter_dir=data / "adapter",
                    items_metrics=metrics / "items.json",
                    scores_file=metrics / "evaluate.json",
                    params=params,
                    tag=tag,
                )
            )
        for publication in publications:
            if dry_run:
                print(publication.describe(public=public))
            else:
                print(f"{send(publication, public=public)} (tag {tag})")


sweep_app = typer.Typer(no_args_is_help=True)
app.add_typer(sweep_app, name="sweep", help="Experiments side by side.")


@sweep_app.command()
def show(
    revision: Annotated[str, typer.Argument(help="commit that the experiments began at")] = "HEAD",
    output_format: Annotated[
        Literal["text", "markdown", "json"], typer.Option("--format", help="of what is printed")
    ] = "text",
    chart: Annotated[Path | None, typer.Option(help="PNG file to draw")] = None,
) -> None:
    """Rank a commit and its experiments by the tuned model's error, paired with the best one's."""
    # DVC, pandas and the rest take a second to import: only a command that compares waits for it
    from pricer.params import flat_params, read_params
    from pricer.sweeps import label, list_experiments, read_tuned, sweep, sweep_text

    if chart and chart.suffix.lower() != ".png":
        raise ItemsError(f"--chart {chart} must end in .png")
    params = read_params()
    finished, unfinished = list_experiments(revision, list(flat_params(dict(params))))
    rows = sweep(
        finished,
        read_tuned(Path("data/predictions/tuned.parquet"), list(finished)),
        resamples=params.evaluate.bootstrap_resamples,
        seed=params.evaluate.seed,
    )
    if output_format == "json":
        print(json.dumps(rows, ensure_ascii=False, indent=2))
    else:
        print(sweep_text(rows, unfinished, markdown=output_format == "markdown"), end="")
    if chart:
        from pricer.charts import intervals

        intervals(chart, {label(row): row for row in rows}, f"Experiments of {revision}")


def main() -> None:
    """Run the command; an error a user can cause ends in one line, exit code 1."""
    try:
        load_environment()
        app(standalone_mode=False)
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        line = "interrupted" if isinstance(error, typer.Abort) else explain(error)
        message = getattr(error, "format_message", None)  # a wrong option, told by Click
        if line is None and message:
            line = message()
        if line == "":  # no command: its help was the answer
            sys.exit(1)
        if line is None or os.environ.get("PRICER_DEBUG"):
            raise
        print(f"pricer: {line}", file=sys.stderr)
        sys.exit(1)
