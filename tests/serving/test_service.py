"""What becomes of a question when a model, a product or the log does not do what it should."""

import asyncio
import time

import pytest
import torch

from pricer.serving.log import Log, LogError
from pricer.serving.problems import Problem
from tests.serving.stubs import StubPredictor, ask, estimate, question, service_of


@pytest.fixture
def log(tmp_path):
    opened = Log(str(tmp_path / "log.sqlite"))
    yield opened
    opened.close()


def logged(log: Log) -> list[tuple[str, str | None]]:
    from sqlalchemy import select

    from pricer.serving.log import estimates

    with log._engine.connect() as connection:
        query = select(estimates.c.description, estimates.c.fallback)
        return sorted((text, reason) for text, reason in connection.execute(query))


def says(text: str):
    if "broken" in text:
        raise ValueError("an index out of range")
    if "huge" in text:
        raise torch.OutOfMemoryError("out of memory")
    if "nothing" in text:
        return None
    return estimate(price_mass=0.01 if "unsure" in text else 0.99)


def test_a_product_that_spoils_a_batch_spoils_no_other(log):
    texts = ["fine", "broken", "huge", "nothing", "unsure", "fine too"]
    with service_of(log, {"tuned": StubPredictor(says)}) as service:
        answers = asyncio.run(ask(service, *texts))
    reasons = [one.row["fallback"] for one in answers]
    assert reasons == [
        None, "model-error", "out-of-memory", "no-distribution", "low-price-mass", None,
    ]  # fmt: skip
    for one, reason in zip(answers, reasons, strict=True):
        assert one.row["estimate_usd"] == (7.0 if reason else 42.0)
        assert one.row["low_usd"] < one.row["estimate_usd"] < one.row["high_usd"]
    assert logged(log) == sorted(zip(texts, reasons, strict=True), key=lambda one: one[0])


def test_a_model_that_takes_too_long_is_answered_for_and_comes_too_late(log):
    slow = StubPredictor()
    slow.go_on.clear()
    with service_of(log, {"tuned": slow}, timeout_s=0.05, batch_size=1) as service:
        answers = asyncio.run(ask(service, "first", "second"))
        assert [one.row["fallback"] for one in answers] == ["timeout", "timeout"]
        slow.go_on.set()
        service.limits = service.limits.__class__(timeout_s=30)
        assert asyncio.run(ask(service, "third"))[0].row["fallback"] is None
    assert logged(log) == [("first", "timeout"), ("second", "timeout"), ("third", None)]
    assert ["second"] not in slow.passes  # it had left the queue


def test_what_cannot_be_logged_is_not_answered(log, monkeypatch):
    def full(rows):
        raise LogError("log.sqlite: database or disk is full")

    with service_of(log, {"tuned": StubPredictor()}) as service:
        with monkeypatch.context() as patched:
            patched.setattr(log, "add", full)
            with pytest.raises(Problem, match="is not in the log") as error:
                asyncio.run(ask(service, "first", "second"))
        assert (error.value.code, error.value.status) == ("log-unavailable", 503)
        assert asyncio.run(ask(service, "third"))
    assert logged(log) == [("third", None)]


def test_a_log_that_hangs_ends_in_a_timeout(log, monkeypatch):
    monkeypatch.setattr("pricer.serving.service.LOG_S", 0.05)
    with service_of(log, {"tuned": StubPredictor()}, timeout_s=0.05) as service:
        held = asyncio.Event()

        async def hang():
            loop = asyncio.get_running_loop()
            waiting = asyncio.run_coroutine_threadsafe
            with monkeypatch.context() as patched:
                add = log.add

                def slowly(rows):
                    waiting(held.wait(), loop).result(60)
                    add(rows)

                patched.setattr(log, "add", slowly)
                with pytest.raises(Problem) as error:
                    await ask(service, "first")
                held.set()
            return error.value

        assert asyncio.run(hang()).status == 504


def test_after_the_end_was_announced_nothing_is_taken_and_what_was_is_answered(log):
    slow = StubPredictor()
    slow.go_on.clear()

    async def end(service):
        asked = asyncio.ensure_future(ask(service, "first", "second"))
        while not slow.passes:
            await asyncio.sleep(0.001)
        service.closing = True
        with pytest.raises(Problem) as error:
            await ask(service, "third")
        assert error.value.code == "shutting-down"
        slow.go_on.set()
        return await asked

    with service_of(log, {"tuned": slow}, batch_size=1) as service:
        assert len(asyncio.run(end(service))) == 2
    assert logged(log) == [("first", None), ("second", None)]


def test_nothing_more_is_done_for_who_has_gone(log):
    slow = StubPredictor()
    slow.go_on.clear()

    async def leave(service):
        gone = asyncio.Event()
        questions = [question(text) for text in ("first", "second", "third")]
        asked = asyncio.ensure_future(service.estimate(questions, None, gone.wait))
        while not slow.passes:
            await asyncio.sleep(0.001)
        gone.set()
        assert await asked == []

    with service_of(log, {"tuned": slow}, batch_size=1) as service:
        asyncio.run(leave(service))
        slow.go_on.set()
        assert asyncio.run(ask(service, "fourth"))
    assert slow.passes == [["first"], ["fourth"]]
    assert logged(log) == [("fourth", None)]


def test_a_shadow_is_logged_beside_the_answer_and_is_no_answer(log):
    predictors = {
        "tuned": StubPredictor(),
        "b": StubPredictor(lambda _: estimate(estimate_usd=9.0)),
    }
    with service_of(log, predictors, shadow="b", shadow_share=1) as service:
        [answer] = asyncio.run(ask(service, "A kettle"))
        while not predictors["b"].passes or len(logged(log)) < 2:
            time.sleep(0.001)
    assert answer.row["estimate_usd"] == 42.0
    log.add_outcomes([(answer.row["id"], 10.0)])
    found = {row["variant"]: row for row in log.judged()}
    assert found["b"]["shadow_of"] == answer.row["id"] and found["b"]["price_usd"] == 10.0
    assert (found["b"]["estimate_usd"], found["b"]["assignment"]) == (9.0, "shadow")


def test_a_shadow_makes_answers_later_by_no_more_than_its_share(log):
    """Passes of 20 ms, one client after the other without a pause, as is worst."""

    async def seconds(service) -> float:
        begin = time.monotonic()
        for _ in range(60):
            await ask(service, "A kettle")
        return time.monotonic() - begin

    took = {}
    for shadow in (None, "b"):
        predictors = {name: StubPredictor(seconds=0.02) for name in ("tuned", "b")}
        with service_of(log, predictors, shadow=shadow, shadow_share=0.1) as service:
            took[shadow] = asyncio.run(seconds(service))
    assert predictors["b"].passes  # some were read
    assert took["b"] / took[None] < 1.25  # 1.11 and what the machine does beside


def test_a_failing_shadow_hurts_nobody(log):
    predictors = {"tuned": StubPredictor(), "b": StubPredictor(says)}
    with service_of(log, predictors, shadow="b", shadow_share=1) as service:
        for text in ("broken", "nothing", "fine"):
            [answer] = asyncio.run(ask(service, text))
            assert answer.row["fallback"] is None
