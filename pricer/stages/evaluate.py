"""evaluate: scores in dollars, slices, charts with their data, one report."""

from pathlib import Path

import pandas as pd

from pricer.errors import PricerError
from pricer.evidence.table import read_evidence
from pricer.files import read_facts, write_json, writing
from pricer.judging.asked import read_all_asked
from pricer.judging.charts import CURVES, Drawing, draw_charts, plot_data
from pricer.judging.evaluation import evaluate_run, scores_json, with_asked
from pricer.judging.leaderboard import leaderboard, published_scores
from pricer.judging.paired import Bootstrap, flat
from pricer.judging.report import Report, html_report, markdown_report, sentence
from pricer.params import flat_params, read_params
from pricer.prices.predictions import read_baselines, read_predictions
from pricer.products.items import SPLITS, read_items
from pricer.provenance import code_hashes, file_sha256, folder_digest


def main(
    items_dir: Path,
    evidence_dir: Path,
    prompts_dir: Path,
    base_model_dir: Path,
    adapter_dir: Path,
    predictions_dir: Path,
    metrics_dir: Path,
) -> None:
    """Write scores, slices, charts, their data and the report to `metrics_dir`.

    What earlier stages have left there, of items, evidence, prompts and training, is read.
    """
    params = read_params()
    facts, evidence, tokens = (
        read_facts(metrics_dir / f"{name}.json") for name in ("items", "evidence", "prompts")
    )
    plots = metrics_dir / "train" / "plots" / "metrics"
    curves = {name: _read_curve(plots / f"{name}.tsv") for name in CURVES}
    files = {name: predictions_dir / f"{name}.parquet" for name in ("tuned", "base", "baselines")}
    bootstrap = Bootstrap(params.evaluate.bootstrap_resamples, params.evaluate.seed)
    items = read_items(items_dir, "test")
    evaluation = evaluate_run(
        items,
        {name: read_predictions(files[name], str(files[name])) for name in ("tuned", "base")},
        read_baselines(files["baselines"], str(files["baselines"])),
        read_evidence(evidence_dir, "test"),
        bootstrap,
    )
    evaluation = with_asked(evaluation, read_all_asked(metrics_dir / "api", items), bootstrap)
    published = published_scores(facts.get("dataset"))
    rows = leaderboard(evaluation, published)
    drawing = Drawing(evaluation, rows, curves)
    write_json(metrics_dir / "evaluate.json", scores_json(evaluation))
    write_json(metrics_dir / "slices.json", flat(evaluation.slices))
    with writing(metrics_dir / "plots", folder=True) as partial:
        for name, table in plot_data(drawing).items():
            write_json(partial / f"{name}.json", table.to_dict(orient="records"))
    with writing(metrics_dir / "charts", folder=True) as partial:
        draw_charts(partial, drawing)
    folders = (items_dir, evidence_dir, prompts_dir, base_model_dir, adapter_dir)
    is_told = params.evidence.neighbors or params.evidence.words
    report = Report(
        evaluation,
        rows,
        published,
        evidence={split: evidence[split] for split in SPLITS} if is_told else None,
        tokens=tokens,
        params=flat_params(dict(params)),
        hashes={str(folder): folder_digest(folder) for folder in folders}
        | {str(file): file_sha256(file) for file in files.values()}
        | code_hashes(),
    )
    with writing(metrics_dir / "report.html") as partial:
        partial.write_text(html_report(report, metrics_dir / "charts"), encoding="utf-8")
    with writing(metrics_dir / "report.md") as partial:
        partial.write_text(markdown_report(report), encoding="utf-8")
    print(sentence(evaluation))


def _read_curve(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, sep="\t")
        return table[["step", path.stem]].astype(float)
    except (KeyError, OSError, ValueError) as error:
        raise PricerError(
            f"{path} is damaged ({error}): `git checkout {path}` brings it back"
        ) from None
