"""`pricer monitor` on what a pipeline left and on a log, as a user runs it."""

import hashlib
import json
import sqlite3
import uuid
from contextlib import closing
from datetime import UTC, datetime, timedelta
from math import log1p
from pathlib import Path

import pandas as pd
import pytest

from pricer.errors import ItemsError
from pricer.monitoring.observed import read_file
from pricer.prices.record import model_sha256, read_record, write_record
from pricer.products.readers import read_tables
from pricer.serving.log import Log, Selection
from pricer.serving.meters import Monitored
from pricer.serving.schemas import Product
from pricer.workspace import Workspace
from tests.pipeline.conftest import Project
from tests.pipeline.conftest import reproduced as reproduced
from tests.serving.conftest import Postgres
from tests.serving.conftest import postgres as postgres

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
N = 60


def row(number: int, **changes: object) -> dict[str, object]:
    text = f"Kettle number {number}, steel"
    told = {
        "id": uuid.uuid5(uuid.NAMESPACE_OID, str(number)).hex,
        "created_at": BEGIN + timedelta(hours=number),
        "variant": "tuned",
        "model_sha256": "a" * 64,
        "assignment": "default",
        "shadow_of": None,
        "subject_sha256": "0" * 64,
        "description": text,
        "description_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "category": "Kitchen",
        "kind": "median",
        "estimate_usd": 20.0 + number,
        "level": 80,
        "low_usd": 10.0 + number,
        "high_usd": 30.0 + number,
        "calibrated": True,
        "price_mass": 0.99,
        "truncated": False,
        "expected_error_usd": 5.0,
        "quantiles_usd": [10 + number + step for step in range(19)],
        "neighbors": [{"title": "A kettle", "price_usd": 19.0, "similarity": 0.5}],
        "words_estimate_usd": 20.0,
        "fallback": None,
    }
    return told | changes


def filled(database: str, model: str = "a" * 64) -> Log:
    """A log: N estimates by one model, prices $4 above for half; then by others and a shadow."""
    log = Log(database)
    rows = [row(number, model_sha256=model) for number in range(N)]
    log.add(rows)
    log.add([row(1_000, variant="b"), row(1_001, model_sha256="b" * 64, created_at=BEGIN)])
    answer = str(rows[0]["id"])
    log.add([row(1_002, variant="b", assignment="shadow", shadow_of=answer)])
    log.add_outcomes([(str(one["id"]), float(one["estimate_usd"]) + 4) for one in rows[::2]])
    log.add_outcomes([(answer, 50.0)])
    return log


@pytest.fixture(scope="module")
def project(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    copied = reproduced.copy(tmp_path_factory.mktemp("monitored") / "project")
    file = copied.folder / "data/serving/tuned.json"
    record = read_record(file)
    assert record.calibration
    moved = record.calibration.model_copy(update={"intercept": 0.5, "slope": 0.9})
    record = record.model_copy(update={"calibration": moved})
    write_record(file, record)
    served = model_sha256(record)
    filled(str(copied.folder / "data/estimates.sqlite"), served).close()
    filled(str(copied.folder / "other.sqlite")).close()
    with closing(sqlite3.connect(copied.folder / "foreign.sqlite")) as foreign:
        foreign.execute("CREATE TABLE theirs (id INTEGER)")
    return copied


def test_a_log_gives_each_estimate_with_the_newest_outcome(tmp_path, postgres: Postgres):
    for database in (str(tmp_path / "log.sqlite"), postgres.url):
        log = filled(database)
        assert log.newest_model("tuned") == "a" * 64 and log.newest_model("nobody") is None
        asked = Selection("tuned", "a" * 64)
        assert log.count(asked) == N
        [estimates] = log.estimates_of(asked)
        [outcomes] = log.outcomes_of(asked)
        assert list(estimates["estimate_usd"]) == [20.0 + number for number in range(N)]
        assert list(estimates["similarity"]) == [0.5] * N
        assert len(outcomes["price_usd"]) == N // 2 and outcomes["price_usd"][-1] == 50.0
        # the outcome of an answer is that of the shadow beside it
        [beside] = log.outcomes_of(Selection("b", "a" * 64))
        assert beside["price_usd"] == (50.0,)
        ten = Selection("tuned", "a" * 64, BEGIN + timedelta(hours=10), BEGIN + timedelta(hours=20))
        [part] = log.estimates_of(ten)
        assert len(part["estimate_usd"]) == log.count(ten) == 10
        # as many descriptions are read as outcomes allow, where they are more than estimates
        assert log.count(Selection("tuned", "a" * 64, datetime.now(UTC) - timedelta(days=1))) == 31
        few = Selection("tuned", "a" * 64, described=0.25)
        described = [one for part in log.estimates_of(few) for one in part["description"] if one]
        assert 0 < len(described) < N
        log.close()


def test_a_log_is_compared_with_an_earlier_period_of_it(project):
    reference = "2026-11-01..2026-11-02T12:00"
    done = project.run(
        *("pricer", "monitor", "--since", "2026-11-02T12:00", "--reference", reference)
    )
    assert "24 products (24 estimates), 30 with an outcome, against 36" in done.stdout
    # hour after hour the estimate is a dollar higher
    assert "estimates: ALERT" in done.stdout and "estimates are higher" in done.stdout
    assert "such as: Kettle number 59, steel" in done.stdout
    told = json.loads(
        project.run(
            *("pricer", "monitor", "--since", "2026-11-02T12:00"),
            *("--reference", reference, "--format", "json"),
        ).stdout
    )
    assert told["checks"]["estimate"]["alarmed"] and told["alerts"] >= 1
    assert told["figures"]["mae"]["n"] == 30
    failed = project.run(
        *("pricer", "monitor", "--since", "2026-11-02T12:00"),
        *("--reference", reference, "--fail-on", "alert"),
        ok=False,
    )
    assert failed.returncode == 2


def test_a_predictions_file_is_compared_with_the_validation_split(project):
    done = project.run("pricer", "monitor", "data/predictions/tuned_validation.parquet")
    assert "12 with an outcome" in done.stdout and "too few products to compare" in done.stdout
    table = pd.read_parquet(project.folder / "data/predictions/tuned_validation.parquet")
    for suffix in ("csv", "jsonl"):
        file = project.folder / f"mine.{suffix}"
        own = table.assign(summary=[f"Thing {one}" for one in table["id"]])
        own["fallback"] = ["timeout"] + [None] * (len(own) - 1)
        if suffix == "csv":
            own.to_csv(file, index=False)
        else:
            own.to_json(file, orient="records", lines=True)
        told = json.loads(project.run("pricer", "monitor", str(file), "--format", "json").stdout)
        assert told["period"]["n"] == told["period"]["outcomes"] == len(table)
        # what a file says is no part of the log's report
        assert (project.folder / "data/monitor/mine/monitor.json").exists()


def test_what_a_file_says_of_reasons_times_and_neighbours_is_read_as_meant(tmp_path):
    rows = pd.DataFrame({"summary": [f"Thing {n}" for n in range(5)], "estimate_usd": 10.0})
    rows["fallback"] = ["timeout", "", "False", None, "0"]
    rows["category"] = ["Kitchen", "", None, "Baby", "Baby"]
    rows["neighbors"] = ['[{"similarity": 0.5}]', "[]", "5", '["a"]', ""]
    rows["created_at"] = ["2026-11-01T10:00:00Z", "2026-11-01T12:00:00.5+01:00", "", None, None]
    rows.to_csv(tmp_path / "mine.csv", index=False)
    table = read_file(tmp_path / "mine.csv", Workspace(tmp_path)).estimates.set_index("text")
    told = table.loc[[f"Thing {n}" for n in range(5)]]
    assert told["fallback"].tolist() == [1, 0, 0, 0, 0]
    assert told["category"].tolist() == ["Kitchen", None, None, "Baby", "Baby"]
    assert told["similarity"].fillna(-1).tolist() == [0.5, 0, -1, -1, -1]
    assert told["at"].notna().tolist() == [True, True, False, False, False]
    for column, wrong in (("price_usd", -3.0), ("price_usd", 0), ("estimate_usd", 1e12)):
        rows.assign(**{column: wrong}).to_csv(tmp_path / "w.csv", index=False)
        with pytest.raises(ItemsError, match=f"{column} must be .* dollars, got .* .5 of 5 are"):
            read_file(tmp_path / "w.csv", Workspace(tmp_path))
    for wrong in ("soon", 1_793_527_200_000):
        rows.assign(created_at=wrong).to_json(tmp_path / "w.jsonl", orient="records", lines=True)
        with pytest.raises(ItemsError, match="created_at must be a time such as"):
            read_file(tmp_path / "w.jsonl", Workspace(tmp_path))


def test_data_that_are_missing_are_told_with_what_brings_them_back(project, tmp_path):
    other = project.copy(tmp_path / "other")
    for name in ("evidence", "prompts"):
        (other.folder / f"data/{name}/test.parquet").unlink()
        failed = other.run("pricer", "monitor", "data/predictions/tuned.parquet", ok=False)
        assert failed.stderr.startswith(f"pricer: data/{name}/test.parquet is missing: run")
        other.run("dvc", "checkout", f"data/{name}")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["none.csv"], "none.csv: no such file"),
        (["data/items/test.parquet"], "no column estimate_usd"),
        (["--since", "soon"], "--since 'soon': must be a date"),
        (["--variant", "nobody"], "no estimate by 'nobody' in this period"),
        (["--database", "none.sqlite"], "there is no log"),
        (["data/predictions/tuned.parquet", "--since", "7d"], "a file is read whole"),
        (["--reference", "none.parquet"], "none.parquet is missing"),
        (["--database", "other.sqlite"], "is a model that no record in data/serving is of"),
        (["--database", "foreign.sqlite"], "foreign.sqlite: is no log, `pricer serve` writes one"),
        (["--output", "metrics"], "--output metrics: holds another report"),
        (["--window", "0d"], "--window '0d': must be 7d"),
        (["--output", "params.yaml"], "--output params.yaml: is a file"),
        (["--reference", "2020-01-01..2020-02-01"], "estimated nothing then"),
        (["--since", "0001-01-01T00:00+02:00"], "is before all calendars"),
        (["--export-items", "none/items.jsonl"], "there is no folder none"),
        (["data/predictions/tuned.parquet", "--recalibrate"], "a file is read whole"),
        (["--until", "2026-11-01T05:00", "--recalibrate"], "0 outcomes of the model's own"),
    ],
)
def test_what_cannot_be_monitored_is_told_in_one_line(project, arguments, reason):
    failed = project.run("pricer", "monitor", *arguments, ok=False)
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1
    assert reason in failed.stderr and Path(project.folder).exists()


def test_a_report_is_written_as_page_markdown_and_json(project):
    told = json.loads(
        project.run(
            *("pricer", "monitor", "--window", "12h", "--format", "json", "--output", "reports/one")
        ).stdout
    )
    folder = project.folder / "reports/one"
    assert json.loads((folder / "monitor.json").read_text()) == told
    page, text = ((folder / name).read_text() for name in ("report.html", "report.md"))
    # outcomes came now, estimates at the hours of BEGIN
    assert sum(one["estimates"] for one in told["over_time"]) == N
    assert {one["estimates"] for one in told["over_time"][1:-2]} == {12}
    assert told["over_time"][-1]["outcomes"] == 30 and told["over_time"][-1]["estimates"] == 0
    assert told["over_time"][-1]["figures"]["mae"]["value"] == told["figures"]["mae"]["value"]
    assert told["groups"]["By category"] == [
        {
            "name": "Kitchen",
            "estimates": N,
            "outcomes": 30,
            "figures": told["groups"]["By category"][0]["figures"],
        }
    ]
    # the first was $30 off in the end, the 29 others $4
    assert told["figures"]["mae"]["value"] == pytest.approx((30 + 29 * 4) / 30)
    for shown in (page, text):
        assert "Over time" in shown and "perhaps only of what was sold" in shown
        assert "$4.87" in shown
    assert "<script" not in page and 'src="http' not in page and "data:image/png" in page


def test_intervals_are_recalibrated_in_a_new_record(project):
    old = project.folder / "data/serving/tuned.json"
    before = old.read_bytes()
    done = project.run("pricer", "monitor", "--recalibrate")
    assert "pricer serve --record data/serving/tuned-2.json" in done.stderr
    assert old.read_bytes() == before
    new = read_record(project.folder / "data/serving/tuned-2.json")
    assert new.calibration and new.calibration.n == 30
    assert set(new.calibration.offsets) == {str(level) for level in range(10, 91)}
    # of 30 products, 25 must lie within an interval of 80%: the price is 24 + i, the model's
    # quantiles from 5% to 95% are 10 + i to 28 + i, but for the one that sold for $50
    lengths = sorted(
        max(log1p(11 + i) - log1p(24 + i), log1p(24 + i) - log1p(27 + i)) for i in range(2, N, 2)
    )
    assert new.calibration.offsets["80"] == pytest.approx(lengths[24])
    assert (new.calibration.intercept, new.calibration.slope) == (0.5, 0.9)  # medians stay
    assert new.model_copy(update={"calibration": None}) == read_record(old).model_copy(
        update={"calibration": None}
    )
    # what was recalibrated is served, and can be recalibrated again
    project.run("pricer", "monitor", "--recalibrate")
    assert (project.folder / "data/serving/tuned-3.json").exists()
    log = Log(str(project.folder / "new.sqlite"))
    log.add([row(number, model_sha256=model_sha256(new)) for number in range(N)])
    log.close()
    project.run("pricer", "monitor", "--database", "new.sqlite")


def product(**parts: str) -> str:
    return Product(**parts).text


def test_products_with_outcomes_go_back_into_training(project):
    trained = pd.read_parquet(project.folder / "data/items/train.parquet").iloc[0]
    judged = pd.read_parquet(project.folder / "data/items/test.parquet").iloc[0]
    served = model_sha256(read_record(project.folder / "data/serving/tuned.json"))
    log = Log(str(project.folder / "sold.sqlite"))
    [_, second, third] = pd.read_parquet(project.folder / "data/items/test.parquet")[
        "summary"
    ].head(3)
    texts = [
        # as a pipeline's text is, and as a service writes a product told in parts
        *(trained["summary"].upper(), product(title=judged["title"], description="another text")),
        *(product(category="K", description=second), third.split("Description: ")[1]),
        *(product(title="A new kettle", category="K", description="1.7 litres"),) * 2,
        *(None, "A free kettle"),
    ]
    rows = [row(number, model_sha256=served, description=text) for number, text in enumerate(texts)]
    log.add(rows)
    prices = (10.0, 20.0, 15.0, 15.0, 30.004, 35.0, 40.0, 0.001)
    log.add_outcomes([(str(one["id"]), price) for one, price in zip(rows, prices, strict=True)])
    log.close()
    done = project.run(
        *("pricer", "monitor", "--database", "sold.sqlite", "--export-items", "sold.jsonl")
    )
    assert (
        "sold.jsonl: 1 products; left out 1 without a description, 1 sold again later, "
        "4 in the pipeline's splits, 1 price outside min_price..max_price" in done.stderr
    )
    [table] = read_tables(project.folder / "sold.jsonl", 10)
    assert table.to_dict(orient="records") == [
        {
            "title": "A new kettle",
            "category": "Kitchen",
            "price": 35.0,
            "summary": "Title: A new kettle\nCategory: K\nDescription: 1.7 litres",
        }
    ]
    # what is there is not written over, nor with anything but items
    for name in ("sold.jsonl", "sold.csv"):
        failed = project.run(
            *("pricer", "monitor", "--database", "sold.sqlite", "--export-items", name), ok=False
        )
        assert f"--export-items {name}: must be a new file that ends in .jsonl" in failed.stderr
    log = Log(str(project.folder / "hashed.sqlite"))
    rows = [row(number, model_sha256=served, description=None) for number in range(3)]
    log.add(rows)
    log.add_outcomes([(str(one["id"]), 9.0) for one in rows])
    log.close()
    failed = project.run(
        *("pricer", "monitor", "--database", "hashed.sqlite", "--export-items", "none.jsonl"),
        ok=False,
    )
    assert "the log holds no descriptions" in failed.stderr
    assert not (project.folder / "none.jsonl").exists()


def test_the_newest_report_is_read_at_metrics(tmp_path):
    file = tmp_path / "monitor.json"
    gauges = Monitored(file)
    assert list(gauges.collect()) == []
    told = {
        "checks": {"words": {"alarmed": True}, "error": {"alarmed": False}},
        "figures": {"mae": {"value": 4.5}},
    }
    file.write_text(json.dumps(told))
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in gauges.collect()
        for sample in family.samples
    }
    assert found.pop(("pricer_monitor_timestamp_seconds",)) == file.stat().st_mtime
    assert found == {
        ("pricer_monitor_alert", "words"): 1.0,
        ("pricer_monitor_alert", "error"): 0.0,
        ("pricer_monitor_figure", "mae"): 4.5,
    }
    nested = '{"checks": ' + "[" * 100_000
    for damaged in ("", "[]", "{}", '{"checks": {"words": 1}, "figures": {}}', nested):
        file.write_text(damaged)
        assert list(gauges.collect()) == []
