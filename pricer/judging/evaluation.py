"""Everything that is measured of a run, from its tables of predictions."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from pricer.errors import ItemsError
from pricer.evidence.table import nearest_similarity
from pricer.judging.baselines import WORDS
from pricer.judging.metrics import (
    KindScores,
    category_groups,
    evaluate,
    kind_scores,
    mae,
    price_bands,
    reference_colors,
    similarity_bands,
    slice_scores,
    table_scores,
)
from pricer.judging.paired import Bootstrap, Gap, Score, flat, gaps_by_group, paired_gaps
from pricer.prices.predictions import COLUMNS, INTERVALS


@dataclass(frozen=True)
class Evaluation:
    """What is measured of a run.

    Attributes:
        scores: by predictor ("tuned", "base", and the baselines).
        kinds: of the two models, how each kind of estimate would have scored.
        tuned_less: by every predictor but "tuned", the tuned model's MAE less its own, USD.
        slices: by kind ("price", "category", "similarity"), predictor and group.
        tuned_less_words: by similarity, the tuned model's MAE less that of the evidence's words.
        floor_mae: of the noise-free prices, USD; None where nobody knows these.
        products: the tuned model's predictions in the order of the items, with title, summary,
            category, error_usd (estimate less truth) and verdict.
        asked: of the predictors, models elsewhere that were asked, maybe for fewer products.
    """

    scores: dict[str, Score]
    kinds: dict[str, KindScores]
    tuned_less: dict[str, Gap]
    slices: dict[str, dict[str, dict[str, Score]]]
    tuned_less_words: dict[str, Gap]
    floor_mae: float | None
    products: pd.DataFrame
    asked: tuple[str, ...] = ()


def evaluate_run(
    items: pd.DataFrame,
    models: dict[str, pd.DataFrame],
    baselines: pd.DataFrame,
    evidence: pd.DataFrame,
    bootstrap: Bootstrap,
) -> Evaluation:
    """Judge every predictor on the same products.

    Args:
        items: the test split.
        models: predictions tables of "tuned" and "base", as `read_predictions` gives them.
        baselines: id, price, and a column of estimates (USD) for each baseline.
        evidence: of the test split, see `pricer.evidence.table.COLUMNS`.
        bootstrap: how products are drawn.

    Raises:
        ItemsError: a table judges other products.
    """
    models = {
        name: _in_order(_whole(table, name), items, f"{name} predictions")
        for name, table in models.items()
    }
    baselines = _in_order(baselines, items, "baselines predictions").drop(columns=["id", "price"])
    similarity = nearest_similarity(_in_order(evidence, items, "rows of evidence"))
    ids, truth = items["id"].to_numpy(), items["price"].to_numpy(float)
    guesses = {name: table["estimate_usd"].to_numpy(float) for name, table in models.items()}
    guesses |= {str(name): column.to_numpy(float) for name, column in baselines.items()}

    # a baseline always says a number
    more = {name: {"unparsed_rate": 0.0} for name in guesses}
    more |= {name: table_scores(table, INTERVALS) for name, table in models.items()}
    scores = {
        name: replace(score, values=score.values | more[name])
        for name, score in evaluate(ids, truth, guesses, bootstrap).items()
    }
    losses = {name: np.abs(guess - truth) for name, guess in guesses.items()}
    tuned_loss = losses.pop("tuned")
    differences = {name: tuned_loss - loss for name, loss in losses.items()}
    groups = {
        "price": price_bands(truth),
        "category": category_groups(items["category"]),
        "similarity": similarity_bands(similarity),
    }
    noise_free = items.get("noise_free_price")
    return Evaluation(
        scores,
        {name: kind_scores(table, bootstrap) for name, table in models.items()},
        paired_gaps(ids, differences, bootstrap),
        _slices(models, guesses, groups, bootstrap),
        gaps_by_group(ids, differences[WORDS], groups["similarity"], bootstrap),
        None if noise_free is None else mae(truth, noise_free.to_numpy(float)),
        _products(items, models["tuned"]),
    )


def with_asked(
    evaluation: Evaluation, tables: dict[str, pd.DataFrame], bootstrap: Bootstrap
) -> Evaluation:
    """Return an evaluation with models that were asked elsewhere, each on its own products.

    Args:
        evaluation: of a run.
        tables: by the model's name, id, price, estimate_usd (USD) and unparsed, of test products.
        bootstrap: how products are drawn.
    """
    scores, tuned_less = dict(evaluation.scores), dict(evaluation.tuned_less)
    tuned = evaluation.products.set_index("id")["error_usd"].abs()
    for name, table in tables.items():
        guess, truth = table["estimate_usd"].to_numpy(float), table["price"].to_numpy(float)
        [score] = evaluate(table["id"], truth, {name: guess}, bootstrap).values()
        unparsed = {"unparsed_rate": float(table["unparsed"].mean())}
        scores[name] = replace(score, values=score.values | unparsed)
        difference = tuned.loc[table["id"]].to_numpy() - np.abs(guess - truth)
        tuned_less |= paired_gaps(table["id"], {name: difference}, bootstrap)
    return replace(evaluation, scores=scores, tuned_less=tuned_less, asked=tuple(tables))


def _whole(table: pd.DataFrame, name: str) -> pd.DataFrame:
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise ItemsError(
            f"the {name} predictions lack {', '.join(missing)}: run `dvc repro`, which makes them "
            "with this version"
        )
    return table


def _in_order(table: pd.DataFrame, items: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows of `table` in the order of `items`."""
    if sorted(table["id"]) != sorted(items["id"]):
        raise ItemsError(f"the {name} are not of these items: run `dvc repro`")
    table = table.set_index("id").loc[items["id"]].reset_index()
    if "price" in table and not np.array_equal(table["price"], items["price"]):
        raise ItemsError(f"the {name} are of other prices: run `dvc repro`")
    return table


def _slices(
    models: dict[str, pd.DataFrame],
    guesses: dict[str, Any],
    groups: dict[str, pd.Categorical],
    bootstrap: Bootstrap,
) -> dict[str, dict[str, dict[str, Score]]]:
    covered = {
        name: table["price"].between(table["low_80"], table["high_80"]).to_numpy()
        for name, table in models.items()
    }
    judged = models["tuned"]
    return {
        kind: slice_scores(
            judged["id"], judged["price"], guesses, group, covered=covered, bootstrap=bootstrap
        )
        for kind, group in groups.items()
    }


def _products(items: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    return tuned.assign(
        title=items["title"].to_numpy(),
        summary=items["summary"].to_numpy(),
        category=items["category"].to_numpy(),
        error_usd=tuned["estimate_usd"] - tuned["price"],
        verdict=reference_colors(tuned["price"], tuned["estimate_usd"]),
    )


def scores_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return what `metrics/evaluate.json` holds: the tuned model at the top, then the others."""
    scores: dict[str, Any] = flat(evaluation.scores)
    for name, kinds in evaluation.kinds.items():
        told = {kind: {"mae": error} for kind, error in kinds.mae.items()}
        told["median_minus_greedy"] = flat(kinds.median_less_greedy)
        scores[name]["points"] = told
    for name, gap in evaluation.tuned_less.items():
        scores[name]["tuned_less_this"] = flat(gap)
    asked = {name: scores.pop(name) for name in evaluation.asked}
    elsewhere = {"asked": asked} if asked else {}
    floor = {} if evaluation.floor_mae is None else {"floor_mae": evaluation.floor_mae}
    return {**scores.pop("tuned"), **floor, **scores, **elsewhere}
