"""Experiments side by side: what was changed, how far off each is, and whether that is chance."""

from pathlib import Path
from typing import Any

import pandas as pd

from pricer.commands.runs import read_revision
from pricer.errors import PricerError
from pricer.judging.metrics import evaluate, paired_differences
from pricer.tables import signed_interval, table, usd

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
            f"{revision!r} is no git revision: `git log --oneline` shows what there is"
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


def read_tuned(path: Path, names: list[str]) -> dict[str, pd.DataFrame]:
    """Return the tuned model's predictions in each experiment, from DVC's cache.

    Raises:
        PricerError: some are neither in the cache nor in the remote.
    """
    return {name: read_revision(path, name) for name in names}


def sweep(
    params: dict[str, dict[str, str]],
    predictions: dict[str, pd.DataFrame],
    *,
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Return a row for each experiment, the lowest mean absolute error first.

    Args:
        params: by experiment, see `list_experiments`.
        predictions: by experiment, with id, price and point (USD; NaN counts as $0).
        resamples: of the bootstrap.
        seed: of the resampling.

    Returns:
        name; params, those that differ between the experiments; n; mae, mae_ci_low, mae_ci_high
        (USD); less_first, its MAE less the first row's on the products that both have judged
        with a paired 95% interval; shared, how many these are. Of the first row, and where none
        is shared, less_first is None.
    """
    values: dict[str, set[str]] = {}
    for own in params.values():
        for knob, value in own.items():
            values.setdefault(knob, set()).add(value)
    rows = []
    for name, found in predictions.items():
        scores = evaluate(
            found["price"],
            {"point": found["point"].fillna(0).to_numpy(float)},
            resamples=resamples,
            seed=seed,
        )["point"]
        rows.append(
            {
                "name": name,
                "params": {k: v for k, v in params[name].items() if len(values[k]) > 1},
                **{key: scores[key] for key in ("n", "mae", "mae_ci_low", "mae_ci_high")},
            }
        )
    rows.sort(key=lambda row: (row["mae"], row["name"]))
    first = predictions[rows[0]["name"]]
    for place, row in enumerate(rows):
        # the same product at another price is another product
        both = predictions[row["name"]].merge(first, on=["id", "price"], suffixes=("", "_first"))
        row["shared"] = len(both)
        row["less_first"] = (
            paired_differences(
                both["price"],
                both["point"].to_numpy(float),
                {"first": both["point_first"].to_numpy(float)},
                resamples=resamples,
                seed=seed,
            )["first"]
            if place and len(both)
            else None
        )
    return rows


def sweep_text(rows: list[dict[str, Any]], unfinished: dict[str, int], *, markdown: bool) -> str:
    """Return the rows of `sweep` for people, as plain text or Markdown."""
    knobs = list(rows[0]["params"])
    # different products are worth a column: they make the errors hard to compare
    partly = any(row["shared"] < row["n"] for row in rows)
    header = ["experiment", *knobs, "n", "MAE", "95% interval", "less the first's"]
    lines = [
        [
            row["name"],
            *row["params"].values(),
            str(row["n"]),
            usd(row["mae"]),
            f"{row['mae_ci_low']:,.2f} to {row['mae_ci_high']:,.2f}",
            signed_interval(gap) if (gap := row["less_first"]) else "",
            *([str(row["shared"])] if partly else []),
        ]
        for row in rows
    ]
    text = table(header + (["on n"] if partly else []), lines, markdown=markdown)
    left = ", ".join(f"{count} {state.lower()}" for state, count in unfinished.items() if count)
    return f"{text}\n" + (f"\n{left}: `dvc queue status`\n" if left else "")


def label(row: dict[str, Any]) -> str:
    """Return what a row of `sweep` is called in a chart: its name and what was changed."""
    return "  ".join([row["name"], *(f"{knob}={value}" for knob, value in row["params"].items())])
