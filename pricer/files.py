"""Files that are complete or absent: write under a temporary name, then rename."""

import json
import os
import shutil
import stat
from base64 import b64decode
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pricer.errors import PricerError, first_line

LARGEST_JSON = 2**26  # bytes: twice the tokenizer with the largest vocabulary


def _partial(path: Path, writer: str) -> Path:
    """Return the name that `path` is written under, cleared of what a killed run left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{writer}.partial")
    _remove(partial)
    return partial


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, *, folder: bool = False, writer: str = "") -> Iterator[Path]:
    """Yield a temporary name that becomes `path` when the block ends, and vanishes if it fails.

    Args:
        path: the file or folder to write; what stands there is replaced.
        folder: yield an empty folder instead of the name of a file.
        writer: what tells this writer from another who may write the same file at the same time.
    """
    partial = _partial(path, writer)
    try:
        if folder:
            partial.mkdir()
        yield partial
        if folder:
            _remove(path)
        os.replace(partial, path)
    except BaseException:
        _remove(partial)
        raise


def remove_leftovers(targets: Iterable[Path]) -> None:
    """Remove what killed writers of these files, each with a `writer` of its own, have left."""
    targets = set(targets)
    for folder in {target.parent for target in targets}:
        for leftover in folder.glob(".*.partial"):
            if folder / leftover.name[1:].rsplit(".", 2)[0] in targets:
                leftover.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; floats keep six significant digits, NaN is an error."""
    text = json.dumps(_rounded(value), indent=2, ensure_ascii=False, allow_nan=False)
    with writing(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def read_json(path: Path) -> Any:
    """Read a small JSON file that may be damaged, or not ours.

    Raises:
        ValueError: it is no JSON, endless, or nested beyond measure; the text says what.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):  # a pipe would be waited for
        raise ValueError("no regular file")
    if about.st_size > LARGEST_JSON:
        raise ValueError(f"{about.st_size:,} bytes, at most {LARGEST_JSON:,} are read")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deep") from None


def read_facts(path: Path) -> dict[str, Any]:
    """Read the JSON object that a stage left in `metrics/`.

    Raises:
        PricerError: it is damaged.
    """
    try:
        return dict(read_json(path))
    except (TypeError, ValueError) as error:
        raise PricerError(
            f"{path} is damaged ({error}): `git checkout {path}` or `dvc repro` brings it back"
        ) from None


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write `table` without its index, a checksum in each page; the same table, the same bytes."""
    with writing(path) as partial:
        table.to_parquet(partial, index=False, write_page_checksum=True)


def read_parquet(
    source: Path | BinaryIO, columns: list[str] | None = None, *, name: object = None
) -> pd.DataFrame:
    """Read a Parquet file that a stage wrote; its pages must be as they were written.

    Args:
        source: the file, or its content.
        columns: those to read, all if not given.
        name: what an error calls it, if not by its path.

    Raises:
        PricerError: it is no Parquet file, is damaged, or lacks a column.
    """
    with _open_parquet(source, columns or [], name or source) as file:
        table: pd.DataFrame = file.read(columns).to_pandas(ignore_metadata=True)
        return table


@contextmanager
def _open_parquet(
    source: Path | BinaryIO, columns: list[str], name: object
) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file that has some columns; what is wrong with it becomes one line."""
    try:
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            _check_schema(file, columns)
            yield file
    except (ValueError, OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno:  # the system's: missing, no disk space
            raise
        raise PricerError(
            f"{name}: not a readable Parquet file, or damaged ({first_line(error)}): "
            "what a stage wrote, `dvc checkout` or `dvc repro` brings back"
        ) from None


def _check_schema(file: pq.ParquetFile, columns: list[str]) -> None:
    """Compare a file's columns with those needed, and with what Arrow noted of them.

    No checksum covers the names and types at a file's end, but they stand there twice; so do the
    numbers of rows.
    """
    rows = sum(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
    if rows != file.metadata.num_rows:
        raise ValueError(f"{rows} of {file.metadata.num_rows} rows")
    if missing := [column for column in columns if column not in file.schema_arrow.names]:
        raise ValueError(f"no column {', '.join(missing)}")
    noted = (file.metadata.metadata or {}).get(b"ARROW:schema")
    if noted and not pa.ipc.read_schema(pa.BufferReader(b64decode(noted))).equals(
        file.schema_arrow
    ):
        raise ValueError("its columns are not those that were written")


def write_parquet_parts(path: Path, parts: Iterable[pd.DataFrame]) -> None:
    """Write one or more tables of the same columns as one file, with one in memory at a time.

    One alone gives the same bytes as `write_parquet`.
    """
    with writing(path) as partial, ExitStack() as open_files:
        writer = None
        for part in parts:
            rows = pa.Table.from_pandas(part, preserve_index=False)
            if writer is None:
                writer = open_files.enter_context(
                    pq.ParquetWriter(partial, rows.schema, write_page_checksum=True)
                )
            writer.write_table(rows)


def read_parquet_parts(path: Path, columns: list[str], *, rows: int) -> Iterator[pd.DataFrame]:
    """Yield a Parquet file that a stage wrote as tables of at most so many rows.

    Raises:
        PricerError: see `read_parquet`.
    """
    with _open_parquet(path, columns, path) as file:
        for batch in file.iter_batches(batch_size=rows, columns=columns):
            yield batch.to_pandas(ignore_metadata=True)
