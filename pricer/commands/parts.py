"""Parts of many products priced each on its own: a Parquet file that is complete or absent.

Whoever prices a part needs to know of no other. Each says in its own metadata which products it is
of and what was asked, so that a folder of parts can be gone on with from any machine.
"""

import json
import os
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs
from tqdm import tqdm

from pricer.commands.bulk import Estimate, parquet_schema
from pricer.commands.partial import CHUNK
from pricer.commands.pricing import Question
from pricer.errors import ItemsError, PricerError, explain, without_passwords
from pricer.files import remove_leftovers, sync, writing
from pricer.products.parts import Ids, Part, Plan, locate, read_part, told
from pricer.products.readers import Row


@dataclass(frozen=True)
class Job:
    """What all who price parts of the same products have in common.

    Attributes:
        root: the project, at the same path on every machine.
        question: what is asked of each product.
        options: what shapes a row besides its product.
        products: path or URL.
        ids: of all parts.
        out: folder of the parts, a path or URL.
    """

    root: Path
    question: Question
    options: Row
    products: str
    ids: Ids
    out: str


@dataclass(frozen=True)
class Outcome:
    """What became of a part.

    Attributes:
        name: of the part.
        priced: how many of its products have an estimate.
        failed: how many have none.
        error: why it could not be had, in one line.
        ends: whether that ends all others too.
    """

    name: str
    priced: int = 0
    failed: int = 0
    error: str | None = None
    ends: bool = False


NOTE = b"pricer"  # in a part's metadata
WRITER = 8  # characters that tell two writers of a part from one another
LONGEST_NAME = 255 - len("..partial.") - WRITER  # bytes: what file systems have room for
READERS = 16  # footers that are read at once: on an object store each takes a while


def check_folders(products: str, out: str) -> None:
    """Raise ItemsError if one of the two folders is in the other, or `out` is a file."""
    (_, source), (filesystem, target) = locate(products), locate(out)
    if isinstance(filesystem, fs.LocalFileSystem):  # by whatever links they are reached
        source, target = os.path.realpath(source), os.path.realpath(target)
    for one, other in ((source, target), (target, source)):
        if PurePosixPath(one).is_relative_to(other):
            raise ItemsError(f"--output {without_passwords(out)} and --file must lie apart")
    with told(out):
        if filesystem.get_file_info(target).type == fs.FileType.File:
            raise ItemsError(f"{without_passwords(out)}: is a file, must be a folder for the parts")


def check_writable(parts: list[Part], out: str) -> None:
    """Write and remove a small file, for nobody prices for hours what cannot be kept.

    Raises:
        PricerError: nothing can be written there, or not under the names of these parts.
    """
    filesystem, root = locate(out)
    probe = f"{root}/.{uuid4().hex}.partial"
    if isinstance(filesystem, fs.LocalFileSystem):
        names = (PurePosixPath(part.name).name for part in parts)
        longest = max(names, key=lambda name: len(os.fsencode(name)))
        if len(os.fsencode(f"{longest}.parquet")) > LONGEST_NAME:
            raise ItemsError(f"the name of {longest[:60]}... is too long for its parts: rename it")
        Path(root).mkdir(parents=True, exist_ok=True)
    with told(out):
        with filesystem.open_output_stream(probe) as stream:
            stream.write(b"pricer")
        with suppress(OSError, pa.ArrowException):  # who may write may not always remove
            filesystem.delete_file(probe)


def remaining(
    plan: Plan, own: list[Part], out: str, options: Row, *, resume: bool
) -> tuple[list[Part], Counter[str]]:
    """Return the parts that are still to price, and the counts of those that are there.

    Args:
        plan: all of the products.
        own: those of them that are asked for.
        out: folder of the parts, a path or URL.
        options: what shapes a row besides its product.
        resume: go on where earlier calls ended; without, none of `own` may be there.

    Raises:
        ItemsError: there are parts of other products or with other options.
    """
    filesystem, root = locate(out)
    with told(out):
        there = _there(filesystem, root)
        names = {f"{part.name}.parquet" for part in plan.parts}
        if strange := sorted(there - names):
            raise ItemsError(
                f"{without_passwords(out)}: {strange[0]} is no part of these products with this "
                "--part-rows: name another --output"
            )
        done = [part for part in own if f"{part.name}.parquet" in there]
        if done and not resume:
            raise ItemsError(
                f"{without_passwords(out)}: {len(done)} of {len(own)} parts are there: add "
                "--resume, or name another --output"
            )
        # those of other shards too: they end in one folder
        present = [part for part in plan.parts if f"{part.name}.parquet" in there]
        with ThreadPoolExecutor(READERS) as pool:
            notes = pool.map(lambda part: _note(filesystem, _path(root, part)), present)
            complete = {
                part.name: note
                for part, note in zip(present, notes, strict=True)
                if note is not None
            }
    for part in present:
        if part.name in complete:
            _check_note(complete[part.name], part, options, out)
    counts = Counter[str]()
    for part in own:
        counts.update(complete[part.name]["counts"] if part.name in complete else {})
    return [part for part in own if part.name not in complete], counts


def _there(filesystem: fs.FileSystem, root: str) -> set[str]:
    found = filesystem.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
    below = [PurePosixPath(one.path).relative_to(root) for one in found if one.is_file]
    return {str(path) for path in below if path.suffix == ".parquet" and path.name[0] not in "._"}


def _path(root: str, part: Part) -> str:
    return f"{root}/{part.name}.parquet"


def _note(filesystem: fs.FileSystem, path: str) -> Row | None:
    """Return what a part says of itself; None if it is damaged or of someone else."""
    try:
        with filesystem.open_input_file(path) as stream:
            metadata = pq.read_metadata(stream)
        note = json.loads((metadata.metadata or {})[NOTE])
        complete = note["counts"]["priced"] + note["counts"]["failed"] == metadata.num_rows
        complete &= isinstance(note["options"], dict) and {"rows", "sha256"} <= set(note)
    except (pa.ArrowException, ValueError, KeyError, TypeError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # Arrow has none for a damaged footer
            raise
        return None
    return dict(note) if complete else None


def _check_note(note: Row, part: Part, options: Row, out: str) -> None:
    otherwise = (
        f"repeat the command that the parts in {without_passwords(out)} are from, or name another "
        "--output"
    )
    changed = [key for key, value in options.items() if note["options"].get(key) != value]
    if changed:
        raise ItemsError(f"cannot resume with another {', '.join(changed)}: {otherwise}")
    if note["rows"] != part.rows or note["sha256"] != part.sha256:
        raise ItemsError(f"cannot resume: the products of {part.name} are others: {otherwise}")


def try_part(part: Part, job: Job, estimate: Estimate) -> Outcome:
    """Price a part, and say what became of it; an error that no user can cause is raised.

    Args:
        part: of the products.
        job: what all parts have in common.
        estimate: a chunk of products to their rows; a row with an `error` has no estimate.
    """
    try:
        return _price_part(part, job, estimate)
    except ItemsError as error:  # of this part alone
        return Outcome(part.name, error=str(error))
    except Exception as error:
        if (line := explain(error)) is None:
            raise
        return Outcome(part.name, error=line, ends=True)


def _price_part(part: Part, job: Job, estimate: Estimate) -> Outcome:
    """Write the rows of a part, in its products' order.

    Raises:
        ItemsError: the products cannot be read, or have changed.
        PricerError: the part cannot be written.
    """
    source, _ = locate(job.products)
    rows = list(_priced(read_part(source, part, job.ids), estimate))
    if len(rows) != part.rows:
        raise ItemsError(f"{part.file}: {len(rows)} rows where {part.rows} were found before")
    failed = sum(row["error"] is not None for row in rows)
    counts = {"priced": len(rows) - failed, "failed": failed}
    note = {"options": job.options, "rows": part.rows, "sha256": part.sha256, "counts": counts}
    schema = parquet_schema(list(rows[0]), numbers=job.ids == "numbers")
    table = pa.Table.from_pylist(rows, schema.with_metadata({NOTE: json.dumps(note)}))
    _write(table, job.out, part)
    return Outcome(part.name, len(rows) - failed, failed)


def _priced(products: Iterator[Row], estimate: Estimate) -> Iterator[Row]:
    while chunk := list(islice(products, CHUNK)):
        reasons = [product.pop("error") for product in chunk]
        for row, reason in zip(estimate(chunk), reasons, strict=True):
            yield row if reason is None else row | {"error": reason}


def _write(table: pa.Table, out: str, part: Part) -> None:
    """Write a part under its name when it is whole.

    Two may write the same one, where the first was taken for dead: they write the same bytes.
    """
    filesystem, root = locate(out)
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, write_page_checksum=True)
    content = buffer.getvalue()
    path = _path(root, part)
    if not isinstance(filesystem, fs.LocalFileSystem):
        # an object appears when all of it is there
        try:
            with told(path), filesystem.open_output_stream(path) as stream:
                stream.write(content)
        except ItemsError as error:  # others would be refused too
            raise PricerError(str(error)) from None
        return
    try:
        with writing(Path(path), writer=f".{uuid4().hex[:WRITER]}") as partial:
            partial.write_bytes(content)
            sync(partial)
        sync(Path(path).parent)
    except OSError as error:
        error.filename = error.filename or path  # a full disk is told without one
        raise


def clear_leftovers(parts: list[Part], out: str) -> None:
    """Remove what killed writers of these parts have left beside them."""
    filesystem, root = locate(out)
    if isinstance(filesystem, fs.LocalFileSystem):
        remove_leftovers(Path(_path(root, part)) for part in parts)


def follow(outcomes: Generator[Outcome, None, None], *, total: int, counts: Counter[str]) -> None:
    """Show the progress of parts, and count what becomes of their products.

    Args:
        outcomes: as they come.
        total: products of all parts, those of `counts` included.
        counts: `priced` and `failed` so far; they grow.

    Raises:
        PricerError: something ends it all, or parts could not be had: all others are there.
    """
    lost: list[Outcome] = []
    done = counts.total()
    with tqdm(desc="predict", unit="item", initial=done, total=total) as bar, closing(outcomes):
        for outcome in outcomes:
            if outcome.ends:
                bar.close()  # the error does not follow it on its line
                raise PricerError(f"{outcome.error}; --resume goes on with the parts that are left")
            if outcome.error is not None:
                lost.append(outcome)
            counts.update(priced=outcome.priced, failed=outcome.failed)
            bar.update(outcome.priced + outcome.failed)
    if lost:
        raise ItemsError(
            f"{len(lost)} parts are missing, the first is {lost[0].name}: {lost[0].error}; "
            "--resume tries them again"
        )
