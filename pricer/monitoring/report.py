"""The report of one look: as lines of text, as a page, as Markdown and as JSON."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pricer import escaping
from pricer.errors import printable
from pricer.escaping import json_text
from pricer.files import writing
from pricer.judging.figures import png
from pricer.judging.page import page, picture
from pricer.monitoring.charts import draw_over_time, draw_ranks, draw_values
from pricer.monitoring.checks import CHECKS, Finding, compare
from pricer.monitoring.errors import Mean
from pricer.monitoring.groups import Group, by_category, by_estimate, figures, over_time
from pricer.monitoring.observed import Observed
from pricer.monitoring.texts import Wording
from pricer.tables import cell, table, usd

PAGE, MARKDOWN, JSON = "report.html", "report.md", "monitor.json"
FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "expected_mae": ("expected MAE", usd),
    "mae": ("MAE", usd),
    "mae_all": ("MAE of all, by fifths of estimates", usd),
    "bias": ("bias, estimate less price", usd),
    "coverage_80": ("80% intervals hold", "{:.0%}".format),
}
OF_GROUPS = ("expected_mae", "mae", "bias", "coverage_80")
CHECK_HEADER = ["check", "", "distance", "p", "mean", "mean of the reference"]
NOT_ALL = (
    "Outcomes are of products whose price became known, perhaps only of what was sold: what is "
    "priced too high and stays on the shelf is not among them, so that the error of all may be "
    "larger."
)


@dataclass(frozen=True)
class Look:
    """All that one look at a period has found.

    Attributes:
        reference: what it is compared with.
        period: what is looked at.
        found: by check.
        told: what tells the words of both apart, where there are enough texts.
        figures: see `pricer.monitoring.groups.figures`.
        groups: parts of the period with their figures, by title.
        windows: likewise, over time; empty where no times are known.
        false_alarms: share of series of looks at what does not change that alarm.
        looks: in such a series.
    """

    reference: Observed
    period: Observed
    found: dict[str, Finding]
    told: Wording | None
    figures: dict[str, Mean]
    groups: dict[str, list[Group]]
    windows: list[Group]
    false_alarms: float
    looks: int

    @property
    def alerts(self) -> int:
        """How many checks alarm."""
        return sum(one.alarmed for one in self.found.values())


def look_at(
    reference: Observed,
    period: Observed,
    categories: set[str],
    window: timedelta,
    false_alarms: float,
    looks: int,
) -> Look:
    """Compare a period with the reference, and take its figures.

    Args:
        reference: see `Look`.
        period: see `Look`.
        categories: that training has seen.
        window: of figures over time.
        false_alarms: see `Look`.
        looks: see `Look`.
    """
    found, told = compare(reference, period, categories, false_alarms / (looks * len(CHECKS)))
    return Look(
        reference,
        period,
        found,
        told,
        figures=figures(reference.outcomes, period.estimates, period.outcomes),
        groups={
            "By category": by_category(reference, period),
            "By estimate": by_estimate(reference, period),
        },
        windows=over_time(reference, period, window),
        false_alarms=false_alarms,
        looks=looks,
    )


def write_report(look: Look, folder: Path) -> None:
    """Write PAGE, MARKDOWN and JSON into a folder, which is made where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        (PAGE, _page(look)),
        (MARKDOWN, _markdown(look)),
        (JSON, json_text(as_json(look)) + "\n"),
    ):
        with writing(folder / name) as partial:
            partial.write_text(content, encoding="utf-8")


def text_lines(look: Look) -> list[str]:
    """Return what a terminal shows; text from outside is printable."""
    lines = [_compared(look), _promise(look)]
    for finding in look.found.values():
        lines += _finding_lines(finding)
    lines += [f"{label}: {value} (95% interval {ends})" for label, value, ends in _told(look)]
    return lines + [printable(line) for line in _wording_lines(look.told)]


def _compared(look: Look) -> str:
    old, new = look.reference, look.period
    return (
        f"{new.name}: {len(new.estimates):,} products ({new.asked:,} estimates), "
        f"{len(new.outcomes):,} with an outcome, against {len(old.estimates):,} of {old.name}"
    )


def _promise(look: Look) -> str:
    return (
        f"of {look.looks} looks at what does not change, one or more alarm with chance "
        f"{look.false_alarms:.1%}"
    )


def _finding_lines(finding: Finding) -> list[str]:
    check, shift = finding.check, finding.shift
    if shift is None:
        return [f"  {check.title}: too few products to compare, or not in this file"]
    word = "ALERT" if finding.alarmed else "no change to tell from chance"
    lines = [f"  {check.title}: {word} (distance {shift.distance:.2f}, p {shift.p_value:.2g})"]
    if finding.alarmed:
        lines.append(f"    {_said(finding)}, {printable(_when(finding))}")
        lines.append(f"    do: {check.advice}")
    return lines + [f"    such as: {printable(product)}" for product in finding.products]


def _said(finding: Finding) -> str:
    assert finding.shift
    return finding.check.above if finding.shift.more_above else finding.check.below


def _when(finding: Finding) -> str:
    """Say since when, with the interval of the change point, and in which category most."""
    since = finding.since
    assert since
    began = f"product {since.place + 1:,}" if finding.at is None else f"{finding.at}"
    began += f" (product {since.low + 1:,} to {since.high + 1:,})"
    if since.low == 0:
        began = "the beginning of the period or before"
    return f"since {began}; most in {finding.category or 'no category'}"


def _wording_lines(told: Wording | None) -> list[str]:
    if not told:
        return []
    lines = [
        f"new texts are told from old ones with AUC {told.auc:.2f} "
        f"({told.interval.low:.2f} to {told.interval.high:.2f})"
    ]
    for which, words in (("more", told.more), ("less", told.less)):
        if words:
            lines.append(f"  {which} often: {', '.join(words)}")
    return lines


def _sentence(look: Look) -> str:
    changed = [finding.check.title for finding in look.found.values() if finding.alarmed]
    compared = sum(finding.shift is not None for finding in look.found.values())
    if not changed:
        return f"{compared} of {len(CHECKS)} checks could compare, and none found a change."
    return f"{len(changed)} of {len(CHECKS)} checks alarm: {', '.join(changed)}."


def _check_rows(look: Look) -> list[list[str]]:
    rows = []
    for finding in look.found.values():
        shift = finding.shift
        compared = (
            ["", "", ""]
            if shift is None
            else [
                "ALERT" if finding.alarmed else "",
                f"{shift.distance:.2f}",
                f"{shift.p_value:.2g}",
            ]
        )
        means = [
            "" if math.isnan(mean) else f"{mean:,.2f}"
            for mean in (finding.mean, finding.mean_reference)
        ]
        rows.append([finding.check.title, *compared, *means])
    return rows


def _tables(look: Look) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, header and rows of the figures over time and by group."""
    header = ["", "products", "outcomes", *(FIGURES[name][0] for name in OF_GROUPS)]
    parts = {"Over time": look.windows} if len(look.windows) > 1 else {}
    return [
        (title, header, [_group_row(one) for one in groups])
        for title, groups in (parts | look.groups).items()
        if groups
    ]


def _group_row(group: Group) -> list[str]:
    cells = []
    for name in OF_GROUPS:
        one, told = group.figures.get(name), FIGURES[name][1]
        cells.append(f"{told(one.value)} ({_ends(one, told)})" if one else "")
    return [group.name, f"{group.estimates:,}", f"{group.outcomes:,}", *cells]


def _told(look: Look) -> list[list[str]]:
    """Return label, value and interval of each figure."""
    return [
        [label, told(look.figures[name].value), _ends(look.figures[name], told)]
        for name, (label, told) in FIGURES.items()
        if name in look.figures
    ]


def _ends(one: Mean, told: Callable[[float], str]) -> str:
    return f"{told(one.interval.low)} to {told(one.interval.high)}"


def _notes(look: Look) -> list[str]:
    notes = [" ".join(line.strip() for line in _wording_lines(look.told))] if look.told else []
    outcomes, estimates = look.period.outcomes, look.period.estimates
    if len(outcomes) and len(estimates):
        means = [float(side["estimate_usd"].mean()) for side in (outcomes, estimates)]
        notes.append(
            f"{NOT_ALL} They are estimated at {usd(means[0])} on average, all products of the "
            f"period at {usd(means[1])}."
        )
    return notes


def _charts(look: Look) -> list[tuple[str, bytes]]:
    charts = []
    if len(look.windows) > 1:
        title = "Mean absolute error of each window, with 95% intervals"
        charts.append((title, png(draw_over_time(look.windows))))
    if len(look.period.outcomes):
        ranks = [side.outcomes["rank"].to_numpy(float) for side in (look.reference, look.period)]
        title = "Prices in the model's distributions: level with the line where these are right"
        charts.append((title, png(draw_ranks(*ranks))))
    for finding in look.found.values():
        if not (finding.alarmed and finding.check.in_usd):
            continue
        sides = [
            side.outcomes if finding.check.outcomes else side.estimates
            for side in (look.reference, look.period)
        ]
        drawn = draw_values(finding.check.title, *(finding.check.values(side) for side in sides))
        charts.append((f"{finding.check.title}, USD", png(drawn)))
    return charts


def _page(look: Look) -> str:
    return page(
        Path(__file__).parent / "report.html.jinja",
        alerts=look.alerts,
        sentence=_sentence(look),
        compared=f"{_compared(look)}.",
        promise=f"{_promise(look).capitalize()}.",
        headline=[
            (label, value, f"95% interval {interval}") for label, value, interval in _told(look)
        ],
        notes=_notes(look),
        changed=[
            {
                "title": finding.check.title,
                "said": _said(finding),
                "when": _when(finding),
                "advice": finding.check.advice,
                "products": finding.products,
            }
            for finding in look.found.values()
            if finding.alarmed
        ],
        check_header=CHECK_HEADER,
        check_rows=_check_rows(look),
        tables=_tables(look),
        charts=[(title, picture(drawn)) for title, drawn in _charts(look)],
    )


def _markdown(look: Look) -> str:
    parts = [
        f"# {_sentence(look)}",
        f"{escaping.markdown(_compared(look))}.",
        f"{_promise(look).capitalize()}.",
    ]
    if look.figures:
        parts.append(table(["figure", "value", "95% interval"], _told(look)))
    parts += [escaping.markdown(note) for note in _notes(look)]
    for finding in look.found.values():
        if finding.alarmed:
            parts.append(f"## {finding.check.title}: {_said(finding)}")
            parts.append(f"{escaping.markdown(_when(finding))}. What to do: {finding.check.advice}")
            parts.append("\n".join(f"- {escaping.markdown(one)}" for one in finding.products))
    parts.append("## All checks\n\n" + table(CHECK_HEADER, _check_rows(look)))
    for title, header, rows in _tables(look):
        shown = [[cell(row[0]), *row[1:]] for row in rows]
        parts.append(f"## {title}\n\n{table(header, shown)}")
    return "\n\n".join(part for part in parts if part) + "\n"


def as_json(look: Look) -> dict[str, Any]:
    """Return all of it but the charts."""
    old, new, told = look.reference, look.period, look.told
    ends = new.estimates["at"].dropna() if len(new.estimates) else new.outcomes["at"].dropna()
    return {
        "reference": {"name": old.name, "n": len(old.estimates)},
        "period": {
            "name": new.name,
            "n": len(new.estimates),
            "asked": new.asked,
            "outcomes": len(new.outcomes),
            "newest": str(ends.max()) if len(ends) else None,
        },
        "false_alarms": look.false_alarms,
        "looks": look.looks,
        "alerts": look.alerts,
        "figures": _figures_json(look.figures),
        "words": told
        and {
            "auc": told.auc,
            "auc_ci_low": told.interval.low,
            "auc_ci_high": told.interval.high,
            "more": told.more,
            "less": told.less,
        },
        "checks": {name: _finding_json(one) for name, one in look.found.items()},
        "over_time": [_group_json(one) for one in look.windows],
        "groups": {
            title: [_group_json(one) for one in groups] for title, groups in look.groups.items()
        },
    }


def _figures_json(figures: dict[str, Mean]) -> dict[str, Any]:
    return {
        name: {
            "value": _number(one.value),
            "ci_low": _number(one.interval.low),
            "ci_high": _number(one.interval.high),
            "n": one.n,
        }
        for name, one in figures.items()
    }


def _group_json(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "estimates": group.estimates,
        "outcomes": group.outcomes,
        "figures": _figures_json(group.figures),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _finding_json(finding: Finding) -> dict[str, Any]:
    apart = finding.wasserstein_usd
    return {
        "alarmed": finding.alarmed,
        **(asdict(finding.shift) if finding.shift else {}),
        **({} if apart is None else {"wasserstein_usd": _number(apart)}),
        "mean": _number(finding.mean),
        "mean_reference": _number(finding.mean_reference),
        "since": finding.since and asdict(finding.since),
        "since_time": None if finding.at is None else str(finding.at),
        "category": finding.category,
        "products": list(finding.products),
    }
