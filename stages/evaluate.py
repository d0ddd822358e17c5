"""evaluate: scores in dollars, slices, charts with their data, one report."""

import json
from pathlib import Path
from typing import Any

from pricer.files import read_parquet, write_json, writing
from pricer.judging.evaluation import evaluate_run, plot_data
from pricer.judging.report import (
    Report,
    code_hashes,
    data_hashes,
    draw_charts,
    html_report,
    markdown_report,
    published_scores,
    sentence,
)
from pricer.params import flat_params, read_params
from pricer.products.items import read_items


def main(
    items_dir: Path,
    items_metrics: Path,
    prompts_metrics: Path,
    curves_dir: Path,
    predictions_dir: Path,
    lock_file: Path,
    metrics_dir: Path,
) -> None:
    """Write scores, slices, charts, their data and the report to `metrics_dir`."""
    params = read_params()
    evaluation = evaluate_run(
        read_items(items_dir, "test"),
        {name: read_parquet(predictions_dir / f"{name}.parquet") for name in ("tuned", "base")},
        read_parquet(predictions_dir / "baselines.parquet"),
        resamples=params.evaluate.bootstrap_resamples,
        seed=params.evaluate.seed,
    )
    published = published_scores(_read_json(items_metrics).get("dataset"))
    floor = {} if evaluation.floor_mae is None else {"floor_mae": evaluation.floor_mae}
    scores = dict(evaluation.scores)
    write_json(metrics_dir / "evaluate.json", scores.pop("tuned") | floor | scores)
    write_json(metrics_dir / "slices.json", evaluation.slices)
    with writing(metrics_dir / "plots", folder=True) as partial:
        for name, table in plot_data(evaluation).items():
            write_json(partial / f"{name}.json", table.to_dict(orient="records"))
    with writing(metrics_dir / "charts", folder=True) as partial:
        draw_charts(partial, evaluation, published, curves_dir)
    report = Report(
        evaluation,
        published,
        tokens=_read_json(prompts_metrics),
        params=flat_params(dict(params)),
        hashes=data_hashes(lock_file) | code_hashes(),
    )
    with writing(metrics_dir / "report.html") as partial:
        partial.write_text(html_report(report, metrics_dir / "charts"), encoding="utf-8")
    with writing(metrics_dir / "report.md") as partial:
        partial.write_text(markdown_report(report), encoding="utf-8")
    print(sentence(evaluation))


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
