"""Many products from a file to estimates in a file: bounded memory, resumable."""

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet
from tqdm import tqdm

from pricer.errors import ItemsError
from pricer.files import writing

CHUNK = 512  # products in memory at once
READS = (".txt", ".jsonl", ".csv", ".parquet")
WRITES = (".jsonl", ".csv", ".parquet")

Row = dict[str, Any]


def read_rows(path: Path) -> Iterator[Row]:
    """Yield products one by one, each with a `summary`; "-" reads one description a line.

    Raises:
        ItemsError: the file is missing, of another type, not readable, or has no `summary`.
    """
    if str(path) == "-":
        yield from ({"summary": line.rstrip("\n")} for line in sys.stdin if line.strip())
        return
    kind = path.suffix.lower()
    if kind not in READS:
        raise ItemsError(f"{path}: unknown file type, must end in {', '.join(READS)}")
    if not path.exists():
        raise ItemsError(f"{path}: no such file")
    try:
        for number, row in enumerate(_READERS[kind](path), start=1):
            if not isinstance(row, dict) or not str(row.get("summary") or "").strip():
                raise ItemsError(f"{path} product {number}: no summary")
            yield row
    except UnicodeDecodeError as error:
        raise ItemsError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except (json.JSONDecodeError, csv.Error, pa.ArrowInvalid) as error:
        raise ItemsError(f"{path}: not readable ({error}); is the file complete?") from None


def _read_txt(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        yield from ({"summary": line.rstrip("\n")} for line in lines if line.strip())


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)


def _read_parquet(path: Path) -> Iterator[Row]:
    with pa.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(CHUNK):
            yield from batch.to_pylist()


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def partial_file(out: Path) -> Path:
    """Return where the rows of an unfinished `out` are kept."""
    return out.with_name(f"{out.name}.partial.jsonl")


def predict_file(
    source: Path, out: Path, estimate: Callable[[list[Row]], list[Row]], *, resume: bool
) -> int:
    """Write a row for each product of `source` to `out` and return how many there are.

    Rows gather in a JSONL file beside `out`, chunk by chunk; an interruption leaves it complete
    up to a row, and `resume` goes on after it. `out` appears when all is done.

    Args:
        source: see `read_rows`.
        out: a JSONL, CSV or Parquet file.
        estimate: a chunk of products to their rows.
        resume: go on where an earlier, interrupted call ended.

    Raises:
        ItemsError: `source` cannot be used, or `out` has another file type.
    """
    if out.suffix.lower() not in WRITES:
        raise ItemsError(f"{out}: unknown file type, must end in {', '.join(WRITES)}")
    partial = partial_file(out)
    done = _keep_whole_rows(partial) if resume and partial.exists() else 0
    rows = islice(read_rows(source), done, None)
    chunk = list(islice(rows, CHUNK))  # what cannot be read at all leaves nothing behind
    if not chunk and not done:
        raise ItemsError(f"{source}: no products in it")
    with (
        partial.open("a" if done else "w", encoding="utf-8") as stream,
        tqdm(desc="predict", unit="item", initial=done, total=_count(source)) as bar,
    ):
        while chunk:
            for row in estimate(chunk):
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            stream.flush()
            done += len(chunk)
            bar.update(len(chunk))
            chunk = list(islice(rows, CHUNK))
    if out.suffix.lower() == ".jsonl":
        os.replace(partial, out)
    else:
        with writing(out) as temporary:
            convert = _to_csv if out.suffix.lower() == ".csv" else _to_parquet
            convert(partial, temporary)
        partial.unlink()
    return done


def _count(source: Path) -> int | None:
    """Return how many products there are, where that costs no more than a look at the file."""
    if source.suffix.lower() == ".parquet":
        return int(pa.parquet.read_metadata(source).num_rows)
    if source.suffix.lower() in (".txt", ".jsonl"):
        with source.open("rb") as lines:
            return sum(1 for line in lines if line.strip())
    return None


def _keep_whole_rows(partial: Path) -> int:
    """Cut what a kill left half-written off the end; return how many rows remain."""
    rows = end = 0
    with partial.open("rb+") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                break
            rows, end = rows + 1, end + len(line)
        stream.truncate(end)
    return rows


def _to_csv(partial: Path, out: Path) -> None:
    with out.open("w", encoding="utf-8", newline="") as stream:
        writer = None
        for row in _read_jsonl(partial):
            if writer is None:
                writer = csv.DictWriter(stream, fieldnames=list(row))
                writer.writeheader()
            writer.writerow(row)


def _to_parquet(partial: Path, out: Path) -> None:
    with pa.json.open_json(partial) as batches, pa.parquet.ParquetWriter(out, batches.schema) as f:
        for batch in batches:
            f.write_batch(batch)
