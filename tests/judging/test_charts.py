"""The table of charts, and `dvc plots`, which draws some of them for any two revisions."""

import subprocess
import sys
from dataclasses import replace
from unittest.mock import ANY

from ruamel.yaml import YAML

from pricer.files import write_json
from pricer.judging.charts import CHARTS, draw_slices, plot_data
from pricer.judging.metrics import category_groups
from tests.conftest import ROOT
from tests.judging.conftest import HOSTILE


def test_dvc_plots_draws_what_the_charts_have_data_for(drawing):
    data = plot_data(drawing)
    assert set(data) == {name for name, chart in CHARTS.items() if chart.data}
    plots = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["plots"]
    drawn = set()
    for plot in plots:
        for definition in plot.values() if isinstance(plot, dict) else ():
            for path, columns in definition["y"].items():
                name = path.removeprefix("metrics/plots/").removesuffix(".json")
                if f"metrics/plots/{name}.json" == path:
                    drawn.add(name)
                    wanted = {columns} if isinstance(columns, str) else set(columns)
                    assert wanted | {definition["x"]} <= set(data[name]), path
    assert drawn == set(data)


def test_the_data_of_a_plot_are_thinned_out_evenly(drawing):
    for name, table in plot_data(drawing).items():
        assert 0 < len(table) <= 1000 and table.notna().all(axis=None), name


def test_no_category_is_more_than_text_in_the_page_of_dvc_plots(drawing, tmp_path):
    """DVC writes the data into a script: a category that ends it would begin one of its own."""
    [score, *_] = drawing.evaluation.slices["category"]["tuned"].values()
    [name] = set(category_groups([HOSTILE]))
    slices = {kind: {"tuned": {name: score}} for kind in drawing.evaluation.slices}
    hostile = replace(drawing, evaluation=replace(drawing.evaluation, slices=slices))
    data = plot_data(hostile)["error_by_category"].to_dict(orient="records")
    assert data == [{"category": "| `rm` ‹script>alert(1)‹/sc…", "mae_usd": ANY}]
    write_json(tmp_path / "a.json", data)
    (tmp_path / "dvc.yaml").write_text("plots: [{a.json: {x: mae_usd, y: category}}]")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\nno_scm = true\n")
    show = [sys.executable, "-m", "dvc", "plots", "show", "-q", "-o", "page"]
    subprocess.run(show, cwd=tmp_path, check=True)
    page = (tmp_path / "page/index.html").read_text(encoding="utf-8")
    assert "\\u2039script>alert" in page and "<script>alert" not in page


def test_long_categories_leave_room_for_the_bars_and_stay_apart(drawing):
    long = ["Home " * 60 + "A", "Home " * 60 + "B", "e" + "\u0301" * 300, "א" * 300]
    names = list(dict.fromkeys(category_groups([*long, *long])))
    assert len(names) == 4 and max(map(len, names)) <= 32
    assert names[0][-1] == "…" and names[1] == f"{names[0]} (2)"
    [score, *_] = drawing.evaluation.slices["category"]["tuned"].values()
    slices = {"category": {"tuned": dict.fromkeys(names, score)}}
    figure = draw_slices(
        replace(drawing, evaluation=replace(drawing.evaluation, slices=slices)), "category"
    )
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().width > 0.4
