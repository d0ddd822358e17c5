"""The log loses nothing that was answered, whatever becomes of the process or the database."""

import asyncio
import random
import resource
import signal
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from pricer.serving import log
from pricer.serving.log import Log, LogError
from tests.pipeline.conftest import wait_until
from tests.serving.stubs import StubPredictor, ask, question, service_of

from .conftest import DEADLINE_S, KETTLE, Running, serving


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "log.sqlite")
    return request.getfixturevalue("postgres").url


def ids(database: str) -> set[str]:
    """Return which estimates are in a log, read by the database's own means."""
    if "://" not in database:
        with closing(sqlite3.connect(database)) as connection:
            return {one for (one,) in connection.execute("select id from estimates")}
    import psycopg

    with psycopg.connect(database) as connection:
        return {one for (one,) in connection.execute("select id from estimates")}


def load(running: Running, clients: int) -> tuple[list[str], list[threading.Thread]]:
    """Ask without end in several threads; give the ids that came, which grow."""
    answered: list[str] = []

    def ask(number: int) -> None:
        with running.client() as client:
            try:
                while True:
                    products = [{"description": f"{KETTLE} {number}"}, {"title": "Lamp"}]
                    told = client.post("/v1/estimates", json={"products": products})
                    if told.status_code == 200:
                        answered.extend(one["id"] for one in told.json()["estimates"])
            except Exception:  # the process is gone
                pass

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    return answered, threads


def answered_until_killed(shop, database: str, seconds: float) -> set[str]:
    """Kill a service under load, so long after its first answer; return what it had answered."""
    with serving(shop, "--database", database, ok=False) as running:
        answered, threads = load(running, clients=6)
        wait_until(lambda: len(answered) > 0, running.process)
        threading.Event().wait(seconds)
        running.process.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join(DEADLINE_S)
    assert running.process.returncode == -signal.SIGKILL
    return set(answered)


def test_a_killed_process_has_every_answered_estimate_in_the_log(shop, database, pytestconfig):
    kills = pytestconfig.getoption("serve_kills")
    seen: set[str] = set()
    for seed in range(kills):
        seen |= answered_until_killed(shop, database, random.Random(seed).uniform(0, 0.4))
        assert seen <= ids(database), seed
    assert len(seen) >= 2 * kills


def test_sigterm_answers_what_was_asked_and_ends_with_0(shop, database):
    """One product a pass, so that most of them still wait when it comes."""
    with serving(shop, "--database", database, "--batch-size", "1") as running:
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(running.estimate, *[KETTLE] * 20) for _ in range(8)]

            def all_asked() -> bool:  # seven requests have 140 products
                waiting = running.meter("pricer_queue_length")
                return waiting > 100 and waiting + running.meter("pricer_estimates_total") > 140

            wait_until(all_asked, running.process)
            running.process.send_signal(signal.SIGTERM)
            found = {one["id"] for answer in asked for one in answer.result()}
        assert running.process.wait(20) == 0
    assert len(found) == 160 and found <= ids(database)


def test_text_that_a_database_cannot_hold_spoils_nobodys_answer(shop, database):
    with serving(shop, "--database", database) as running, running.client() as client:
        for text in ("\x00", "a\x00b", "\ufffe\U0001f4a9", "\u202eabc"):
            product = {"title": f"Lamp {text}", "category": text, "description": text, "key": text}
            told = client.post("/v1/estimates", json={"products": [product]})
            assert told.status_code == 200, told.text


def test_a_row_that_is_refused_is_the_only_one(database):
    opened = Log(database)
    with service_of(opened, {"tuned": StubPredictor()}, batch_size=8, max_wait_ms=100) as service:

        async def together():
            fine = [asyncio.ensure_future(ask(service, f"fine {n}")) for n in range(3)]
            bad = replace(question("bad"), category="\ud800")  # in no encoding
            asked = service.estimate([bad], None, asyncio.Event().wait)
            with pytest.raises(UnicodeEncodeError):
                await asked
            return [await one for one in fine]

        assert len(asyncio.run(together())) == 3
    opened.close()


def test_a_step_of_the_tables_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    """In SQLite too, whose module would commit each statement."""
    database = str(tmp_path / "log.sqlite")
    with monkeypatch.context() as patched:
        patched.setattr("alembic.op.create_index", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Log(database)
    opened = Log(database)
    opened.check()
    opened.close()


def test_ctrl_c_ends_it_the_same_way(shop, tmp_path):
    with serving(shop, "--database", str(tmp_path / "log.sqlite")) as running:
        running.estimate(KETTLE)
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(20) == 0


def test_a_database_that_goes_and_comes_back(shop, postgres):
    with serving(shop, "--database", postgres.url, ok=False) as running, running.client() as client:
        running.estimate(KETTLE)
        body = {"products": [{"description": KETTLE}]}
        for _ in range(2):
            postgres.stop()
            try:
                told = client.post("/v1/estimates", json=body)
                assert (told.status_code, told.json()["code"]) == (503, "log-unavailable")
                assert "Retry-After" in told.headers and "\n" not in told.json()["detail"]
                assert client.get("/readyz").status_code == 503
                assert client.get("/healthz").status_code == 200
                path = "/v1/estimates/" + "0" * 32
                assert client.get(path).status_code == 503
            finally:
                postgres.start()
            [found] = running.estimate(KETTLE)
            assert client.get("/readyz").status_code == 200
            assert found["id"] in ids(postgres.url)
    assert running.process.returncode == 0


def test_a_full_disk_is_told_and_the_process_lives(shop, tmp_path):
    """A limit on file sizes stands for the disk."""
    file = tmp_path / "log.sqlite"
    with serving(shop, "--database", str(file)):
        pass
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, limit[1]))
    try:
        process = serving(shop, "--database", str(file), ok=False)
        running = process.__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    try:
        answered = set()
        with running.client() as client:
            for number in range(500):
                text = f"{number} {KETTLE} " + "and much more of it " * 900
                told = client.post("/v1/estimates", json={"products": [{"description": text}]})
                if told.status_code != 200:
                    break
                answered.add(told.json()["estimates"][0]["id"])
            assert (told.status_code, told.json()["code"]) == (503, "log-unavailable")
            assert client.get("/healthz").status_code == 200
    finally:
        process.__exit__(None, None, None)
    assert running.process.returncode == 0 and answered <= ids(str(file))


def test_two_processes_write_to_one_database(shop, database):
    with serving(shop, "--database", database) as one:
        with serving(shop, "--database", database) as other:
            found = [running.estimate(KETTLE)[0]["id"] for running in (one, other) * 3]
            with other.client() as client:  # what one has logged, the other knows
                assert client.get(f"/v1/estimates/{found[0]}").status_code == 200
    assert set(found) <= ids(database) and len(set(found)) == 6


def test_several_processes_may_bring_the_tables_up_to_date_at_once(database):
    opened: list[Log] = []
    threads = [threading.Thread(target=lambda: opened.append(Log(database))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 6
    for one in opened:
        one.check()
        one.close()


def test_the_migrations_make_what_the_code_describes(database):
    opened = Log(database)
    with opened._engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), log.schema)
        assert found == []
        constraints = sa.inspect(connection).get_foreign_keys("outcomes")
        assert [one["referred_table"] for one in constraints] == ["estimates"]
    opened.close()


def test_descriptions_may_be_kept_as_hashes_alone(shop, tmp_path):
    file = tmp_path / "log.sqlite"
    secret = "A kettle that nobody must know of"
    with serving(shop, "--database", str(file), "--descriptions", "hashed") as running:
        [found] = running.estimate(secret)
        with running.client() as client:
            product = {"title": secret, "category": secret, "key": secret}
            client.post("/v1/estimates", json={"products": [product]})
            assert client.get(f"/v1/estimates/{found['id']}").json()["description"] is None
    for path in tmp_path.iterdir():
        assert b"nobody must" not in path.read_bytes()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none/log.sqlite", "there is no folder"),
        ("", "is a folder, must be"),
        ("mysql://me:secret@db/log", "must be the path of an SQLite file"),
        ("postgresql://me:secret@127.0.0.1:1/log", "Connection refused"),
    ],
)
def test_a_database_that_cannot_be_used_is_told_in_one_line(tmp_path, name, reason):
    with pytest.raises(LogError, match=reason) as error:
        Log(name if "://" in name else str(tmp_path / name))
    assert "\n" not in str(error.value) and "secret" not in str(error.value)


def test_a_log_of_a_newer_pricer_is_left_alone(tmp_path):
    file = tmp_path / "log.sqlite"
    Log(str(file)).close()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("update alembic_version set version_num = '9999'")
        connection.commit()
    with pytest.raises(LogError, match="may be of a newer pricer"):
        Log(str(file))


def test_a_file_that_is_no_database_is_told(tmp_path):
    file = tmp_path / "log.sqlite"
    file.write_text("my notes " * 1000)
    with pytest.raises(LogError, match="file is not a database"):
        Log(str(file))
    assert file.read_text().startswith("my notes")
