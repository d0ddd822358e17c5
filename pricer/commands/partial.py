"""The rows of an unfinished output: one process writes them, a later one goes on after them.

A JSONL file beside the output. Each line is a list of a checksum and an object: the options that
the rows are of, then a row a line.
"""

import fcntl
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import IO

from pricer.errors import ItemsError
from pricer.escaping import json_line
from pricer.products.readers import Row

CHUNK = 128  # products that are priced, and stored, at once: a few batches
PARTIAL = ".partial.jsonl"


def partial_file(out: Path) -> Path:
    """Return where the rows of an unfinished `out` are kept."""
    return out.with_name(f"{out.name}{PARTIAL}")


@contextmanager
def locked(out: Path, *, resume: bool) -> Iterator[IO[bytes]]:
    """Open the partial file of `out` for this process alone; it goes again if it stays empty."""
    partial = partial_file(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("ab+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = not os.fstat(stream.fileno()).st_nlink  # done, and removed, in this moment
        except BlockingIOError:
            taken = True
        if taken:
            raise ItemsError(f"{out}: another process writes it: wait, or name another --output")
        if os.fstat(stream.fileno()).st_size and not resume:
            raise ItemsError(f"{partial} is an interrupted run's: add --resume, or remove it")
        try:
            yield stream
        finally:
            if not os.fstat(stream.fileno()).st_size:
                partial.unlink(missing_ok=True)


def resume_rows(
    stream: IO[bytes], products: Iterator[Row], options: Row
) -> tuple[Counter[str], Iterator[Row]]:
    """Find the rows there are; return their counts and the products that are still to price.

    Nothing is cut off or written before all was found to be in order. Without any row, a first
    line with `options` is written.

    Raises:
        ItemsError: the rows are damaged, or of other options or products.
    """
    header = _line({"options": options})
    stream.seek(0)
    first = stream.readline()
    if first != header and header.startswith(first):  # killed before the first row
        stream.truncate(0)
        _store(stream, [header])
        return Counter(), products
    _check_options(first, options, Path(stream.name))
    return _take_whole_chunks(stream, len(first), products)


def _take_whole_chunks(
    stream: IO[bytes], end: int, products: Iterator[Row]
) -> tuple[Counter[str], Iterator[Row]]:
    """Keep the chunks that are complete, and cut off the rest.

    A chunk is priced as a whole: the last digits of an estimate hang on what is in its batch.
    """
    lines = (line for line in stream if line.endswith(b"\n"))
    counts: Counter[str] = Counter()
    again: list[Row] = []
    while not again and (chunk := list(islice(lines, CHUNK))):
        those = [next(products, {}) for _ in chunk]
        rows = [
            _checked_row(line, product, number, Path(stream.name))
            for number, (line, product) in enumerate(
                zip(chunk, those, strict=True), start=counts.total() + 1
            )
        ]
        if len(chunk) < CHUNK:
            again = those
        else:
            counts.update(map(_outcome, rows))
            end += sum(map(len, chunk))
    stream.truncate(end)
    return counts, chain(again, products)


def _check_options(line: bytes, options: Row, partial: Path) -> None:
    before = _parsed(line).get("options")
    if not isinstance(before, dict):
        raise ItemsError(
            f"{partial} line 1: damaged, or not of `pricer predict`: remove it and start again"
        )
    changed = [key for key, value in options.items() if before.get(key) != value]
    if changed:
        raise ItemsError(f"cannot resume with another {', '.join(changed)}: {_otherwise(partial)}")


def _checked_row(line: bytes, product: Row, number: int, partial: Path) -> Row:
    row = _parsed(line)
    if not row:
        raise ItemsError(
            f"{partial} line {number + 1}: damaged: remove the lines from here on "
            "and --resume again, or remove the file and start again"
        )
    if any(row.get(key) != product.get(key) for key in ("id", "summary")):
        raise ItemsError(f"cannot resume: product {number} is another one: {_otherwise(partial)}")
    return row


def _otherwise(partial: Path) -> str:
    return f"repeat the command that {partial} is from, or remove it"


def _parsed(line: bytes) -> Row:
    """Return the object on a line, {} where there is none or it is not as it was written."""
    try:
        [checksum, value] = json.loads(line)
    except (ValueError, TypeError, RecursionError):  # of JSON, of the encoding
        return {}
    as_written = isinstance(value, dict) and checksum == zlib.crc32(_text(line))
    return value if as_written else {}


def _text(line: bytes) -> bytes:
    """Return the JSON of the object on a line."""
    return line.partition(b", ")[2].removesuffix(b"]\n")


def stored_rows(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the JSON of each row, in order."""
    stream.seek(0)
    return map(_text, islice(stream, 1, None))


def append(stream: IO[bytes], chunks: Iterator[list[Row]], counts: Counter[str]) -> None:
    """Write and count rows, chunk by chunk; an error before the first leaves an empty file."""
    before = os.fstat(stream.fileno()).st_size
    try:
        for rows in chunks:
            _store(stream, map(_line, rows))
            counts.update(map(_outcome, rows))
    except BaseException:
        stream.flush()  # an interruption may come before this was done
        if not counts and os.fstat(stream.fileno()).st_size == before:
            stream.truncate(0)
        raise


def _store(stream: IO[bytes], lines: Iterator[bytes] | list[bytes]) -> None:
    stream.writelines(lines)
    stream.flush()
    os.fsync(stream.fileno())


def _outcome(row: Row) -> str:
    return "failed" if row.get("error") else "priced"


def _line(row: Row) -> bytes:
    text = json_line(row).encode()
    return b"[%d, %s]\n" % (zlib.crc32(text), text)
