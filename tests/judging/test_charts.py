"""The table of charts, and `dvc plots`, which draws some of them for any two revisions."""

from ruamel.yaml import YAML

from pricer.judging.charts import CHARTS, plot_data
from tests.conftest import ROOT


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
