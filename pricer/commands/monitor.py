"""`pricer monitor`: whether what is priced now is still like what the model was judged on."""

import math
import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pricer.commands.serve import LOG, serving_extra
from pricer.errors import PricerError, printable, quoted
from pricer.escaping import json_text
from pricer.files import read_parquet
from pricer.workspace import Workspace, require

if TYPE_CHECKING:
    from pricer.monitoring.checks import Finding
    from pricer.monitoring.errors import Mean
    from pricer.monitoring.observed import Observed
    from pricer.monitoring.texts import Wording

UNITS = {"d": "days", "h": "hours", "m": "minutes"}
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
    false_alarms: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="share of series that alarm by chance")
    ] = 0.05,
    looks: Annotated[int, typer.Option(min=1, max=400, help="in such a series")] = 20,
    fail_on: Annotated[
        Literal["alert", "never"], typer.Option(help="exit code 2 on an alert")
    ] = "never",
    output_format: Annotated[
        Literal["text", "json"], typer.Option("--format", help="of what is printed")
    ] = "text",
) -> None:
    """Compare what a service prices now with what its model was judged on."""
    from pricer.monitoring.checks import CHECKS, compare
    from pricer.monitoring.errors import expected_mae, realised
    from pricer.monitoring.observed import read_file

    if file and (since or until):
        raise PricerError(f"{file}: --since and --until are for the log, a file is read whole")
    root = Workspace()
    bounds = (_time(since, "--since"), _time(until, "--until"))
    if reference and ".." in reference and not Path(reference).exists():
        if file:
            raise PricerError("--reference SINCE..UNTIL is of the log: name a file of predictions")
        begin, _, end = reference.partition("..")
        old = _of_log(database, variant, (_time(begin, "--reference"), _time(end, "--reference")))
    else:
        path = Path(reference) if reference else root.predictions / "tuned_validation.parquet"
        require(path)
        old = read_file(path, root)
    new = read_file(file, root) if file else _of_log(database, variant, bounds)
    if new.estimates.empty and new.outcomes.empty:
        raise PricerError(f"{new.name}: no estimate by {quoted(variant)} in this period")
    train = root.items / "train.parquet"
    names = read_parquet(train, ["category"])["category"] if train.exists() else None
    categories = set(old.estimates["category"].dropna() if names is None else names)
    alpha = false_alarms / (looks * len(CHECKS))
    found, told = compare(old, new, categories, alpha)
    expected = expected_mae(old.outcomes, new.estimates)
    figures = ({"expected_mae": expected} if expected else {}) | realised(new.outcomes)
    if output_format == "json":
        print(json_text({"alpha": alpha} | _json(old, new, found, told, figures)))
    else:
        print(
            f"{new.name}: {len(new.estimates):,} products ({new.asked:,} estimates), "
            f"{len(new.outcomes):,} with an outcome, against {len(old.estimates):,} of {old.name}"
        )
        print(
            f"of {looks} looks at what does not change, one or more alarm with chance "
            f"{false_alarms:.1%}"
        )
        _print(found, told, figures)
    if fail_on == "alert" and any(one.alarmed for one in found.values()):
        raise SystemExit(ALERT)


def _of_log(
    database: str, variant: str, bounds: tuple[datetime | None, datetime | None]
) -> "Observed":
    from pricer.monitoring.observed import TEXTS, read_log

    with serving_extra():
        from pricer.serving.log import Log, Selection
    log = Log(database, create=False)
    try:
        model = log.newest_model(variant)
        count = log.count(Selection(variant, model, *bounds))
        described = min(1.0, TEXTS / max(count, 1))
        return read_log(log, Selection(variant, model, *bounds, described), log.where)
    finally:
        log.close()


def _time(given: str | None, option: str) -> datetime | None:
    """Return a time, given as a date or as so long ago; UTC where it names no zone."""
    if not given:
        return None
    if ago := re.fullmatch(r"(\d{1,5})([dhm])", given):
        return datetime.now(UTC) - timedelta(**{UNITS[ago[2]]: int(ago[1])})
    try:
        told = datetime.fromisoformat(given)
    except ValueError:
        raise PricerError(
            f"{option} {quoted(given)}: must be a date, with a time or without, or so long ago: "
            "7d, 12h, 30m"
        ) from None
    return told.astimezone(UTC) if told.tzinfo else told.replace(tzinfo=UTC)


def _print(found: "dict[str, Finding]", told: "Wording | None", figures: "dict[str, Mean]") -> None:
    for finding in found.values():
        _print_finding(finding)
    for name, one in figures.items():
        low, high = one.interval.low, one.interval.high
        print(f"{name}: {one.value:,.2f} (95% interval {low:,.2f} to {high:,.2f}, {one.n:,})")
    if not told:
        return
    print(
        f"new texts are told from old ones with AUC {told.auc:.2f} "
        f"({told.interval.low:.2f} to {told.interval.high:.2f})"
    )
    for which, words in (("more", told.more), ("less", told.less)):
        if words:
            print(f"  {which} often: {', '.join(map(printable, words))}")


def _print_finding(finding: "Finding") -> None:
    check, shift, since = finding.check, finding.shift, finding.since
    if shift is None:
        print(f"  {check.title}: too few products to compare")
        return
    word = "ALERT" if finding.alarmed else "no change to tell from chance"
    print(f"  {check.title}: {word} (distance {shift.distance:.2f}, p {shift.p_value:.2g})")
    if since is None:
        return
    began = f"product {since.place + 1:,}" if finding.at is None else f"{finding.at}"
    if since.low == 0:
        began = "the beginning of the period or before"
    side = check.above if shift.more_above else check.below
    print(f"    {side}, since {began}; most in {printable(finding.category or 'no category')}")
    print(f"    do: {check.advice}")
    for product in finding.products:
        print(f"    such as: {printable(product)}")


def _json(
    old: "Observed",
    new: "Observed",
    found: "dict[str, Finding]",
    told: "Wording | None",
    figures: "dict[str, Mean]",
) -> dict[str, Any]:
    return {
        "reference": {"name": old.name, "n": len(old.estimates)},
        "period": {
            "name": new.name,
            "n": len(new.estimates),
            "asked": new.asked,
            "outcomes": len(new.outcomes),
        },
        "alerts": sum(one.alarmed for one in found.values()),
        "figures": {name: asdict(one) for name, one in figures.items()},
        "words": told
        and {
            "auc": told.auc,
            "auc_ci_low": told.interval.low,
            "auc_ci_high": told.interval.high,
            "more": told.more,
            "less": told.less,
        },
        "checks": {name: _finding_json(one) for name, one in found.items()},
    }


def _finding_json(finding: "Finding") -> dict[str, Any]:
    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    apart = finding.wasserstein_usd
    return {
        "alarmed": finding.alarmed,
        **(asdict(finding.shift) if finding.shift else {}),
        **({} if apart is None else {"wasserstein_usd": apart}),
        "mean": number(finding.mean),
        "mean_reference": number(finding.mean_reference),
        "since": finding.since and asdict(finding.since),
        "since_time": None if finding.at is None else str(finding.at),
        "category": finding.category,
        "products": list(finding.products),
    }
