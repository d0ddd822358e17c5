"""`pricer predict`: one product or a file of them, with the adapter of the last run."""

import io
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pricer.commands.bulk import (
    Load,
    check_rows,
    estimates,
    predict_file,
    product_of,
    read_rows,
)
from pricer.commands.in_parts import Bulk, price_on_ray, price_shard
from pricer.commands.partial import CHUNK
from pricer.commands.pricing import Question, load
from pricer.errors import ItemsError, PricerError, printable, without_passwords
from pricer.escaping import json_line, shortened
from pricer.params import Point
from pricer.products.items import clean_text
from pricer.products.readers import Row

SHOWN = 1000  # products in a table: more belong into a file


def predict(
    description: Annotated[str | None, typer.Argument(help="what the product is")] = None,
    file: Annotated[
        str | None,
        typer.Option(
            help="products: TXT (one a line), JSONL, JSON, CSV or Parquet; - is stdin; with --ray "
            "and --shard also a folder of them, or a URL such as s3://"
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(help="JSONL, CSV or Parquet file; with --ray and --shard a folder or a URL"),
    ] = None,
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
    ray: Annotated[
        str | None,
        typer.Option(help="price parts on a Ray cluster: its address; auto starts one here"),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="price every N-th part, from the I-th on, as I/N: for a job array"),
    ] = None,
    part_rows: Annotated[
        int, typer.Option(min=CHUNK, help=f"products of a part, a multiple of {CHUNK}")
    ] = 16 * CHUNK,
    threads: Annotated[
        int | None, typer.Option(min=1, help="of an actor (1 if not given) or a shard (all)")
    ] = None,
) -> None:
    """Price one product, or all in a file, with the adapter that `dvc repro` trained."""
    _check_options(description, file, output, resume)
    question = Question(interval, point, distribution)
    if ray is not None or shard is not None:
        if raw_csv or (ray is not None and shard is not None):
            raise ItemsError("--ray, --shard and --raw-csv exclude one another")
        bulk = Bulk(file or "", output or "", question, part_rows, threads, resume)
        _write(
            lambda: price_on_ray(bulk, ray) if ray is not None else price_shard(bulk, shard or ""),
            output,
        )
    elif file and output:
        _check_here(file, output)
        load_it = partial(load, question)
        _write(
            lambda: predict_file(Path(file), Path(output), load_it, resume=resume, raw_csv=raw_csv),
            output,
        )
    elif file:
        _check_here(file)
        _show_file(Path(file), partial(load, question))
    else:
        _show_one(description or "", question)


def _check_options(
    description: str | None, file: str | None, output: str | None, resume: bool
) -> None:
    if (description is None) == (file is None):
        raise ItemsError("give either a description or --file")
    if output and not file:
        raise ItemsError("--output is for the products of --file")
    if resume and not output:
        raise ItemsError("--resume goes on with an --output file: name it")
    if not output and sys.stdout is None:
        raise ItemsError("standard output is closed: name a file with --output")


def _check_here(*paths: str) -> None:
    for path in paths:
        if "://" in path or Path(path).is_dir():
            raise ItemsError(
                f"{without_passwords(path)}: a folder or a URL is for --ray and --shard (1/1 is "
                "all in this process)"
            )


def _write(price: Callable[[], Counter[str]], output: str | None) -> None:
    try:
        counts = price()
    except KeyboardInterrupt:
        raise PricerError("interrupted: the same command with --resume goes on") from None
    failed = f" ({counts['failed']} without an estimate, see `error`)" if counts["failed"] else ""
    print(f"{counts.total()} products{failed}: {without_passwords(str(output))}", file=sys.stderr)


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


def _show_one(description: str, question: Question) -> None:
    # the command line's bytes are UTF-8, whatever the locale says
    description = os.fsencode(description).decode(errors="replace")
    if not clean_text(description):
        raise ItemsError("product 1: no description")
    console = Console()
    if console.is_terminal:  # which sees a sketch of it
        question = replace(question, distribution=True)
    estimate, _ = load(question)
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
