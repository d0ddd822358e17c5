"""The service: from questions to answers that are in the log."""

import asyncio
import logging
import queue as standard_queue
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from pricer.errors import PricerError
from pricer.serving.answers import TIMEOUT, Answer, Pricing, check_variant
from pricer.serving.limits import Limits
from pricer.serving.log import Log, LogError, Row
from pricer.serving.meters import Meters
from pricer.serving.problems import Problem
from pricer.serving.queue import Job, Question, Queue
from pricer.serving.variants import NAMED, SHADOW, Variants

Answered = list[tuple[Job, Answer]]
LOG_S = 10  # for the log to take an answer in time for a request that is late already
RETRY_S = 5  # until what is gone may be back

logger = logging.getLogger("pricer.serving")


class Service:
    """Who calls `read` answers batches; a thread of its own writes and delivers the answers."""

    def __init__(self, variants: Variants, pricing: Pricing, log: Log, limits: Limits) -> None:
        """Start the thread that writes."""
        self.variants, self.limits, self.log = variants, limits, log
        self.closing = False
        self._pricing = pricing
        self._queue = Queue(limits)
        self.meters = Meters(lambda: len(self._queue))
        self._answered: standard_queue.SimpleQueue[Answered | None] = standard_queue.SimpleQueue()
        self._seconds_a_product = 0.1  # until it is measured
        self._checking: asyncio.Future[None] | None = None
        # not the one that waits for databases
        self._late = ThreadPoolExecutor(1, "late")
        self._read_all = threading.Event()
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)
        self._writer.start()

    async def check(self) -> None:
        """Raise Problem unless all works that an answer needs."""
        self._check_open()
        if not self._writer.is_alive():
            raise Problem("not-ready", "the thread that writes has ended: start the service again")
        # however many ask: one question to a database that may not answer
        if self._checking is None or self._checking.done():
            self._checking = asyncio.ensure_future(asyncio.to_thread(self.log.check))
        try:
            await asyncio.shield(self._checking)
        except LogError as error:
            raise log_unavailable(error) from error

    async def estimate(
        self, questions: Sequence[Question], name: str | None, gone: Callable[[], Awaitable[Any]]
    ) -> list[Answer]:
        """Return an answer to each question of one request, all in the log.

        Args:
            questions: what is asked.
            name: of the variant that is wanted, if any.
            gone: waits until the caller has gone; then nothing more is done for them.

        Raises:
            Problem: unknown-variant, unknown-interval, queue-full, shutting-down, log-unavailable,
                timeout.
        """
        request = _Request(len(questions))
        jobs = [
            self._job(question, name, request.deliver_to(place))
            for place, question in enumerate(questions)
        ]
        self._check_open()
        if not self._queue.put(jobs):
            raise self._full(len(jobs))
        leaving = asyncio.ensure_future(gone())
        try:
            await self._answer(request, jobs, leaving)
        except LogError as error:
            raise log_unavailable(error) from error
        finally:
            leaving.cancel()
            request.close()
            if any([job.claim() for job in jobs]):  # each of them
                self._queue.discard_claimed()
        return request.answers

    async def _answer(
        self, request: "_Request", jobs: Sequence[Job], leaving: "asyncio.Future[Any]"
    ) -> None:
        if await request.wait(leaving, self.limits.timeout_s) or leaving.done():
            return
        late = [job for job in jobs if job.claim()]
        self._queue.discard_claimed()
        answers = await asyncio.get_running_loop().run_in_executor(
            self._late, lambda: [(job, self._pricing.fall_back(job, TIMEOUT)) for job in late]
        )
        self._answered.put(answers)
        if not await request.wait(leaving, LOG_S) and not leaving.done():
            raise Problem("timeout", f"no answer within {self.limits.timeout_s + LOG_S:g} s")

    def _job(self, question: Question, name: str | None, deliver: Callable[[Any], None]) -> Job:
        try:
            variant, assignment = self.variants.of(question.subject_sha256, name)
        except KeyError:
            known = ", ".join(self.variants.by_name)
            raise Problem("unknown-variant", f"no variant {name}, there are: {known}") from None
        try:
            check_variant(variant, question.kind, question.level)
        except PricerError as error:
            raise Problem("unknown-interval", str(error)) from None
        return Job(question, variant, assignment, deliver)

    def _check_open(self) -> None:
        if self.closing:
            raise Problem("shutting-down", "the service is about to end", retry_after_s=RETRY_S)

    def _full(self, more: int) -> Problem:
        waiting = len(self._queue)
        return Problem(
            "queue-full",
            f"{waiting} products wait, {more} more would be above {self.limits.max_queue}",
            retry_after_s=max(1, round(waiting * self._seconds_a_product)),
        )

    def close(self, seconds: float) -> bool:
        """Take nothing more, have what waits answered and written; tell whether that was done.

        Args:
            seconds: that it may take.
        """
        self.closing = True
        self._queue.close()
        in_time = self._read_all.wait(seconds)
        self._answered.put(None)
        self._writer.join(LOG_S)
        self._late.shutdown(wait=False)
        return in_time and not self._writer.is_alive()

    def read(self) -> None:
        """Answer batches until the service is closed and nothing waits.

        To be called once, by the thread that has loaded the model: for another one its threads
        would start anew, and all of them sleep and wake where they would be at work (libgomp waits
        awake only while there are no more threads than cores).
        """
        while jobs := self._queue.take():
            self._read_batch(jobs)
        self._read_all.set()

    def _read_batch(self, jobs: Sequence[Job]) -> None:
        begin = time.monotonic()
        try:
            answers = self._pricing.answer(jobs)
        except Exception as error:  # not even the fallback could: it goes on for others
            logger.exception("no answer")
            _deliver([(job, error) for job in jobs if job.claim()])
            return
        seconds = time.monotonic() - begin
        if jobs[0].shadow_of:
            self._queue.shadow_passed(seconds)
        else:
            self._queue.passed(seconds)
            self._seconds_a_product = seconds / len(jobs)
            self.meters.batches.labels(jobs[0].variant.name).observe(len(jobs))
        answered = zip(jobs, answers, strict=True)
        self._answered.put([(job, answer) for job, answer in answered if job.claim()])

    def _write(self) -> None:
        """Write what is answered, all that is there in one transaction; then deliver it."""
        ended = False
        while not ended:
            answered: Answered = []
            while not (answered and self._answered.empty()):
                batch = self._answered.get()
                if batch is None:
                    ended = True
                    break
                answered += batch
            if answered:
                self._deliver_written(answered)

    def _deliver_written(self, answered: Answered) -> None:
        try:
            self.log.add([answer.row for _, answer in answered])
        except Exception as error:
            if type(error) is not LogError and len(answered) > 1:
                for one in answered:  # what the database does not take of one holds no other back
                    self._deliver_written([one])
                return
            logger.error("%s", error)
            self.meters.log_failures.inc()
            _deliver([(job, error) for job, _ in answered])
            return
        _deliver(answered)
        for job, answer in answered:
            self._count(answer.row)
            if self.variants.shadow and not job.shadow_of:
                self._shadow(job, answer.row)

    def _shadow(self, job: Job, answer: Row) -> None:
        """Have the shadow asked too, where there is something to compare it with.

        Not where it answered itself, the caller chose who answers, or no model did.
        """
        shadow = self.variants.by_name[str(self.variants.shadow)]
        if job.variant is shadow or job.assignment == NAMED or answer["fallback"]:
            return
        beside = Job(job.question, shadow, SHADOW, lambda _: None, shadow_of=answer["id"])
        if not (_can(beside) and self._queue.put_shadow(beside)):
            self.meters.dropped_shadows.inc()

    def _count(self, row: Row) -> None:
        self.meters.estimates.labels(row["variant"], row["assignment"]).inc()
        if row["fallback"]:
            self.meters.fallbacks.labels(row["variant"], row["fallback"]).inc()
        else:
            self.meters.price_mass.labels(row["variant"]).observe(row["price_mass"])


def log_unavailable(error: Exception) -> Problem:
    """Return what callers are told; what the database said is for who runs the service."""
    logger.error("%s", error)
    detail = "no answer is given that is not in the log, which cannot be reached now"
    return Problem("log-unavailable", detail, retry_after_s=RETRY_S)


def _can(job: Job) -> bool:
    try:
        check_variant(job.variant, job.question.kind, job.question.level)
    except PricerError:
        return False
    return True


def _deliver(answered: Iterable[tuple[Job, Answer | Exception]]) -> None:
    for job, answer in answered:
        job.deliver(answer)


class _Request:
    """The answers to one request as they come from other threads."""

    def __init__(self, size: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._answers: list[Answer | None] = [None] * size
        self._missing = size
        self._done: asyncio.Future[None] = self._loop.create_future()

    @property
    def answers(self) -> list[Answer]:
        """Those that have come, in the order of the questions."""
        return [answer for answer in self._answers if answer is not None]

    def deliver_to(self, place: int) -> Callable[[Answer | Exception], None]:
        """Return what takes the answer to a question, from any thread."""

        def deliver(answer: Answer | Exception) -> None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._take, place, answer)

        return deliver

    def close(self) -> None:
        """Take no more answers."""
        self._done.cancel()

    def _take(self, place: int, answer: Answer | Exception) -> None:
        if self._done.done():
            return
        if isinstance(answer, Exception):
            self._done.set_exception(answer)
            return
        self._answers[place] = answer
        self._missing -= 1
        if not self._missing:
            self._done.set_result(None)

    async def wait(self, leaving: "asyncio.Future[Any]", seconds: float) -> bool:
        """Wait for all answers, for the caller to go, or so long; tell whether all have come.

        Raises:
            Exception: why an answer could not be had.
        """
        await asyncio.wait(
            {self._done, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        return self._done.done() and self._done.result() is None
