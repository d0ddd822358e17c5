"""Many products from a file to estimates in a file: bounded memory, resumable, one at a time."""

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet
from tqdm import tqdm

from pricer.commands import partial
from pricer.commands.partial import partial_file
from pricer.errors import ItemsError, quoted
from pricer.escaping import json_line, spreadsheet
from pricer.files import sync, writing
from pricer.products import readers
from pricer.products.readers import Row

WRITES = (".jsonl", ".csv", ".parquet")

STDIN = Path("-")

Estimate = Callable[[list[Row]], list[Row]]
Load = Callable[[], tuple[Estimate, Row]]


def read_rows(source: Path) -> Iterator[Row]:
    """Yield products one by one, "-" those on stdin, one a line.

    See `product_of` for what is left of a row.

    Raises:
        ItemsError: the file cannot be read (see `readers.read_rows`), or a product has an `id` of
            another kind than the first, or one beyond 64 bits.
    """
    kind = None
    for number, row in _stdin_rows() if source == STDIN else readers.read_rows(source):
        own_id = row.get("id")
        kind = kind or type(own_id)
        # they share a column of a CSV or Parquet file in the end
        if type(own_id) is not kind or not readers.is_id(own_id):
            raise ItemsError(
                f"{readers.located(source, number)}: ids must be all whole numbers of 64 bits, all "
                f"text or none, got {quoted(own_id)}"
            )
        yield product_of(row)
    if kind is None:
        raise ItemsError(f"{source}: no products in it")


def _stdin_rows() -> readers.Numbered:
    if isinstance(sys.stdin, io.TextIOWrapper):  # whatever the locale says
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict")
    try:
        yield from readers.text_rows(readers.bounded_lines(sys.stdin, STDIN))
    except UnicodeDecodeError as error:
        raise ItemsError(f"{STDIN}: not UTF-8 text (byte {error.start})") from None


def product_of(row: Row) -> Row:
    """Return the `summary` of a row, None where that is no text, and its `id` if there is one."""
    summary, own_id = row.get("summary"), row.get("id")
    product = {"summary": summary if isinstance(summary, str) else None}
    return product if own_id is None else product | {"id": own_id}


def check_rows(source: Path) -> int | None:
    """Read a file of products to its end, before any is priced, and return how many there are.

    Returns:
        None for stdin and pipes, which can be read only once.

    Raises:
        ItemsError: see `read_rows`, or no product has a `summary`.
    """
    if source == STDIN and sys.stdin is None:
        raise ItemsError(f"{STDIN}: standard input is closed")
    if source == STDIN or source.is_fifo():
        return None
    described = [bool((row["summary"] or "").strip()) for row in read_rows(source)]
    if not any(described):
        raise ItemsError(f"{source}: no summary in any of its products ({len(described)})")
    return len(described)


def estimates(
    products: Iterator[Row], estimate: Estimate, *, total: int | None, done: int = 0
) -> Generator[list[Row], None, None]:
    """Yield the rows of one chunk of products after the other, with a progress bar on stderr.

    Args:
        products: those to come.
        estimate: a chunk of products to their rows; a row with an `error` has no estimate.
        total: how many there are with those that came before, None where that is not known.
        done: how many came before.

    Raises:
        ItemsError: not one of the first chunk can be priced: it is not the products.
    """
    chunk = list(islice(products, partial.CHUNK))  # what cannot be read at all shows no bar
    first = not done
    with tqdm(desc="predict", unit="item", initial=done, total=total) as bar:
        while chunk:
            rows = estimate(chunk)
            if first and all(row.get("error") for row in rows):
                bar.close()  # the error does not follow it on its line
                raise ItemsError(f"products 1 to {len(rows)}, every one: {rows[0]['error']}")
            first = False
            yield rows
            bar.update(len(chunk))
            chunk = list(islice(products, partial.CHUNK))


def predict_file(
    source: Path,
    out: Path,
    load: Load,
    *,
    resume: bool,
    raw_csv: bool = False,
) -> Counter[str]:
    """Write a row for each product of `source` to `out`; count those `priced` and those `failed`.

    Rows gather in a JSONL file beside `out`, chunk by chunk, after a first line with the options;
    an interruption leaves it complete up to a row, and `resume` goes on after it. `out` appears
    when all is done. One process at a time writes: the file of rows is locked.

    Args:
        source: see `read_rows`.
        out: a JSONL, CSV or Parquet file.
        load: called once `source` and `out` are known to be usable; returns what makes rows, which
            repeat the `summary`, of a chunk of products, and the options: JSON values of all that
            shapes a row besides its product.
        resume: go on where an earlier, interrupted call with the same products and options ended.
        raw_csv: leave text in a CSV as it is, also where a spreadsheet would take it for a formula.

    Raises:
        ItemsError: `source` or `out` cannot be used, another process writes `out`, or what there
            is to resume is damaged or has other products or options.
    """
    check_output(source, out)
    total = check_rows(source)
    with partial.locked(out, resume=resume) as stream:
        estimate, options = load()
        counts, products = partial.resume_rows(stream, read_rows(source), options)
        # closed before an error is told, so that the bar does not follow it
        done = counts.total()
        with closing(estimates(products, estimate, total=total, done=done)) as chunks:
            partial.append(stream, chunks, counts)
        with writing(out) as temporary:
            _write(stream, temporary, out.suffix.lower(), raw_csv=raw_csv)
            sync(temporary)
        sync(out.parent)  # only when the name is on the disk the rows may go
        partial_file(out).unlink()
    return counts


def check_output(source: Path, out: Path) -> None:
    """Raise ItemsError unless `out` names a file that can be written from the rows of `source`."""
    unfinished = partial_file(out)
    if out.suffix.lower() not in WRITES:
        raise ItemsError(f"{out}: unknown file type, must end in {', '.join(WRITES)}")
    if out.name.endswith(partial.PARTIAL):
        raise ItemsError(f"{out}: {partial.PARTIAL} is the end of unfinished outputs: name another")
    if source.resolve() in (out.resolve(), unfinished.resolve()):
        raise ItemsError(f"--output {out} is the file of the products: name another")
    for path in (out, unfinished):
        if path.exists() and not path.is_file():
            raise ItemsError(f"{path}: is a folder or a device, must be a file: name another")


def _write(stream: IO[bytes], out: Path, suffix: str, *, raw_csv: bool) -> None:
    """Write the rows of a partial file to `out`, which will end in `suffix`."""
    rows = partial.stored_rows(stream)
    if suffix == ".jsonl":
        with out.open("wb") as file:
            file.writelines(row + b"\n" for row in rows)
    elif suffix == ".csv":
        _write_csv(map(json.loads, rows), out, raw=raw_csv)
    else:
        _write_parquet(map(json.loads, rows), out)


def _write_csv(rows: Iterator[Row], out: Path, *, raw: bool) -> None:
    with out.open("w", encoding="utf-8", newline="") as file:
        first = next(rows)
        writer = csv.writer(file)
        writer.writerow(first)
        for row in chain([first], rows):
            cells = map(_cell, row.values())
            writer.writerow(cell if raw else spreadsheet(cell) for cell in cells)


def _cell(value: Any) -> Any:
    """Return a CSV field: lists as JSON, which begins with a bracket, so as no formula."""
    return json_line(value) if isinstance(value, list) else value


_NEIGHBOR = {"title": pa.string(), "price_usd": pa.float64(), "similarity": pa.float64()}
# of all columns but text
_TYPES = {
    "estimate_usd": pa.float64(),
    "low_usd": pa.float64(),
    "high_usd": pa.float64(),
    "interval": pa.int64(),
    "calibrated": pa.bool_(),
    "expected_error_usd": pa.float64(),
    "price_mass": pa.float64(),
    "dropped_mass": pa.float64(),
    "truncated": pa.bool_(),
    "neighbors": pa.list_(pa.struct(_NEIGHBOR)),
    "words_estimate_usd": pa.float64(),
    "damaged_text": pa.bool_(),
    "probabilities": pa.list_(pa.float64()),
}


def _write_parquet(rows: Iterator[Row], out: Path) -> None:
    chunk = list(islice(rows, partial.CHUNK))
    schema = parquet_schema(list(chunk[0]), numbers=isinstance(chunk[0].get("id"), int))
    with pa.parquet.ParquetWriter(out, schema, write_page_checksum=True) as file:
        while chunk:
            file.write_table(pa.Table.from_pylist(chunk, schema))
            chunk = list(islice(rows, partial.CHUNK))


def parquet_schema(columns: list[str], *, numbers: bool) -> pa.Schema:
    """Return the types of a Parquet file's columns; `numbers` says whether ids are."""
    types = {column: _TYPES.get(column, pa.string()) for column in columns}
    if "id" in types and numbers:
        types["id"] = pa.int64()
    return pa.schema(types)
