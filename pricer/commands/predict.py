"""`pricer predict`: one product or a file of them, with the adapter of the last run."""

import io
import os
import sys
from dataclasses import fields
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pricer.commands.bulk import (
    Estimate,
    Load,
    check_rows,
    estimates,
    predict_file,
    product_of,
    read_rows,
)
from pricer.errors import ItemsError, PricerError, printable
from pricer.escaping import json_line, shortened
from pricer.params import Point
from pricer.products.items import clean_text
from pricer.products.readers import REPLACEMENT, Row
from pricer.provenance import code_hashes, digest

if TYPE_CHECKING:
    from pricer.prices.predictor import PriceEstimate

SHOWN = 1000  # products in a table: more belong into a file
# columns that there are where prompts tell evidence
EVIDENCE = ("neighbors", "words_estimate_usd")


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
    raw_csv: Annotated[
        bool, typer.Option(help="no ' before text that a spreadsheet takes for a formula")
    ] = False,
) -> None:
    """Price one product, or all in a file, with the adapter that `dvc repro` trained."""
    _check_options(description, file, output, resume)
    load = partial(_load, interval=interval, point=point, distribution=distribution)
    if file and output:
        _write_file(file, output, load, resume=resume, raw_csv=raw_csv)
    elif file:
        _show_file(file, load)
    else:
        _show_one(description or "", load)


def _check_options(
    description: str | None, file: Path | None, output: Path | None, resume: bool
) -> None:
    if (description is None) == (file is None):
        raise ItemsError("give either a description or --file")
    if output and not file:
        raise ItemsError("--output is for the products of --file")
    if resume and not output:
        raise ItemsError("--resume goes on with an --output file: name it")
    if not output and sys.stdout is None:
        raise ItemsError("standard output is closed: name a file with --output")


def _load(*, interval: int, point: Point | None, distribution: bool) -> tuple[Estimate, Row]:
    """Return what prices a chunk of products, and the options that shape what it says."""
    # torch takes seconds to import: only a command that predicts waits for it
    from pricer.prices.predictor import Predictor

    predictor = Predictor.from_pipeline()
    without = () if predictor.settings.evidence else EVIDENCE

    def estimate(products: list[Row]) -> list[Row]:
        found = predictor.predict_each(
            products, point=point, level=interval, distribution=distribution
        )
        rows = [
            _row(product, one, interval=interval, distribution=distribution)
            for product, one in zip(products, found, strict=True)
        ]
        return [
            {column: value for column, value in row.items() if column not in without}
            for row in rows
        ]

    options = {
        "interval": interval,
        "point": point or predictor.settings.point,
        "distribution": distribution,
        # hashes of base model and adapter, calibration, precision and all else
        "model": predictor.settings.sha256(),
        "device": predictor.model.device.type,
        "code": digest(code_hashes()),
    }
    return estimate, options


def _write_file(file: Path, output: Path, load: Load, *, resume: bool, raw_csv: bool) -> None:
    try:
        counts = predict_file(file, output, load, resume=resume, raw_csv=raw_csv)
    except KeyboardInterrupt:
        raise PricerError("interrupted: the same command with --resume goes on") from None
    failed = f" ({counts['failed']} without an estimate, see `error`)" if counts["failed"] else ""
    print(f"{counts.total()} products{failed}: {output}", file=sys.stderr)


def _show_file(file: Path, load: Load) -> None:
    console = Console()
    total = check_rows(file)
    products = read_rows(file)
    if console.is_terminal:
        shown = list(islice(products, SHOWN + 1))
        if len(shown) > SHOWN:
            raise ItemsError(f"more than {SHOWN} products: name a file with --output")
        products = iter(shown)
    estimate, _ = load()
    chunks = estimates(products, estimate, total=total)
    if console.is_terminal:
        console.print(_table(list(chain.from_iterable(chunks))))
        return
    failed = 0
    for rows in chunks:
        _print_lines(rows)
        failed += sum(row["error"] is not None for row in rows)
    if failed:
        print(f"{failed} products without an estimate, see `error`", file=sys.stderr)


def _show_one(description: str, load: "partial[tuple[Estimate, Row]]") -> None:
    # the command line's bytes are UTF-8, whatever the locale says
    description = os.fsencode(description).decode(errors="replace")
    if not clean_text(description):
        raise ItemsError("product 1: no description")
    console = Console()
    sketched = {"distribution": True} if console.is_terminal else {}
    estimate, _ = load(**sketched)
    rows = estimate([product_of({"summary": description})])
    if rows[0]["error"]:
        raise PricerError(rows[0]["error"])
    if not console.is_terminal:
        _print_lines(rows)
        return
    console.print(_table(rows))
    console.print(sketch(rows[0]["probabilities"], width=min(console.width - 4, 60)))
    if "neighbors" in rows[0]:
        console.print(_likened_to(rows[0], width=console.width))


def _print_lines(rows: list[Row]) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):  # JSON is UTF-8, whatever the locale says
        sys.stdout.reconfigure(encoding="utf-8")
    for row in rows:
        print(json_line(row))
    sys.stdout.flush()  # a reader that has gone is told here, where the command can end quietly


def _table(rows: list[Row]) -> Table:
    table = Table("description", "price", f"{rows[0]['interval']}% interval", box=None)
    for row in rows:
        summary = escape(printable(" ".join(str(row["summary"]).split())[:80]))
        if row["error"]:
            table.add_row(summary, "none", row["error"])
            continue
        table.add_row(
            summary,
            f"${row['estimate_usd']:,.2f}",
            f"${row['low_usd']:,.2f} to ${row['high_usd']:,.2f}",
        )
    return table


def _likened_to(row: Row, *, width: int) -> Table:
    """Return what a product was compared with, in lines that fit so many columns."""
    table = Table("likened to", "price", "similarity", box=None)
    for one in row["neighbors"]:
        title = escape(shortened(one["title"], max(width - 40, 20)))
        table.add_row(title, f"${one['price_usd']:,.2f}", f"{one['similarity']:.2f}")
    table.add_row("words and these suggest", f"${row['words_estimate_usd']:,.2f}", "")
    return table


def _row(product: Row, found: "PriceEstimate | str", *, interval: int, distribution: bool) -> Row:
    """Return what is written about a product: the same columns with an estimate or without."""
    from pricer.prices.predictor import PriceEstimate

    row = {"id": product["id"]} if "id" in product else {}
    row |= dict.fromkeys(field.name for field in fields(PriceEstimate)) | {"interval": interval}
    row |= {} if isinstance(found, str) else vars(found)
    if row["neighbors"] is not None:
        row["neighbors"] = [vars(one) for one in row["neighbors"]]
    probabilities = row.pop("probabilities")
    row["damaged_text"] = REPLACEMENT in (product["summary"] or "")
    row["error"] = found if isinstance(found, str) else None
    row["summary"] = product["summary"]
    if distribution:
        known = probabilities is not None
        row["probabilities"] = [float(f"{p:.4g}") for p in probabilities] if known else None
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
