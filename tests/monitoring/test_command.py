"""`pricer monitor` on what a pipeline left and on a log, as a user runs it."""

import hashlib
import json
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from pricer.serving.log import Log, Selection
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


def filled(database: str) -> Log:
    """A log: N estimates by one model, prices $4 above for half; then by others and a shadow."""
    log = Log(database)
    rows = [row(number) for number in range(N)]
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
    filled(str(copied.folder / "data/estimates.sqlite")).close()
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
    ],
)
def test_what_cannot_be_monitored_is_told_in_one_line(project, arguments, reason):
    failed = project.run("pricer", "monitor", *arguments, ok=False)
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1
    assert reason in failed.stderr and Path(project.folder).exists()
