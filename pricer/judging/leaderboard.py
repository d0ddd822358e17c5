"""Every predictor, the best first, and where it belongs, what others have published."""

import json
from dataclasses import dataclass
from pathlib import Path

from pricer.judging.baselines import BASELINES
from pricer.judging.evaluation import Evaluation
from pricer.judging.paired import Gap, Score

LABELS = {
    "tuned": "tuned model",
    "base": "base model",
    **{name: baseline.label for name, baseline in BASELINES.items()},
}


@dataclass(frozen=True)
class PublishedScore:
    """A published mean absolute error (USD), on n test products."""

    mae: float
    n: int


@dataclass(frozen=True)
class Published:
    """What is published of predictors on a dataset, and where it comes from."""

    source: str
    recorded: str
    scores: dict[str, PublishedScore]


@dataclass(frozen=True)
class Row:
    """A predictor in the leaderboard; of published ones and the floor only the error is known.

    Attributes:
        name: as in `metrics/evaluate.json`.
        label: what people call it.
        mae: mean absolute error, USD.
        score: all that was measured of it.
        tuned_less: the tuned model's MAE less its own, USD.
    """

    name: str
    label: str
    mae: float
    score: Score | None = None
    tuned_less: Gap | None = None


def published_scores(dataset: str | None) -> Published | None:
    """Return what is published for items of `dataset`; None for all other items.

    Numbers on other products are never put side by side.
    """
    file = Path(__file__).parent / "published_scores.json"
    known = json.loads(file.read_text(encoding="utf-8"))
    if dataset not in known.pop("datasets"):
        return None
    scores = {name: PublishedScore(**score) for name, score in known.pop("scores").items()}
    return Published(scores=scores, **known)


def leaderboard(evaluation: Evaluation, published: Published | None) -> list[Row]:
    """Return a row for each predictor, published ones included, the best first."""
    rows = [
        Row(
            name,
            LABELS.get(name) or f"{name} (asked, n = {score.n:,})",
            score.values["mae"],
            score,
            evaluation.tuned_less.get(name),
        )
        for name, score in evaluation.scores.items()
    ]
    if published:
        rows += [
            Row(name, f"{name} (published, n = {score.n:,})", score.mae)
            for name, score in published.scores.items()
        ]
    return sorted(rows, key=lambda row: row.mae)
