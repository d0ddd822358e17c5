"""Files that are complete or absent: write under a temporary name, then rename."""

import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pricer.errors import ItemsError

LARGEST_JSON = 2**26  # bytes: twice the tokenizer with the largest vocabulary


def _partial(path: Path) -> Path:
    """Return the name that `path` is written under, cleared of what a killed run left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)
    return partial


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """Yield a temporary name that becomes `path` when the block ends, and vanishes if it fails.

    Args:
        path: the file or folder to write; what stands there is replaced.
        folder: yield an empty folder instead of the name of a file.
    """
    partial = _partial(path)
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


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write `table` without its index, with checksums; the same table gives the same bytes."""
    with writing(path) as partial:
        table.to_parquet(partial, index=False, write_page_checksum=True)


def read_parquet(
    source: Path | BinaryIO, columns: list[str] | None = None, *, name: str = ""
) -> pd.DataFrame:
    """Read a Parquet file that a stage wrote, or one of the same columns.

    Args:
        source: the file, or its content.
        columns: those to read, else all.
        name: what an error calls it, else its path.

    Raises:
        ItemsError: it is missing or damaged, or lacks a column.
    """
    name = name or str(source)
    with _parquet(source, name) as file:
        _check_columns(file, columns or [], name)
        # pandas' own notes beside the columns have no checksum, and rename what they name
        table: pd.DataFrame = file.read(columns=columns).to_pandas(ignore_metadata=True)
    return table


@contextmanager
def _parquet(source: Path | BinaryIO, name: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; what Arrow and pandas say of a damaged one becomes one line.

    Pages are held against their checksums. What says how they are to be read has none: a change
    there ends in any of these errors, or in a column of another name.
    """
    try:
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            rows = sum(file.metadata.row_group(n).num_rows for n in range(file.num_row_groups))
            if rows != file.metadata.num_rows:
                raise ValueError(f"{file.metadata.num_rows} rows, but {rows} in its groups")
            yield file
    except (pa.ArrowException, ValueError, LookupError, TypeError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ItemsError(
            f"{name}: not a readable Parquet file ({reason}): "
            "it is missing, cut short, or was changed after it was written"
        ) from None


def _check_columns(file: pq.ParquetFile, columns: list[str], name: str) -> None:
    there = file.schema_arrow.names
    missing = [column for column in columns if column not in there]
    if missing:
        raise ItemsError(
            f"{name}: column {', '.join(missing)} missing (has {', '.join(there) or 'none'})"
        )


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
    """Yield a Parquet file that a stage wrote as tables of at most so many rows."""
    with _parquet(path, str(path)) as file:
        _check_columns(file, columns, str(path))
        for batch in file.iter_batches(batch_size=rows, columns=columns):
            yield batch.to_pandas(ignore_metadata=True)
