"""Experiments side by side: what was changed, how far off each is, and whether that is chance."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pricer.errors import PricerError, quoted
from pricer.escaping import shortened
from pricer.judging.paired import Bootstrap, Gap, Score, flat, mean_intervals, paired_gaps
from pricer.tables import cell, interval_text, signed_interval, table, usd

LONGEST_LABEL = 40  # characters of a name, or of a param, in a chart
UNFINISHED = ("Queued", "Running", "Failed")


def list_experiments(
    revision: str, knobs: list[str]
) -> tuple[dict[str, dict[str, str]], dict[str, int]]:
    """Return a commit and the finished experiments that began there, and how many are unfinished.

    Args:
        revision: a commit, as git names it.
        knobs: dotted keys of all params.

    Returns:
        The params of each by its name, the commit first; counts by Queued, Running and Failed.

    Raises:
        PricerError: there is no such commit, or no finished experiment.
    """
    # DVC takes a second to import: only who asks for experiments waits for it
    import dvc.api
    from dvc.exceptions import DvcException
    from dvc.scm import RevError

    try:
        rows = dvc.api.exp_show(revs=revision)
    except RevError:
        raise PricerError(
            f"{quoted(revision)} is no git revision: `git log --oneline` shows what there is"
        ) from None
    except DvcException as error:
        raise PricerError(f"DVC cannot list experiments: {error}") from None
    finished: dict[str, dict[str, str]] = {}
    unfinished = {state: sum(row["State"] == state for row in rows) for state in UNFINISHED}
    for row in rows:
        if row["rev"] != "workspace" and row["State"] not in UNFINISHED:
            finished[row["Experiment"] or row["rev"]] = {
                knob: _plain(row.get(knob)) for knob in knobs
            }
    if len(finished) < 2:
        left = ", ".join(f"{count} {state.lower()}" for state, count in unfinished.items() if count)
        raise PricerError(
            f"no finished experiment began at {revision} ({left or 'none at all'}): "
            "`dvc exp run --queue -S lora.r=16,32` makes some, `dvc queue start` runs them"
        )
    return finished, unfinished


def _plain(value: Any) -> str:
    """Return a param as one would write it: DVC lists whole numbers as 16.0."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value)


@dataclass(frozen=True)
class Row:
    """One experiment of a sweep.

    Attributes:
        name: of the experiment.
        params: by dotted key, those that differ between the experiments.
        score: its mean absolute error, USD.
        shared: on how many products it is compared with the first row.
        less_first: its MAE less the first row's on these, USD; None of the first row, and where
            none is shared.
    """

    name: str
    params: dict[str, str]
    score: Score
    shared: int
    less_first: Gap | None


def sweep(
    params: dict[str, dict[str, str]], predictions: dict[str, pd.DataFrame], bootstrap: Bootstrap
) -> list[Row]:
    """Return a row for each experiment, the lowest mean absolute error first.

    Args:
        params: by experiment, see `list_experiments`.
        predictions: by experiment, with id, price and estimate_usd.
        bootstrap: how products are drawn.
    """
    values: dict[str, set[str]] = {}
    for own in params.values():
        for knob, value in own.items():
            values.setdefault(knob, set()).add(value)
    scores = {name: _score(table, bootstrap) for name, table in predictions.items()}
    ranked = sorted(scores, key=lambda name: (scores[name].values["mae"], name))
    return [
        Row(
            name,
            {knob: value for knob, value in params[name].items() if len(values[knob]) > 1},
            scores[name],
            *_paired(predictions[name], predictions[ranked[0]], bootstrap, first=not place),
        )
        for place, name in enumerate(ranked)
    ]


def _score(table: pd.DataFrame, bootstrap: Bootstrap) -> Score:
    losses = {"mae": (table["estimate_usd"] - table["price"]).abs().to_numpy(float)}
    intervals = mean_intervals(table["id"], losses, bootstrap)
    return Score(len(table), {"mae": float(losses["mae"].mean())}, intervals)


def _paired(
    table: pd.DataFrame, best: pd.DataFrame, bootstrap: Bootstrap, *, first: bool
) -> tuple[int, Gap | None]:
    # the same product at another price is another product
    both = table.merge(best, on=["id", "price"], suffixes=("", "_first"))
    if first or both.empty:
        return len(both), None
    own, other = (
        (both[column] - both["price"]).abs().to_numpy(float)
        for column in ("estimate_usd", "estimate_usd_first")
    )
    return len(both), paired_gaps(both["id"], {"mae": own - other}, bootstrap)["mae"]


def sweep_json(rows: list[Row]) -> list[dict[str, Any]]:
    """Return the rows of `sweep` as `--format json` prints them."""
    return [
        {
            "name": row.name,
            "params": row.params,
            **flat(row.score),
            "shared": row.shared,
            "less_first": flat(row.less_first),
        }
        for row in rows
    ]


def sweep_text(rows: list[Row], unfinished: dict[str, int], *, markdown: bool) -> str:
    """Return the rows of `sweep` for people, as plain text or Markdown."""
    # different products are worth a column: they make the errors hard to compare
    partly = any(row.shared < row.score.n for row in rows)
    header = ["experiment", *rows[0].params, "n", "MAE", "95% interval", "less the first's"]
    lines = [_cells(row, markdown=markdown) + ([str(row.shared)] if partly else []) for row in rows]
    text = table(header + (["on n"] if partly else []), lines, markdown=markdown)
    left = ", ".join(f"{count} {state.lower()}" for state, count in unfinished.items() if count)
    return f"{text}\n" + (f"\n{left}: `dvc queue status`\n" if left else "")


def _cells(row: Row, *, markdown: bool) -> list[str]:
    interval, gap = row.score.intervals["mae"], row.less_first
    return [
        *(cell(text, markdown=markdown) for text in (row.name, *row.params.values())),
        str(row.score.n),
        usd(row.score.values["mae"]),
        interval_text(interval.low, interval.high),
        signed_interval(gap.value, gap.interval.low, gap.interval.high) if gap else "",
    ]


def sweep_chart(path: Path, rows: list[Row], title: str) -> None:
    """Draw the errors of the rows, each labelled with its name and what was changed."""
    # matplotlib takes a second to import: only who asks for a chart waits for it
    from pricer.judging.charts import Bar, intervals

    bars = [Bar(label(row), row.score.values["mae"], row.score.intervals["mae"]) for row in rows]
    intervals(path, bars, title)


def label(row: Row) -> str:
    """Return what a row of `sweep` is called in a chart: its name and what was changed."""
    changed = (f"{knob}={value}" for knob, value in row.params.items())
    return "  ".join(shortened(text, LONGEST_LABEL) for text in (row.name, *changed))
