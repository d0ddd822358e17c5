"""Many products from a file to estimates in a file: bounded memory, resumable."""

import csv
import json
import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
from tqdm import tqdm

from pricer.errors import ItemsError
from pricer.files import writing
from pricer.products import readers
from pricer.products.readers import Row

CHUNK = 128  # products in memory at once: a few batches
WRITES = (".jsonl", ".csv", ".parquet")

STDIN = Path("-")

Estimate = Callable[[list[Row]], list[Row]]


def read_rows(source: Path) -> Iterator[Row]:
    """Yield products one by one, each with a `summary`; "-" reads one description a line.

    Raises:
        ItemsError: the file cannot be read (see `readers.read_rows`), or a product has no
            `summary`, or an `id` of another kind than the first.
    """
    kind = None
    for number, row in _stdin_rows() if source == STDIN else readers.read_rows(source):
        if not _is_text(row.get("summary")):
            raise ItemsError(f"{readers.located(source, number)}: no summary")
        own_id = row.get("id")
        kind = kind or type(own_id)
        # they share a column of a CSV or Parquet file in the end
        if type(own_id) is not kind or not isinstance(own_id, int | str | None):
            raise ItemsError(
                f"{readers.located(source, number)}: ids must be all whole numbers, all text or "
                f"none, got {own_id!r}"
            )
        yield row
    if kind is None:
        raise ItemsError(f"{source}: no products in it")


def _stdin_rows() -> readers.Numbered:
    try:
        yield from readers.text_rows(sys.stdin)
    except UnicodeDecodeError as error:
        raise ItemsError(f"{STDIN}: not UTF-8 text (byte {error.start})") from None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def estimates(
    products: Iterator[Row], estimate: Estimate, *, source: Path, done: int = 0
) -> Generator[list[Row], None, None]:
    """Yield the rows of one chunk of products after the other, with a progress bar on stderr.

    Args:
        products: those to come.
        estimate: a chunk of products to their rows.
        source: where they come from; it is counted, for the time left.
        done: how many came before.
    """
    chunk = list(islice(products, CHUNK))  # what cannot be read at all shows no bar
    with tqdm(desc="predict", unit="item", initial=done, total=readers.count_rows(source)) as bar:
        while chunk:
            yield estimate(chunk)
            bar.update(len(chunk))
            chunk = list(islice(products, CHUNK))


def partial_file(out: Path) -> Path:
    """Return where the rows of an unfinished `out` are kept."""
    return out.with_name(f"{out.name}.partial.jsonl")


def predict_file(source: Path, out: Path, estimate: Estimate, *, options: Row, resume: bool) -> int:
    """Write a row for each product of `source` to `out` and return how many there are.

    Rows gather in a JSONL file beside `out`, chunk by chunk, after a first line with `options`; an
    interruption leaves it complete up to a row, and `resume` goes on after it. `out` appears when
    all is done.

    Args:
        source: see `read_rows`.
        out: a JSONL, CSV or Parquet file.
        estimate: a chunk of products to their rows, which repeat the `summary`.
        options: JSON values of all that shapes a row besides its product.
        resume: go on where an earlier, interrupted call with the same products and options ended.

    Raises:
        ItemsError: `source` cannot be used, `out` has another file type, or what there is to
            resume has other products or options.
    """
    kind = out.suffix.lower()
    if kind not in WRITES:
        raise ItemsError(f"{out}: unknown file type, must end in {', '.join(WRITES)}")
    partial = partial_file(out)
    products = read_rows(source)
    done = _rows_done(partial, products, options) if resume and partial.exists() else 0
    # closed before an error is told, so that the bar does not follow it
    with closing(estimates(products, estimate, source=source, done=done)) as chunks:
        first = next(chunks, [])  # a source that cannot be read leaves nothing behind
        out.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("a" if done else "w", encoding="utf-8") as stream:
            if not done:
                stream.write(_line({"options": options}))
            for rows in chain([first], chunks):
                stream.writelines(map(_line, rows))
                stream.flush()
                done += len(rows)
    with writing(out) as temporary:
        _WRITERS[kind](partial, temporary)
    partial.unlink()
    return done


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _rows_done(partial: Path, products: Iterator[Row], options: Row) -> int:
    """Return how many rows of `partial` are complete, and take their products from `products`.

    What a kill left half-written is cut off the end.

    Raises:
        ItemsError: the rows are of other options or products.
    """
    end = 0
    with partial.open("rb+") as stream:
        for line in stream:
            end += len(line) if line.endswith(b"\n") else 0
        stream.truncate(end)
    if not end:
        return 0
    otherwise = f"repeat the command that {partial} is from, or remove it"
    with partial.open(encoding="utf-8") as stream:
        before = json.loads(stream.readline()).get("options", {})
    changed = [key for key, value in options.items() if before.get(key) != value]
    if changed:
        raise ItemsError(f"cannot resume with another {', '.join(changed)}: {otherwise}")
    done = 0
    for done, row in enumerate(_rows(partial), start=1):
        product = next(products, {})
        if any(row.get(key) != product.get(key) for key in ("id", "summary")):
            raise ItemsError(f"cannot resume: product {done} is another one: {otherwise}")
    return done


def _rows(partial: Path) -> Iterator[Row]:
    """Yield the rows after the first line."""
    return (row for _, row in islice(readers.read_rows(partial), 1, None))


def _write_jsonl(partial: Path, out: Path) -> None:
    with partial.open("rb") as rows, out.open("wb") as stream:
        rows.readline()
        shutil.copyfileobj(rows, stream)


def _write_csv(partial: Path, out: Path) -> None:
    with out.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(next(_rows(partial))))
        writer.writeheader()
        writer.writerows(_rows(partial))


def _write_parquet(partial: Path, out: Path) -> None:
    rows = _rows(partial)
    schema = pa.Table.from_pylist([next(_rows(partial))]).schema
    with pa.parquet.ParquetWriter(out, schema) as file:
        while chunk := list(islice(rows, CHUNK)):
            file.write_table(pa.Table.from_pylist(chunk, schema))


_WRITERS: dict[str, Callable[[Path, Path], None]] = {
    ".jsonl": _write_jsonl,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
