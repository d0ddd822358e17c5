"""`pricer predict`: one product or a file of them, with the adapter of the last run."""

import hashlib
import json
import sys
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pricer.commands.bulk import estimates, partial_file, predict_file, read_rows
from pricer.errors import ItemsError, PricerError
from pricer.params import Point
from pricer.products.readers import Row

if TYPE_CHECKING:
    from pricer.prices.predictor import PriceEstimate

SHOWN = 1000  # products in a table: more belong into a file


def predict(
    description: Annotated[str | None, typer.Argument(help="what the product is")] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="products: TXT (one a line), JSONL, JSON, CSV or Parquet; - is stdin"),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSONL, CSV or Parquet file")] = None,
    interval: Annotated[int, typer.Option(min=1, max=99, help="percent")] = 80,
    point: Annotated[
        Point | None,
        typer.Option(help="the estimate; that of the last run if not given"),
    ] = None,
    distribution: Annotated[bool, typer.Option(help="every price's probability too")] = False,
    resume: Annotated[bool, typer.Option(help="go on with an interrupted --output")] = False,
) -> None:
    """Price one product, or all in a file, with the adapter that `dvc repro` trained."""
    _check_options(description, file, output, resume)
    # torch takes seconds to import: only a command that predicts waits for it
    from pricer.prices.predictor import Predictor

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
            "point": point or predictor.settings.point,
            "distribution": distribution,
            "model": hashlib.sha256(predictor.settings.model_dump_json().encode()).hexdigest(),
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
            f"${row['estimate_usd']:,.2f}",
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
