"""Files of products as rows: TXT, JSONL, JSON, CSV and Parquet, whatever they are read for."""

import csv
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pricer.errors import ItemsError, first_line, quoted

Row = dict[str, Any]
Numbered = Iterator[tuple[int, Row]]
OrError = Iterator[tuple[int, Row | ItemsError]]

SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".parquet")
COMPRESSED = ".jsonl.gz"  # as large collections are handed around
# what is longer, wider or larger is no list of products, and would take the memory of thousands
LONGEST = 4 * 2**20  # characters of a line or of a text in it
MOST_IN_ROW = 4 * LONGEST  # characters of a row of a CSV; bytes of one of Parquet, on average
MOST_COLUMNS = 1_000
LARGEST_JSON = 64 * 2**20  # bytes: all of it is in memory, as several times as much
# Parquet holds a text once, however many rows have it: what is unpacked may be a thousand times it
UNPACKED = 64  # rows unpacked at once
LARGEST_BATCH = 256 * 2**20  # bytes of these
FULL_TABLE = 64 * 2**20  # bytes that a table is handed on with, however few its rows

WHITE = " \t\n\r\x0b\x0c"  # a byte each in every encoding that is read: more is no blank
REPLACEMENT = "\ufffd"  # in the place of what is no character
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def read_rows(path: Path) -> Numbered:
    """Yield the rows of a file one by one, each with its line (TXT, JSONL) or its row from 1.

    Text is UTF-8, with or without a byte-order mark; blank lines are no rows. A line of a TXT is
    a `summary`, a value of a CSV is text, half a surrogate pair in JSON is U+FFFD. All is read in
    bounded memory.

    Raises:
        ItemsError: the file is missing, of another type, not UTF-8, cut off or otherwise not what
            its name says, or empty; a row is no object, or has not as many fields as the header;
            a line or a text is longer than LONGEST, a row wider than MOST_COLUMNS, a JSON file
            larger than LARGEST_JSON.
    """
    for number, row in rows_or_errors(path):
        if isinstance(row, ItemsError):
            raise row
        yield number, row


def rows_or_errors(path: Path, columns: Container[str] | None = None) -> OrError:
    """Yield what `read_rows` does, and a row that it would end at as its error: the next follow.

    Args:
        path: the file.
        columns: of a Parquet file, those to read; all if not given.

    Raises:
        ItemsError: what is wrong with the file, and not with one of its rows.
    """
    rows: OrError
    match _checked_type(path):
        case ".txt":
            rows = _txt_rows(path)
        case ".jsonl" | ".jsonl.gz":
            rows = _jsonl_rows(path)
        case ".json":
            rows = _json_rows(path)
        case ".csv":
            rows = _csv_rows(path)
        case _:
            rows = _parquet_rows(path, columns)
    number = 0
    for number, row in rows:
        yield number, row
    if not number:
        raise ItemsError(f"{path}: no products in it")


def read_tables(path: Path, size: int) -> Iterator[pd.DataFrame]:
    """Yield the rows of a file as tables of at most `size` rows; the index is the line or row.

    Raises:
        ItemsError: see `read_rows`.
    """
    if _checked_type(path) == ".parquet":
        yield from _parquet_tables(path, size)
        return
    rows = read_rows(path)
    dtype = "str" if file_type(path) == ".csv" else "object"  # text takes half of the memory
    while chunk := list(islice(rows, size)):
        numbers, records = zip(*chunk, strict=True)
        yield pd.DataFrame(list(records), index=list(numbers), dtype=dtype)


def located(path: Path, number: int) -> str:
    """Say where a row is: its line in a file of lines, else its row."""
    unit = "row" if file_type(path) in (".json", ".csv", ".parquet") else "line"
    return f"{path} {unit} {number}"


def is_id(value: object) -> bool:
    """Tell whether a value can be a product's id: text, a whole number of 64 bits, None."""
    if isinstance(value, int) and not isinstance(value, bool):
        return -(2**63) <= value < 2**63
    return value is None or isinstance(value, str)


def text_rows(lines: Iterable[str]) -> Numbered:
    """Yield a row for each line that is not blank, with the line as its `summary`."""
    for number, line in enumerate(lines, start=1):
        if not is_blank(line):
            yield number, {"summary": line.rstrip("\n")}


def is_blank(line: str) -> bool:
    """Tell whether a line holds no product, whether its characters or its bytes are looked at."""
    return not line.strip(WHITE)


def bounded_lines(stream: TextIO, where: Path, longest: int = LONGEST) -> Iterator[str]:
    """Yield the lines of a text, none of which is ever in memory if it is longer than `longest`.

    Raises:
        ItemsError: a line is.
    """
    number = 0
    while line := stream.readline(longest + 1):
        number += 1
        if len(line) > longest:
            raise ItemsError(
                f"{where} line {number}: longer than {longest:,} characters: is it a product?"
            )
        yield line


def file_type(path: Path) -> str:
    """Return how the name of a file ends, in small letters: `.jsonl.gz` is one type."""
    return COMPRESSED if path.name.lower().endswith(COMPRESSED) else path.suffix.lower()


def _checked_type(path: Path) -> str:
    kind = file_type(path)
    if kind not in (*SUFFIXES, COMPRESSED):
        raise ItemsError(
            f"{path}: unknown file type, must end in {', '.join(SUFFIXES)} or {COMPRESSED}"
        )
    if not path.exists():  # a pipe is as good as a file
        raise ItemsError(f"{path}: no such file")
    return kind


@contextmanager
def _lines(
    path: Path, newline: str | None = None, longest: int = LONGEST
) -> Iterator[Iterator[str]]:
    """Open a text as its lines; bytes that are none are escaped, see `check_text`."""
    options: Any = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": newline}
    compressed = file_type(path) == COMPRESSED
    stream: Any = gzip.open(path, "rt", **options) if compressed else path.open(**options)
    try:
        with stream:
            yield bounded_lines(stream, path, longest)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = first_line(error).rstrip(".")
        raise ItemsError(f"{path}: not a readable gzip file ({reason}); is it complete?") from None


def _decoded(lines: Iterator[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        check_text(line, path, number)
        yield line


def check_text(line: str, path: Path, number: int) -> None:
    """Raise ItemsError if bytes of a line were no UTF-8, and are escaped in it."""
    try:
        line.encode()
    except UnicodeEncodeError as error:
        place = len(line[: error.start].encode())
        raise ItemsError(
            f"{path} line {number}: not UTF-8 text (byte {place} of the line): save it as UTF-8"
        ) from None


def _txt_rows(path: Path) -> Numbered:
    with _lines(path) as lines:
        yield from text_rows(_decoded(lines, path))


def _jsonl_rows(path: Path) -> OrError:
    with _lines(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not is_blank(line):
                yield number, _or_error(jsonl_row, line, path, number)


def _or_error(read: Callable[..., Row], *arguments: Any) -> Row | ItemsError:
    try:
        return read(*arguments)
    except ItemsError as error:
        return error


def jsonl_row(line: str, path: Path, number: int) -> Row:
    """Return the object on a line.

    Raises:
        ItemsError: see `read_rows`.
    """
    check_text(line, path, number)
    return _object(_parse_json(line.rstrip(), path, first_line=number), path, number)


def _json_rows(path: Path) -> OrError:
    if path.stat().st_size > LARGEST_JSON:
        raise ItemsError(
            f"{path}: larger than {LARGEST_JSON >> 20} MiB, which are held in memory at once: save "
            "it as .jsonl, one product a line"
        )
    with _lines(path, longest=LARGEST_JSON) as lines:
        text = "".join(_decoded(lines, path))
    rows = _parse_json(text, path, first_line=1) if text.strip() else []
    if not isinstance(rows, list):
        raise ItemsError(f"{path}: must hold a list of objects, got {quoted(rows)}")
    for number, row in enumerate(rows, start=1):
        yield number, _or_error(_object, row, path, number)


def _parse_json(text: str, path: Path, *, first_line: int) -> Any:
    try:
        value = json.loads(text)
        # halves of surrogate pairs come as escapes alone: `check_text`
        return mended(value) if "\\ud" in text or "\\uD" in text else value
    except json.JSONDecodeError as error:
        raise ItemsError(
            f"{path} line {first_line + error.lineno - 1}: not valid JSON ({error.msg}); "
            "is the file complete?"
        ) from None
    except RecursionError:
        reason = "lists or objects in one another without end"
    except ValueError:
        reason = "a number of thousands of digits"
    raise ItemsError(f"{path} line {first_line}: {reason}: is it a product?")


def mended(value: Any) -> Any:
    """Return text, or what JSON holds, with U+FFFD for half a surrogate pair.

    No file can hold one.
    """
    match value:
        case str():
            return _LONE_SURROGATE.sub(REPLACEMENT, value)
        case list():
            return [mended(item) for item in value]
        case dict():
            return {mended(key): mended(item) for key, item in value.items()}
        case _:
            return value


def _object(row: object, path: Path, number: int) -> Row:
    if not isinstance(row, dict):
        raise ItemsError(f"{located(path, number)}: must be an object, got {quoted(row)}")
    _check_width(len(row), located(path, number))
    if any(isinstance(value, str) and len(value) > LONGEST for value in row.values()):
        raise _too_long(located(path, number))
    return row


def _check_width(columns: int, where: str) -> None:
    if columns > MOST_COLUMNS:
        raise ItemsError(f"{where}: {columns:,} columns, at most {MOST_COLUMNS:,} are read")


def _too_long(where: str) -> ItemsError:
    return ItemsError(f"{where}: a text longer than {LONGEST:,} characters: is it a product?")


def _csv_rows(path: Path) -> OrError:
    with _lines(path, newline="") as lines:
        yield from _csv_rows_of(_decoded(lines, path), path)


def _csv_rows_of(lines: Iterator[str], path: Path) -> OrError:
    csv.field_size_limit(LONGEST)
    rows = filter(is_csv_row, csv_fields(lines, path, MOST_IN_ROW))
    number = 0
    try:
        header = checked_header(next(rows, []), path)
        for number, fields in enumerate(rows, start=1):
            yield number, _or_error(csv_row, header, fields, path, number)
    except csv.Error as error:
        if "field limit" in str(error):
            raise _too_long(f"{path} row {number + 1}") from None
        raise ItemsError(
            f"{path} row {number + 1}: not valid CSV ({error}); is the file complete?"
        ) from None


def csv_fields(lines: Iterator[str], where: Path, longest: int) -> Iterator[list[str]]:
    """Yield the fields of each row of a CSV, none of which has more than `longest` characters.

    Raises:
        ItemsError: one has: quotes can make any number of lines one row.
        csv.Error: a quote is never closed, or a field exceeds the limit of `csv`.
    """
    taken = number = 0

    def counted() -> Iterator[str]:
        nonlocal taken
        for line in lines:
            taken += len(line)
            if taken > longest:
                raise ItemsError(
                    f"{where} row {number}: longer than {longest:,} characters: is it a product?"
                )
            yield line

    # strict: a quote that is never closed is an error, and no field that holds the rest of the file
    for number, fields in enumerate(csv.reader(counted(), strict=True), start=1):  # noqa: B007
        yield fields
        taken = 0


def is_csv_row(fields: list[str]) -> bool:
    """Tell whether what a line of a CSV holds is more than white space."""
    return bool(fields) and not (len(fields) == 1 and fields[0] and is_blank(fields[0]))


def csv_row(header: list[str], fields: list[str], path: Path, number: int) -> Row:
    """Return the fields of a row by their names.

    Raises:
        ItemsError: there are more or fewer than in the header.
    """
    if len(fields) != len(header):
        raise ItemsError(
            f"{path} row {number}: {len(fields)} fields, but the header has {len(header)} "
            f"({', '.join(header)[:200]}): a field that holds a comma must stand in quotes"
        )
    return dict(zip(header, fields, strict=True))


def checked_header(names: list[str], path: Path) -> list[str]:
    """Return the names in the header of a CSV; ItemsError if one stands there twice."""
    _check_width(len(names), f"{path} header")
    if len(names) == 1 and (found := re.search("[;\t|]", names[0])):
        raise ItemsError(
            f"{path}: one column, {quoted(names[0])}: columns must be separated by commas, "
            f"not by {found[0]!r}"
        )
    repeated = [name for name, n in Counter(names).items() if n > 1 and name]
    if repeated:
        raise ItemsError(f"{path}: column {', '.join(repeated)} stands in the header twice")
    return names


def _parquet_rows(path: Path, columns: Container[str] | None) -> Numbered:
    with _parquet(path) as file:
        batches = _parquet_batches(file, str(path), UNPACKED, columns)
        yield from enumerate(chain.from_iterable(map(pa.RecordBatch.to_pylist, batches)), start=1)


def _parquet_tables(path: Path, size: int) -> Iterator[pd.DataFrame]:
    end = 0
    with _parquet(path) as file:
        for table in parquet_tables(file, str(path), size):
            start, end = end, end + len(table)
            table.index = pd.RangeIndex(start + 1, end + 1)
            yield table
    if not end:
        raise ItemsError(f"{path}: no products in it")


def parquet_tables(
    file: pq.ParquetFile, where: str, size: int, columns: Container[str] | None = None
) -> Iterator[pd.DataFrame]:
    """Yield the rows of an open Parquet file as tables of at most `size` rows, fewer of long texts.

    Args:
        file: what is read.
        where: its name, for messages.
        size: rows of a table.
        columns: those to read; all if not given.

    Raises:
        ItemsError: a row is no product, see `read_rows`.
        pa.ArrowException: the file is broken.
    """
    batches: list[pa.RecordBatch] = []
    rows = unpacked = 0
    for batch in _parquet_batches(file, where, min(size, UNPACKED), columns):
        if rows + len(batch) > size or unpacked > FULL_TABLE:
            yield _as_frame(batches)
            batches, rows, unpacked = [], 0, 0
        batches.append(batch)
        rows += len(batch)
        unpacked += batch.nbytes
    if batches:
        yield _as_frame(batches)


def _as_frame(batches: list[pa.RecordBatch]) -> pd.DataFrame:
    # with pandas' own metadata, a column that was an index would be none; whole numbers with gaps
    # would be floats, and large ones others
    options = {"ignore_metadata": True, "integer_object_nulls": True}
    frame: pd.DataFrame = pa.Table.from_batches(batches).to_pandas(**options)
    return frame


def _parquet_batches(
    file: pq.ParquetFile, where: str, size: int, columns: Container[str] | None
) -> Iterator[pa.RecordBatch]:
    """Yield batches of at most `size` rows, checked before anyone unpacks them further."""
    _check_width(len(file.schema_arrow.names), where)
    check_row_groups(file.metadata, where)
    names = [name for name in file.schema_arrow.names if columns is None or name in columns]
    row = 1
    for batch in file.iter_batches(size, columns=names):
        batch.validate(full=True)  # texts are not decoded before they are used
        for column in batch.columns:
            _check_lengths(column, where, row)
        if batch.nbytes > LARGEST_BATCH:
            raise ItemsError(
                f"{where} row {row}: it and {len(batch) - 1} that follow have "
                f"{batch.nbytes >> 20:,} MiB, at most {LARGEST_BATCH >> 20:,} are read: are they "
                "products?"
            )
        row += len(batch)
        yield batch


def check_row_groups(metadata: pq.FileMetaData, where: str) -> None:
    """Raise ItemsError if rows are, by what a Parquet file says, too large to be unpacked."""
    row = 1
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        if group.total_byte_size > MOST_IN_ROW * max(group.num_rows, 1):
            raise ItemsError(
                f"{where} row {row}: {group.total_byte_size:,} bytes in {group.num_rows:,} rows, "
                f"at most {MOST_IN_ROW:,} in each are read: are they products?"
            )
        row += group.num_rows


def _check_lengths(column: pa.Array, where: str, first: int) -> None:
    """Raise ItemsError if a text of a column, whose first row is `first`, is too long."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        too_long = pc.index(pc.greater(pc.utf8_length(column), LONGEST), True).as_py()
        if too_long >= 0:
            raise _too_long(f"{where} row {first + too_long}")


@contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; what Arrow says of a broken one becomes one line."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.filename:
            raise
        reason = first_line(error).rstrip(".")
        raise ItemsError(
            f"{path}: not a readable parquet file ({reason}); is it complete?"
        ) from None
