"""`pricer monitor`: whether what is priced now is still like what the model was judged on."""

import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pydantic import ValidationError

from pricer.commands.serve import LOG, serving_extra
from pricer.errors import PricerError, quoted
from pricer.escaping import json_text
from pricer.files import read_parquet
from pricer.workspace import Workspace, require

if TYPE_CHECKING:
    from pricer.monitoring.observed import Observed
    from pricer.serving.log import Log, Selection

UNITS = {"d": "days", "h": "hours", "m": "minutes"}
AGO = r"(\d{1,5})([dhm])"
Bounds = tuple[datetime | None, datetime | None]
ALERT = 2  # exit code


def monitor(
    file: Annotated[
        Path | None, typer.Argument(help="predictions to look at, in the place of the log")
    ] = None,
    database: Annotated[
        str, typer.Option(help="the service's --database", envvar="PRICER_DATABASE")
    ] = LOG,
    variant: Annotated[str, typer.Option(help="whose estimates, as its newest model")] = "tuned",
    since: Annotated[
        str | None, typer.Option(help="2026-11-01, 2026-11-01T12:00, or 7d, 12h, 30m ago")
    ] = None,
    until: Annotated[str | None, typer.Option(help="likewise")] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="a predictions file, or SINCE..UNTIL of the log; the validation split"),
    ] = None,
    window: Annotated[str, typer.Option(help="of figures over time: 7d, 12h, 30m")] = "7d",
    false_alarms: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="share of series that alarm by chance")
    ] = 0.05,
    looks: Annotated[int, typer.Option(min=1, max=400, help="in such a series")] = 20,
    fail_on: Annotated[
        Literal["alert", "never"], typer.Option(help="exit code 2 on an alert")
    ] = "never",
    output: Annotated[
        Path | None, typer.Option(help="folder of the report; data/monitor if not given")
    ] = None,
    output_format: Annotated[
        Literal["text", "json"], typer.Option("--format", help="of what is printed")
    ] = "text",
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="new intervals from the outcomes, as a new record")
    ] = False,
    export_items: Annotated[
        Path | None, typer.Option(help="file for products with outcomes, to train on")
    ] = None,
) -> None:
    """Compare what a service prices now with what its model was judged on."""
    from pricer.monitoring.observed import read_file
    from pricer.monitoring.report import JSON, PAGE, as_json, look_at, text_lines, write_report

    if file and (since or until or recalibrate or export_items):
        raise PricerError(
            f"{file}: --since, --until, --recalibrate and --export-items are for the log, "
            "a file is read whole"
        )
    root = Workspace()
    bounds = (_time(since, "--since"), _time(until, "--until"))
    span = _span(window)
    folder = output or (root.monitor / file.stem if file else root.monitor)
    if folder.exists() and not folder.is_dir():
        raise PricerError(f"--output {folder}: is a file, must be a folder")
    if (folder / PAGE).exists() and not (folder / JSON).exists():
        raise PricerError(f"--output {folder}: holds another report, name a folder of its own")
    if export_items and (export_items.exists() or export_items.suffix != ".jsonl"):
        raise PricerError(f"--export-items {export_items}: must be a new file that ends in .jsonl")
    if export_items and not export_items.parent.is_dir():
        raise PricerError(
            f"--export-items {export_items}: there is no folder {export_items.parent}"
        )
    with nullcontext() if file else _opened(database, variant) as served:
        old = _reference(root, reference, served)
        if old.estimates.empty:
            raise PricerError(
                f"--reference {reference}: the newest model of {quoted(variant)} estimated nothing "
                "then, take another period or a file"
            )
        if served:
            new = _period(served, bounds)
        else:
            assert file
            new = read_file(file, root)
        if new.estimates.empty and new.outcomes.empty:
            raise PricerError(f"{new.name}: no estimate by {quoted(variant)} in this period")
        train = root.items / "train.parquet"
        names = read_parquet(train, ["category"])["category"] if train.exists() else None
        categories = set(old.estimates["category"].dropna() if names is None else names)
        look = look_at(old, new, categories, span, false_alarms, looks)
        write_report(look, folder)
        if output_format == "json":
            print(json_text(as_json(look)))
        else:
            print("\n".join([*text_lines(look), f"report: {folder / PAGE}"]))
        if served and recalibrate:
            _recalibrate(root, served, bounds)
        if served and export_items:
            _export(root, served, bounds, export_items)
    if fail_on == "alert" and look.alerts:
        raise SystemExit(ALERT)


@dataclass(frozen=True)
class Served:
    """The log, open, and what of it is looked at: what the newest model of a variant said."""

    log: "Log"
    variant: str
    model_sha256: str | None

    def selected(self, bounds: Bounds) -> "Selection":
        """Return which estimates these are, within a period."""
        from pricer.serving.log import Selection

        return Selection(self.variant, self.model_sha256, *bounds)


@contextmanager
def _opened(database: str, variant: str) -> Iterator[Served]:
    with serving_extra():
        from pricer.serving.log import Log
    log = Log(database, create=False)
    try:
        yield Served(log, variant, log.newest_model(variant))
    finally:
        log.close()


def _reference(root: Workspace, reference: str | None, served: Served | None) -> "Observed":
    """Return what a period is compared with: another one, a file, or the validation split."""
    from pricer.monitoring.observed import read_file

    if reference and ".." in reference and not Path(reference).exists():
        if not served:
            raise PricerError("--reference SINCE..UNTIL is of the log: name a file of predictions")
        begin, _, end = reference.partition("..")
        return _period(served, (_time(begin, "--reference"), _time(end, "--reference")))
    path = Path(reference) if reference else root.predictions / "tuned_validation.parquet"
    require(path)
    if served and not reference:
        _record_of(served, root)
    return read_file(path, root)


def _period(served: Served, bounds: Bounds) -> "Observed":
    from pricer.monitoring.observed import TEXTS, read_log

    selection = served.selected(bounds)
    described = min(1.0, TEXTS / max(served.log.count(selection), 1))
    return read_log(served.log, replace(selection, described=described), served.log.where)


def _recalibrate(root: Workspace, served: Served, bounds: Bounds) -> None:
    """Write a serving record beside the one in use, with intervals from the newest outcomes."""
    from pricer.monitoring.feedback import calibration_of, next_record
    from pricer.params import first_problem
    from pricer.prices.record import ServingRecord, read_record, write_record

    record = _record_of(served, root)
    before = read_record(record)
    outcomes = served.log.outcomes_of(served.selected(bounds))
    calibration = calibration_of(outcomes, before.calibration)
    after = next_record(root.record)
    try:
        told = before.model_dump() | {"calibration": calibration.model_dump()}
        write_record(after, ServingRecord.model_validate(told))
    except ValidationError as error:
        raise PricerError(
            f"no intervals can hold these outcomes ({first_problem(error)}): are they in the "
            "currency of the estimates?"
        ) from None
    old = before.calibration.offsets if before.calibration else {}
    change = calibration.offsets["80"] - old.get("80", 0.0)
    _tell(
        f"{after}: intervals of 80% are {abs(math.expm1(change)):.0%} "
        f"{'wider' if change > 0 else 'narrower'} to each side than by {record}, which is as it "
        f"was, from {calibration.n:,} outcomes: pricer serve --record {after}"
    )


def _export(root: Workspace, served: Served, bounds: Bounds, file: Path) -> None:
    """Write products with outcomes as an items file."""
    from pricer.monitoring.feedback import items_of, write_items

    # what a product sold for does not depend on who estimated it
    by_any = replace(served.selected(bounds), variant=None)
    items, left_out = items_of(served.log.outcomes_of(by_any), root)
    if not items.empty:
        write_items(items, file)
    told = f"{file}: {len(items):,} products" if len(items) else f"{file}: not written, no products"
    reasons = ", ".join(f"{count:,} {why}" for why, count in left_out.items())
    _tell(told + (f"; left out {reasons}" if reasons else ""))


def _tell(line: str) -> None:
    """Print beside what `--format json` prints."""
    print(line, file=sys.stderr)


def _record_of(served: Served, root: Workspace) -> Path:
    """Return the serving record of the model that the log is of.

    Raises:
        PricerError: none in the project is, so that the validation split and its intervals are
            another model's.
    """
    from pricer.prices.record import model_sha256, read_record

    require(root.record)
    records = sorted(root.record.parent.glob(f"{root.record.stem}*.json"), reverse=True)
    for record in records:
        if served.model_sha256 in (None, model_sha256(read_record(record))):
            return record
    raise PricerError(
        f"{served.log.where}: {quoted(served.variant)} is a model that no record in "
        f"{root.record.parent} is of, the validation split is another's: give "
        "--reference SINCE..UNTIL, or the project it was served from"
    )


def _span(given: str) -> timedelta:
    """Return a length of time that is given as 7d, 12h or 30m."""
    ago = re.fullmatch(AGO, given)
    if not ago or not int(ago[1]):
        raise PricerError(f"--window {quoted(given)}: must be 7d, 12h, 30m or the like")
    return timedelta(**{UNITS[ago[2]]: int(ago[1])})


def _time(given: str | None, option: str) -> datetime | None:
    """Return a time, given as a date or as so long ago; UTC where it names no zone."""
    if not given:
        return None
    if ago := re.fullmatch(AGO, given):
        return datetime.now(UTC) - timedelta(**{UNITS[ago[2]]: int(ago[1])})
    try:
        told = datetime.fromisoformat(given)
    except ValueError:
        raise PricerError(
            f"{option} {quoted(given)}: must be a date, with a time or without, or so long ago: "
            "7d, 12h, 30m"
        ) from None
    try:
        return told.astimezone(UTC) if told.tzinfo else told.replace(tzinfo=UTC)
    except OverflowError:
        raise PricerError(f"{option} {quoted(given)}: is before all calendars") from None
