"""Products by the million as parts: which rows of which file each holds, read by anyone alone.

The parts follow from the products and from how many a part may hold: machines that know no more of
one another than that agree on them. A file is a path or a URL of Arrow's (`s3://`, `gs://`, ...).
"""

import codecs
import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from pricer.errors import DISK_FULL, ItemsError, first_line, quoted, without_passwords
from pricer.products import readers
from pricer.products.readers import LONGEST, UNPACKED, Row

Ids = Literal["numbers", "text", "none"]
T = TypeVar("T")

TYPES = (".txt", ".jsonl", ".csv", ".parquet")
MOST_BYTES = 4 * LONGEST  # of a line: UTF-8 takes at most four a character
LARGEST = 2**28  # bytes of a text's part, which is in memory as a whole
COLUMNS = ("id", "summary")


@dataclass(frozen=True)
class Part:
    """Some rows of a file that follow one another.

    Attributes:
        name: path of the file below the products' folder, and the number of the part in it.
        file: its path on its file system.
        header: bytes at the beginning of the file that every part of it begins with.
        begin: first byte of a text, first row of a Parquet file, from 0.
        end: after the last one.
        start: lines or rows of the file before the first.
        rows: how many it holds.
        sha256: of the header's bytes and its own; in a Parquet file, of the file's footer, which
            has sizes, offsets and statistics of all there is.
    """

    name: str
    file: str
    header: int
    begin: int
    end: int
    start: int
    rows: int
    sha256: str


@dataclass(frozen=True)
class Plan:
    """All parts of the products, in order, and what kind their ids are of."""

    parts: list[Part]
    ids: Ids


def locate(where: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a path or URL, and the path on it.

    Raises:
        ItemsError: there is no such file system.
    """
    if "://" not in where:
        return fs.LocalFileSystem(), os.path.abspath(where)
    if "#" in where:  # Arrow would leave out what follows it
        raise ItemsError(f"{without_passwords(where)}: write %23 for the # in a URL")
    with told(where):
        filesystem, path = fs.FileSystem.from_uri(where)
        return filesystem, path


@contextmanager
def told(where: str) -> Iterator[None]:
    """Turn what Arrow says of a file or its file system into an ItemsError of one line.

    What the operating system says of a file passes, and so does a full disk.
    """
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, OSError) and (error.filename or error.errno in DISK_FULL):
            raise
        reason = first_line(error).rstrip(".")
        raise ItemsError(f"{without_passwords(where)}: {reason}") from None


def plan(products: str, part_rows: int) -> Plan:
    """Return the parts of a file, or of all files in a folder and below it.

    Texts are read once from one end to the other, to find where rows begin. Names that begin with
    a dot or an underscore are no products, as for every engine that writes folders of parts.

    Args:
        products: path or URL.
        part_rows: rows of a part at most.

    Raises:
        ItemsError: nothing is there, a file is of a type that has no parts or not what its name
            says, rows have no `summary`, or ids are of two kinds.
    """
    filesystem, root = locate(products)
    parts: list[Part] = []
    kinds: dict[Ids, str] = {}
    for file, below in _files(filesystem, root, products):
        with told(file), filesystem.open_input_file(file) as stream:
            pieces = list(_pieces(stream, file, part_rows))
            own = [
                Part(f"{below}-{number:06}", file, *piece) for number, piece in enumerate(pieces)
            ]
            if own:
                kinds.setdefault(_ids_of(stream, own[0]), file)
        parts += own
    if not parts:
        raise ItemsError(f"{without_passwords(products)}: no products in it")
    if len(kinds) > 1:
        told_kinds = ", ".join(f"{kind} in {file}" for kind, file in kinds.items())
        raise ItemsError(f"ids must be of one kind in all files, got {told_kinds}")
    return Plan(parts, next(iter(kinds)))


def _files(filesystem: fs.FileSystem, root: str, products: str) -> list[tuple[str, str]]:
    """Return the path of each file and what it is below the folder, in order."""
    with told(products):
        about = filesystem.get_file_info(root)
        if about.type == fs.FileType.NotFound:
            raise ItemsError(f"{without_passwords(products)}: no such file or folder")
        found = [about]
        if about.type == fs.FileType.Directory:
            found = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    parent = str(PurePosixPath(root).parent) if about.type == fs.FileType.File else root
    files = [
        (one.path, str(PurePosixPath(one.path).relative_to(parent)))
        for one in found
        if one.type == fs.FileType.File
    ]
    files = [
        (path, below)
        for path, below in files
        if about.type == fs.FileType.File
        or not any(name.startswith((".", "_")) for name in PurePosixPath(below).parts)
    ]
    for path, _ in files:
        if _suffix(path) not in TYPES:
            raise ItemsError(
                f"{path}: products in parts are in {', '.join(TYPES)}: save it as one of them"
            )
    return sorted(files)


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


# header, begin, end, start, rows, sha256: see Part
_Piece = tuple[int, int, int, int, int, str]


def _pieces(stream: BinaryIO, file: str, part_rows: int) -> Iterator[_Piece]:
    if _suffix(file) == ".parquet":
        yield from _parquet_pieces(stream, part_rows)
    else:
        yield from _text_pieces(stream, file, part_rows)


def _parquet_pieces(stream: BinaryIO, part_rows: int) -> Iterator[_Piece]:
    rows = pq.ParquetFile(stream).metadata.num_rows
    digest = _footer_sha256(stream)
    for begin in range(0, rows, part_rows):
        end = min(begin + part_rows, rows)
        yield 0, begin, end, begin, end - begin, digest


def _footer_sha256(stream: BinaryIO) -> str:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(size - 8)
    length = int.from_bytes(stream.read(4), "little")  # as Parquet ends: footer, its length, PAR1
    stream.seek(size - 8 - length)
    return hashlib.sha256(stream.read(length)).hexdigest()


def _text_pieces(stream: BinaryIO, file: str, part_rows: int) -> Iterator[_Piece]:
    """Yield the pieces of a text, whose rows may have any number of lines.

    A byte is a character here: where rows begin and end is ASCII in all of UTF-8.
    """
    records = _records(stream, file)
    header = _header(records) if _suffix(file) == ".csv" else b""
    begin, start = len(header), 0
    while True:
        digest, end, rows, passed = hashlib.sha256(header), begin, 0, 0
        for record, is_row in records:
            digest.update(record)
            end, rows, passed = end + len(record), rows + is_row, passed + 1
            if rows == part_rows or end - begin > LARGEST:
                break
        if not rows:
            return
        yield len(header), begin, end, start, rows, digest.hexdigest()
        begin, start = end, start + (rows if header else passed)


def _header(records: Iterator[tuple[bytes, bool]]) -> bytes:
    header = b""
    for record, is_row in records:
        header += record
        if is_row:
            break
    return header


def _records(stream: BinaryIO, file: str) -> Iterator[tuple[bytes, bool]]:
    """Yield the bytes of each row, or of a blank line, and whether it is a row."""
    stream.seek(0)
    mark = codecs.BOM_UTF8 if stream.read(3) == codecs.BOM_UTF8 else b""
    stream.seek(len(mark))
    for record, is_row in _unmarked_records(stream, file):
        yield mark + record, is_row
        mark = b""


def _unmarked_records(stream: BinaryIO, file: str) -> Iterator[tuple[bytes, bool]]:
    text = io.TextIOWrapper(stream, encoding="latin-1", newline="")
    lines = readers.bounded_lines(text, Path(file), MOST_BYTES)
    try:
        if _suffix(file) == ".csv":
            yield from _csv_records(lines, file)
        else:
            for line in lines:
                yield line.encode("latin-1"), not readers.is_blank(line)
    finally:
        text.detach()  # the stream is not ours to close


def _csv_records(lines: Iterator[str], file: str) -> Iterator[tuple[bytes, bool]]:
    taken: list[str] = []

    def noted() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    csv.field_size_limit(MOST_BYTES)
    rows = 0
    try:
        for fields in readers.csv_fields(noted(), Path(file), 4 * readers.MOST_IN_ROW):
            yield "".join(taken).encode("latin-1"), readers.is_csv_row(fields)
            rows += readers.is_csv_row(fields)
            taken.clear()
    except csv.Error as error:
        raise ItemsError(
            f"{file} row {rows}: not valid CSV ({error}); is the file complete?"
        ) from None


def _ids_of(stream: BinaryIO, part: Part) -> Ids:
    """Return what kind the ids of a file are of, by the first one in its first part."""
    if _suffix(part.file) == ".parquet":
        schema = pq.ParquetFile(stream).schema_arrow
        _check_columns(schema.names, part.file)
        _check_summaries(schema.field("summary").type, part.file)
        return _ids_of_type(schema.field("id").type, part.file) if "id" in schema.names else "none"
    rows = list(_text_rows(stream, part))
    usable = [row for row in rows if "error" not in row]
    if not usable:
        raise ItemsError(str(rows[0]["error"]))
    _check_columns(list(dict.fromkeys(name for row in usable for name in row)), part.file)
    match next((row["id"] for row in usable if row.get("id") is not None), None):
        case None:
            return "none"
        case str():
            return "text"
        case value if readers.is_id(value):
            return "numbers"
        case value:
            raise ItemsError(f"{part.file}: ids must be text or whole numbers, got {quoted(value)}")


def _ids_of_type(kind: pa.DataType, file: str) -> Ids:
    if pa.types.is_null(kind):
        return "none"
    if pa.types.is_integer(kind):
        return "numbers"
    if _is_text(kind):
        return "text"
    raise ItemsError(f"{file}: ids must be text or whole numbers, got {quoted(str(kind))}")


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(of_type(value) for of_type in texts)


def _check_summaries(kind: pa.DataType, file: str) -> None:
    if not _is_text(kind):
        raise ItemsError(f"{file}: summaries must be text, got {quoted(str(kind))}")


def _check_columns(names: list[str], file: str) -> None:
    if "summary" not in names:
        raise ItemsError(f"{file}: no summary in its rows ({', '.join(names)[:200]}): rename one")
    if twice := [name for name in COLUMNS if names.count(name) > 1]:
        raise ItemsError(f"{file}: column {twice[0]} stands in it twice: rename one")


def read_part(filesystem: fs.FileSystem, part: Part, ids: Ids) -> Iterator[Row]:
    """Yield a part's rows: `id` (where there are any), `summary`, and `error`.

    A row that cannot be read has its reason as `error` and None for the rest; others have None.

    Raises:
        ItemsError: the file has changed since the parts were made, or cannot be read.
    """
    with told(part.file), filesystem.open_input_file(part.file) as stream:
        parquet = _suffix(part.file) == ".parquet"
        rows = _parquet_rows(stream, part) if parquet else _text_rows(stream, part)
        for number, row in enumerate(rows, start=part.start + 1):
            yield _checked(row, f"{part.file} row {number}", ids)


def _checked(row: Row, where: str, ids: Ids) -> Row:
    """Return a row's id and summary, or why it has none."""
    reason, own_id, summary = row.get("error"), row.get("id"), row.get("summary")
    kinds: dict[Ids, type] = {"numbers": int, "text": str, "none": type(None)}
    if reason is None and not (isinstance(own_id, kinds[ids] | None) and _is_id(own_id)):
        reason = f"{where}: an id that is not as those before it ({ids}): {quoted(own_id)}"
    if reason is None and isinstance(summary, str):
        reason = _unusable(summary, where)
    if reason is not None:
        own_id = summary = None
    row = {"summary": summary if isinstance(summary, str) else None, "error": reason}
    return row if ids == "none" else {"id": own_id} | row


def _is_id(value: object) -> bool:
    return readers.is_id(value) and not (isinstance(value, str) and _unusable(value, ""))


def _unusable(summary: str, where: str) -> str | None:
    if len(summary) > LONGEST:
        return f"{where}: a text longer than {LONGEST:,} characters"
    try:
        summary.encode()
    except UnicodeEncodeError:  # bytes that were escaped
        return f"{where}: not UTF-8 text"
    return None


def _changed(part: Part) -> ItemsError:
    return ItemsError(
        f"{part.file}: not as it was when its parts were made: start again with another --output"
    )


def _text_rows(stream: BinaryIO, part: Part) -> Iterator[Row]:
    stream.seek(0)
    header = stream.read(part.header)
    stream.seek(part.begin)
    content = stream.read(part.end - part.begin)
    if hashlib.sha256(header + content).hexdigest() != part.sha256:
        raise _changed(part)
    mark = "utf-8-sig" if part.header or not part.begin else "utf-8"
    text = io.TextIOWrapper(
        io.BytesIO(header + content), encoding=mark, errors="surrogateescape", newline=""
    )
    path = Path(part.file)
    match _suffix(part.file):
        case ".csv":
            yield from _csv_rows(text, path, part.start)
        case ".jsonl":
            for number, line in enumerate(text, start=part.start + 1):
                if not readers.is_blank(line):
                    yield _or_reason(readers.jsonl_row, line, path, number)
        case _:
            for number, line in enumerate(text, start=part.start + 1):
                if not readers.is_blank(line):
                    yield _or_reason(_txt_row, line, path, number)


def _txt_row(line: str, path: Path, number: int) -> Row:
    readers.check_text(line, path, number)
    return {"summary": line.rstrip("\r\n")}


def _csv_rows(text: io.TextIOWrapper, path: Path, start: int) -> Iterator[Row]:
    csv.field_size_limit(MOST_BYTES)
    rows = filter(readers.is_csv_row, csv.reader(text, strict=True))
    header = readers.checked_header(next(rows), path)
    for number, fields in enumerate(rows, start=start + 1):
        yield _or_reason(readers.csv_row, header, fields, path, number)


def _or_reason(read: Callable[..., Row], *arguments: Any) -> Row:
    try:
        return read(*arguments)
    except ItemsError as error:
        return {"error": str(error)}


def _parquet_rows(stream: BinaryIO, part: Part) -> Iterator[Row]:
    if _footer_sha256(stream) != part.sha256:
        raise _changed(part)
    with pq.ParquetFile(stream, page_checksum_verification=True) as file:
        readers.check_row_groups(file.metadata, part.file)
        columns = [name for name in COLUMNS if name in file.schema_arrow.names]
        groups, before = _groups_of(file.metadata, part)
        rows = (
            dict(zip(columns, values, strict=True))
            for batch in file.iter_batches(UNPACKED, row_groups=groups, columns=columns)
            for values in zip(*map(_values, batch.columns), strict=True)
        )
        for row in islice(rows, part.begin - before, part.end - before):
            broken = [name for name, value in row.items() if isinstance(value, UnicodeDecodeError)]
            yield {"error": f"{part.file}: {broken[0]} is not UTF-8 text"} if broken else row


def _groups_of(metadata: pq.FileMetaData, part: Part) -> tuple[list[int], int]:
    """Return the row groups that a part lies in, and how many rows stand before them."""
    groups, before, end = [], 0, 0
    for group in range(metadata.num_row_groups):
        begin, end = end, end + metadata.row_group(group).num_rows
        if end <= part.begin:
            before = end
        elif begin < part.end:
            groups.append(group)
    return groups, before


def _values(column: pa.Array) -> list[Any]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return error
