"""The report: scores, slices, charts and products, as one HTML page and as Markdown."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pricer.errors import printable
from pricer.escaping import shortened
from pricer.evidence.alike import warnings
from pricer.judging.baselines import NEIGHBORS, WORDS
from pricer.judging.charts import CHARTS
from pricer.judging.evaluation import Evaluation
from pricer.judging.leaderboard import LABELS, Published, Row
from pricer.judging.page import page, picture
from pricer.judging.paired import Gap, Interval, Score
from pricer.tables import cell, interval_text, signed, signed_interval, table, usd

SHOWN = 20  # best and worst products
# what the tables of evidence show, for the page and for Markdown
ALONE = (
    "Prompts tell what similar training products cost, or what these and words suggest. Each "
    "alone, training products out of fold, would be off by this much; what the tuned model adds "
    f"is in the table of all predictors, as tuned less {LABELS[WORDS]} and {LABELS[NEIGHBORS]}."
)
LOOKUP = (
    "Look-up or understanding? By the similarity of the nearest training product (1: the same "
    "words): a model that only looks up gains nothing on words where no product is near."
)
LONGEST = 600  # characters of a product's text that are shown


@dataclass(frozen=True)
class Report:
    """What a report tells.

    Attributes:
        evaluation: what was measured.
        leaderboard: every predictor, published ones included, the best first.
        published: what others have measured on the same dataset, if that is known.
        evidence: from `pricer.evidence.alike.compare_splits`, where prompts tell evidence.
        tokens: what `products.prompts.token_statistics` returns.
        params: every param by its dotted key.
        hashes: SHA-256 of data and code, by path.
    """

    evaluation: Evaluation
    leaderboard: list[Row]
    published: Published | None
    evidence: dict[str, dict[str, Any]] | None
    tokens: dict[str, Any]
    params: dict[str, Any]
    hashes: dict[str, str]


@dataclass(frozen=True)
class Likeness:
    """Scores on products that are similarly near to a training product."""

    tuned: Score
    words: Score
    neighbors: Score
    tuned_less_words: Gap


def likeness(evaluation: Evaluation) -> dict[str, Likeness]:
    """Return by band of similarity what the model and each piece of evidence score there."""
    scores = evaluation.slices["similarity"]
    return {
        band: Likeness(scores["tuned"][band], scores[WORDS][band], scores[NEIGHBORS][band], gap)
        for band, gap in evaluation.tuned_less_words.items()
    }


def sentence(evaluation: Evaluation) -> str:
    """Say the result, compared with the best predictor without a language model."""
    errors = {name: score.values["mae"] for name, score in evaluation.scores.items()}
    tuned = evaluation.scores["tuned"]
    text = (
        f"The tuned model is off by {usd(errors['tuned'])} on average "
        f"(95% interval {_ends(tuned.intervals['mae'])}) on {tuned.n:,} test products"
    )
    best = min(
        set(errors) - {"tuned", "base", *evaluation.asked}, key=lambda name: (errors[name], name)
    )
    gap = evaluation.tuned_less[best]
    if not gap.is_clear:
        return f"{text}, not measurably different from {LABELS[best]}."
    word = "better" if gap.value < 0 else "worse"
    low, high = sorted((abs(gap.interval.low), abs(gap.interval.high)))
    return (
        f"{text}, {usd(abs(gap.value))} {word} ({interval_text(low, high)}) "
        f"than {LABELS[best]}, the best predictor without a language model."
    )


def _ends(interval: Interval) -> str:
    return interval_text(interval.low, interval.high)


def _gap(gap: Gap) -> str:
    return signed_interval(gap.value, gap.interval.low, gap.interval.high)


def _known(facts: dict[str, Any], name: str, told: Callable[[float], str]) -> str:
    """Return a fact's cell; where no product has a neighbour it is not measured, and empty."""
    return told(facts[name]) if name in facts else ""


def _scored(own: Callable[[Score], str]) -> Callable[[Row], str]:
    """Return a cell that is empty where no more than the error is known."""
    return lambda row: own(row.score) if row.score else ""


def _percent(metric: str) -> Callable[[Score], str]:
    return lambda score: f"{score.values[metric]:.0%}"


# a header and what stands below it; the Markdown table has those of BRIEF
LEADERBOARD: list[tuple[str, Callable[[Row], str]]] = [
    ("predictor", lambda row: row.label),
    ("MAE", lambda row: usd(row.mae)),
    ("95% interval", _scored(lambda score: _ends(score.intervals["mae"]))),
    ("RMSE", _scored(lambda score: usd(score.values["rmse"]))),
    ("R²", _scored(lambda score: f"{score.values['r2']:.2f}")),
    ("median error", _scored(lambda score: usd(score.values["median_ae"]))),
    ("green", _scored(_percent("hit_rate"))),
    ("orange", _scored(_percent("orange_rate"))),
    ("red", _scored(_percent("red_rate"))),
    ("tuned less this", lambda row: _gap(row.tuned_less) if row.tuned_less else ""),
]
BRIEF = {"predictor", "MAE", "95% interval", "R²", "tuned less this"}

SLICES: list[tuple[str, Callable[[Score], str]]] = [
    ("n", lambda score: str(score.n)),
    ("MAE", lambda score: usd(score.values["mae"])),
    ("95% interval", lambda score: _ends(score.intervals["mae"])),
    ("bias", lambda score: signed(score.values["bias"])),
    ("80% intervals hold", _percent("coverage_80")),
]

# of a split, as `pricer.evidence.alike.compare_splits` gives it
PIECES: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
    ("n", lambda facts: f"{facts['n']:,}"),
    ("words and neighbours, MAE", lambda facts: _known(facts, "words_mae", usd)),
    ("neighbours alone, MAE", lambda facts: _known(facts, "neighbors_mae", usd)),
    ("nearest, similarity", lambda facts: _known(facts, "nearest_similarity", "{:.2f}".format)),
]

# of a band of similarity
LIKENESS: list[tuple[str, Callable[["Likeness"], str]]] = [
    ("n", lambda band: str(band.tuned.n)),
    ("tuned model, MAE", lambda band: usd(band.tuned.values["mae"])),
    ("95% interval", lambda band: _ends(band.tuned.intervals["mae"])),
    ("words and neighbours", lambda band: usd(band.words.values["mae"])),
    ("neighbours alone", lambda band: usd(band.neighbors.values["mae"])),
    ("tuned less words", lambda band: _gap(band.tuned_less_words)),
]

PRODUCTS: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
    ("price", lambda row: usd(row["price"])),
    ("estimate", lambda row: usd(row["estimate_usd"])),
    ("error", lambda row: signed(row["error_usd"])),
    ("80% interval", lambda row: f"{usd(row['low_80'])} to {usd(row['high_80'])}"),
]


def _ranked(report: Report) -> list[Row]:
    """Return the leaderboard, with the floor below it where that is known."""
    floor = report.evaluation.floor_mae
    floors = [] if floor is None else [Row("floor", "floor", floor)]
    return report.leaderboard + floors


def best_and_worst(products: pd.DataFrame) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the products of least and of most absolute error, as rows."""
    order = products["error_usd"].abs().sort_values(kind="stable").index
    ranked = products.loc[order].assign(
        title=products["title"].map(lambda text: shortened(text, LONGEST)),
        summary=products["summary"].map(_paragraphs),
    )
    rows: list[dict[str, Any]] = ranked.to_dict(orient="records")  # type: ignore[assignment]
    return rows[:SHOWN], rows[::-1][:SHOWN]


def _paragraphs(text: str) -> str:
    """Return a product's text with its lines, printable and cut."""
    lines = "\n".join(map(printable, text[:LONGEST].split("\n")))
    return lines if len(text) <= LONGEST else f"{lines}…"


def html_report(report: Report, charts_dir: Path) -> str:
    """Return the report as a page of its own: no script, nothing loaded, every text escaped."""
    evaluation = report.evaluation
    best, worst = best_and_worst(evaluation.products)
    pictures = {name: (charts_dir / f"{name}.png").read_bytes() for name in CHARTS}
    return page(
        Path(__file__).parent / "report.html.jinja",
        tuned=evaluation.scores["tuned"],
        floor_mae=evaluation.floor_mae,
        sentence=sentence(evaluation),
        leaderboard_columns=LEADERBOARD,
        leaderboard=_ranked(report),
        slice_columns=SLICES,
        slices={kind: predictors["tuned"] for kind, predictors in evaluation.slices.items()},
        alone=ALONE,
        lookup=LOOKUP,
        piece_columns=PIECES,
        pieces=report.evidence,
        warnings=warnings(report.evidence) if report.evidence else [],
        likeness_columns=LIKENESS,
        likeness=likeness(evaluation) if report.evidence else {},
        charts=[(chart.title, picture(pictures[name])) for name, chart in CHARTS.items()],
        product_columns=PRODUCTS,
        products={"Worst products": worst, "Best products": best},
        published=report.published,
        tokens=report.tokens,
        params=report.params,
        hashes=report.hashes,
    )


def markdown_report(report: Report) -> str:
    """Return the report as Markdown; the result and the leaderboard come first."""
    evaluation = report.evaluation
    best, worst = best_and_worst(evaluation.products)
    parts = [
        sentence(evaluation),
        score_table(report),
        *(
            f"## Error by {kind}\n\n{_slice_table(kind, predictors['tuned'])}"
            for kind, predictors in evaluation.slices.items()
        ),
        *([_evidence_section(report.evidence, evaluation)] if report.evidence else []),
        "## Charts\n\n"
        + "\n".join(f"![{chart.title}](charts/{name}.png)" for name, chart in CHARTS.items()),
        f"## Worst products\n\n{_product_table(worst)}",
        f"## Best products\n\n{_product_table(best)}",
        "## Tokens\n\n" + _pairs({k.replace("_", " "): v for k, v in report.tokens.items()}),
        "## Params\n\n" + _pairs(report.params),
        "## Data and code, as SHA-256 hashes\n\n" + _pairs(report.hashes),
    ]
    return "\n\n".join(parts) + "\n"


def _pairs(values: dict[str, Any]) -> str:
    return table(
        ["what", "value"],
        [[name, cell(str(value), longest=LONGEST)] for name, value in values.items()],
    )


def score_table(report: Report) -> str:
    """Return a Markdown table with a row for each predictor, the best first, and the floor."""
    columns = [(header, own) for header, own in LEADERBOARD if header in BRIEF]
    rows = [[own(row) for _, own in columns] for row in _ranked(report)]
    return table([header for header, _ in columns], rows)


def _evidence_section(facts: dict[str, dict[str, Any]], evaluation: Evaluation) -> str:
    pieces = [[split, *(own(those) for _, own in PIECES)] for split, those in facts.items()]
    bands = [
        [band, *(own(those) for _, own in LIKENESS)] for band, those in likeness(evaluation).items()
    ]
    parts = [
        f"## Evidence\n\n{ALONE}",
        table(["split", *(header for header, _ in PIECES)], pieces),
        *(f"Warning: {warning}." for warning in warnings(facts)),
        LOOKUP,
        table(["similarity", *(header for header, _ in LIKENESS)], bands),
    ]
    return "\n\n".join(parts)


def _slice_table(kind: str, groups: dict[str, Score]) -> str:
    rows = [[cell(group), *(own(score) for _, own in SLICES)] for group, score in groups.items()]
    return table([kind, *(header for header, _ in SLICES)], rows)


def _product_table(products: list[dict[str, Any]]) -> str:
    rows = [
        [cell(row["title"], longest=100), *(own(row) for _, own in PRODUCTS)] for row in products
    ]
    return table(["product", *(header for header, _ in PRODUCTS)], rows)
