"""The report: scores, slices, charts and products, as one HTML page and as Markdown."""

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from ruamel.yaml import YAML

from pricer.judging import charts
from pricer.judging.evaluation import Evaluation
from pricer.provenance import code_files
from pricer.tables import signed, signed_interval, table, usd

FOLDER = Path(__file__).parent

LABELS = {
    "tuned": "tuned model",
    "base": "base model",
    "mean": "mean price",
    "median": "median price",
    "category_median": "median of its category",
    "ridge": "ridge on words",
    "ridge_log": "ridge on words, log price",
    "boosted_trees": "boosted trees",
    "nearest_neighbors": "nearest neighbours",
}

SHOWN = 20  # best and worst products
LONGEST = 600  # characters of a product's text that are shown


# in the order of the page; `metrics/charts/NAME.png`
CHARTS = {
    "leaderboard": "Mean absolute error of every predictor, with its 95% interval",
    "scatter": "Predicted against true prices",
    "residuals": "Signed errors against true prices",
    "running_error": "Mean absolute error over the first products, with its 95% band",
    "error_by_price": "Error by price",
    "error_by_category": "Error by category",
    "calibration": "Predicted quantiles against the share of prices below them",
    "interval_widths": "Calibrated 80% intervals",
    "losses": "Losses while training",
}


@dataclass(frozen=True)
class Published:
    """Published mean absolute errors (USD) by predictor on a dataset, and where they come from."""

    source: str
    recorded: str
    mae: dict[str, float]


@dataclass(frozen=True)
class Report:
    """What a report tells beside the evaluation itself.

    Attributes:
        evaluation: what was measured.
        published: what others have measured on the same dataset, if that is known.
        tokens: what `products.prompts.token_statistics` returns.
        params: every param by its dotted key.
        hashes: MD5 of data and code, by path.
    """

    evaluation: Evaluation
    published: Published | None
    tokens: dict[str, Any]
    params: dict[str, Any]
    hashes: dict[str, str]


def published_scores(dataset: str | None) -> Published | None:
    """Return what is published for items of `dataset`; None for all other items.

    Numbers on other products are never put side by side.
    """
    known = json.loads((FOLDER / "published_scores.json").read_text(encoding="utf-8"))
    if dataset not in known.pop("datasets"):
        return None
    return Published(**known)


def data_hashes(lock_file: Path) -> dict[str, str]:
    """Return the MD5 of everything below `data/`, as DVC recorded it when it was made."""
    stages = YAML(typ="safe", pure=True).load(lock_file.read_text(encoding="utf-8"))["stages"]
    hashes = {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}
    return {path: md5 for path, md5 in sorted(hashes.items()) if path.startswith("data/")}


def code_hashes() -> dict[str, str]:
    """Return the MD5 of each of the library's files that this process has loaded, as DVC has it."""
    return {
        f"pricer/{path}": hashlib.md5(file.read_bytes()).hexdigest()
        for path, file in code_files().items()
    }


def sentence(evaluation: Evaluation) -> str:
    """Say the result, compared with the best predictor without a language model."""
    scores = evaluation.scores
    tuned = scores["tuned"]
    text = (
        f"The tuned model is off by ${tuned['mae']:.2f} on average "
        f"(95% interval {tuned['mae_ci_low']:.2f} to {tuned['mae_ci_high']:.2f}) "
        f"on {tuned['n']:,} test products"
    )
    best = min(set(scores) - {"tuned", "base"}, key=lambda name: (scores[name]["mae"], name))
    gap = scores[best]["tuned_less_this"]
    if gap["mae_ci_low"] <= 0 <= gap["mae_ci_high"]:
        return f"{text}, not measurably different from {LABELS[best]}."
    word = "better" if gap["mae"] < 0 else "worse"
    low, high = sorted((abs(gap["mae_ci_low"]), abs(gap["mae_ci_high"])))
    return (
        f"{text}, ${abs(gap['mae']):.2f} {word} ({low:.2f} to {high:.2f}) "
        f"than {LABELS[best]}, the best predictor without a language model."
    )


def leaderboard(evaluation: Evaluation, published: Published | None) -> list[dict[str, Any]]:
    """Return a row for each predictor, published ones included, the best first."""
    rows: list[dict[str, Any]] = [
        {"name": name, "label": LABELS[name], "published": False} | score
        for name, score in evaluation.scores.items()
    ]
    if published:
        rows += [
            {"name": name, "label": f"{name} (published)", "published": True, "mae": mae}
            for name, mae in published.mae.items()
        ]
    return sorted(rows, key=lambda row: float(row["mae"]))


def draw_charts(
    folder: Path, evaluation: Evaluation, published: Published | None, curves_dir: Path
) -> None:
    """Draw every chart of CHARTS.

    Args:
        folder: where the PNG files go.
        evaluation: what was measured.
        published: what is shown in grey in the leaderboard.
        curves_dir: where training left its curves.
    """
    tuned, products = evaluation.scores["tuned"], evaluation.products
    truth, estimate, verdict = products["price"], products["estimate"], products["verdict"]
    title = f"Tuned model: MAE {usd(tuned['mae'])} (95% {tuned['mae_ci_low']:.2f}"
    title += f" to {tuned['mae_ci_high']:.2f}), n = {tuned['n']:,}"
    rows = leaderboard(evaluation, published)
    charts.leaderboard(folder / "leaderboard.png", rows, evaluation.floor_mae, tuned["n"])
    charts.scatter(folder / "scatter.png", truth, estimate, verdict, title)
    charts.residuals(folder / "residuals.png", truth, estimate, verdict)
    charts.running_error(folder / "running_error.png", products["error"].abs(), title)
    for kind, predictors in evaluation.slices.items():
        charts.slices(folder / f"error_by_{kind}.png", predictors["tuned"], kind)
    charts.calibration(folder / "calibration.png", products["pit"])
    charts.interval_widths(folder / "interval_widths.png", products)
    curves = curves_dir / "plots" / "metrics"
    charts.losses(
        folder / "losses.png",
        pd.read_csv(curves / "train_loss.tsv", sep="\t"),
        pd.read_csv(curves / "validation_loss.tsv", sep="\t"),
    )


def best_and_worst(products: pd.DataFrame) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the products of least and of most absolute error, as rows."""
    order = products["error"].abs().sort_values(kind="stable").index
    ranked = products.loc[order].assign(
        summary=products["summary"].map(
            lambda text: text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
        )
    )
    rows: list[dict[str, Any]] = ranked.to_dict(orient="records")  # type: ignore[assignment]
    return rows[:SHOWN], rows[::-1][:SHOWN]


def html_report(report: Report, charts_dir: Path) -> str:
    """Return the report as a page of its own: no script, nothing loaded, every text escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"usd": usd, "signed": signed, "signed_interval": signed_interval}
    evaluation = report.evaluation
    best, worst = best_and_worst(evaluation.products)
    return environment.get_template("report.html.jinja").render(
        headline=evaluation.scores["tuned"],
        floor_mae=evaluation.floor_mae,
        sentence=sentence(evaluation),
        leaderboard=leaderboard(evaluation, report.published),
        slices={kind: predictors["tuned"] for kind, predictors in evaluation.slices.items()},
        charts=[(title, _data_url(charts_dir / f"{name}.png")) for name, title in CHARTS.items()],
        best=best,
        worst=worst,
        published=report.published,
        tokens=report.tokens,
        params=report.params,
        hashes=report.hashes,
    )


def _data_url(png: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(png.read_bytes()).decode()


def markdown_report(report: Report) -> str:
    """Return the report as Markdown; the result and the leaderboard come first."""
    evaluation = report.evaluation
    best, worst = best_and_worst(evaluation.products)
    parts = [
        sentence(evaluation),
        score_table(evaluation, report.published),
        *(
            f"## Error by {kind}\n\n{_slice_table(kind, predictors['tuned'])}"
            for kind, predictors in evaluation.slices.items()
        ),
        "## Charts\n\n"
        + "\n".join(f"![{title}](charts/{name}.png)" for name, title in CHARTS.items()),
        f"## Worst products\n\n{_product_table(worst)}",
        f"## Best products\n\n{_product_table(best)}",
        "## Tokens\n\n" + _pairs({k.replace("_", " "): v for k, v in report.tokens.items()}),
        "## Params\n\n" + _pairs(report.params),
        "## Data and code, as MD5 hashes\n\n" + _pairs(report.hashes),
    ]
    return "\n\n".join(parts) + "\n"


def _pairs(values: dict[str, Any]) -> str:
    return table(["what", "value"], [[name, f"`{value}`"] for name, value in values.items()])


def score_table(evaluation: Evaluation, published: Published | None) -> str:
    """Return a Markdown table with a row for each predictor, the best first."""
    rows = [
        [
            row["label"],
            usd(row["mae"]),
            "" if row["published"] else f"{row['mae_ci_low']:.2f} to {row['mae_ci_high']:.2f}",
            "" if row["published"] else f"{row['r2']:.2f}",
            signed_interval(row["tuned_less_this"]) if "tuned_less_this" in row else "",
        ]
        for row in leaderboard(evaluation, published)
    ]
    if evaluation.floor_mae is not None:
        rows.append(["floor", usd(evaluation.floor_mae), "", "", ""])
    return table(["predictor", "MAE", "95% interval", "R²", "tuned less this"], rows)


def _slice_table(kind: str, groups: dict[str, dict[str, Any]]) -> str:
    rows = [
        [
            name,
            str(own["n"]),
            usd(own["mae"]),
            f"{own['mae_ci_low']:.2f} to {own['mae_ci_high']:.2f}",
            signed(own["bias"]),
            f"{own['coverage_80']:.0%}",
        ]
        for name, own in groups.items()
    ]
    return table([kind, "n", "MAE", "95% interval", "bias", "80% intervals hold"], rows)


def _product_table(products: list[dict[str, Any]]) -> str:
    rows = [
        [
            _plain(row["title"]),
            usd(row["price"]),
            usd(row["estimate"]),
            f"{usd(row['low_80'])} to {usd(row['high_80'])}",
        ]
        for row in products
    ]
    return table(["product", "price", "estimate", "80% interval"], rows)


def _plain(text: str) -> str:
    """Return a product's text as one line that Markdown shows as it is."""
    line = " ".join(text.split())[:100]
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]<>#!&~" else letter for letter in line)
