"""Products that wait for a price: those that come together are read together."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pricer.serving.limits import Limits
from pricer.serving.variants import Variant

# of the time that a pass takes: to wait for one more product, and for all of them
GAP_SHARE, WAIT_SHARE = 0.01, 0.1


@dataclass(frozen=True)
class Question:
    """A product and what is asked of it.

    Attributes:
        text: its description, cleaned.
        subject_sha256: whose estimate it is: of the caller's key, or of the description.
        category: as the caller gave it.
        kind: of estimate; None for the variant's own.
        level: of the interval, percent.
        distribution: whether the caller wants every price's probability.
    """

    text: str
    subject_sha256: str
    category: str | None
    kind: str | None
    level: int
    distribution: bool


@dataclass(eq=False)
class Job:
    """A question on its way to an answer, which goes to whoever claims it first.

    Attributes:
        question: what is asked.
        variant: who answers.
        assignment: why this one.
        shadow_of: id of the answer that this one is beside, unseen.
        deliver: called with what a caller gets, or with why there is nothing; from any thread.
    """

    question: Question
    variant: Variant
    assignment: str
    deliver: Callable[[Any], None]
    shadow_of: str | None = None
    _unclaimed: threading.Lock = field(default_factory=threading.Lock)

    def claim(self) -> bool:
        """Return whether the caller of this has the right to answer: the first one has."""
        return self._unclaimed.acquire(blocking=False)

    @property
    def claimed(self) -> bool:
        """Whether someone has."""
        return self._unclaimed.locked()


class Queue:
    """Jobs in the order they came, bounded; taken in batches by one thread.

    Shadows wait until nobody else does, and take no more than `shadow_share` of the time: so much
    later is an answer on average. Those for which there is no room are dropped.
    """

    def __init__(self, limits: Limits) -> None:
        """Make an empty queue."""
        self._limits = limits
        self._jobs: deque[tuple[float, Job]] = deque()
        self._shadows: deque[Job] = deque(maxlen=limits.max_queue)
        self._changed = threading.Condition()
        self._closed = False
        self._pass_seconds, self._pass_end = 0.0, -1.0
        self._shadows_until = time.monotonic()  # the earliest that a shadow may be read

    def __len__(self) -> int:
        """Return how many products wait, shadows aside."""
        return len(self._jobs)

    def put(self, jobs: Sequence[Job]) -> bool:
        """Take jobs, all or none; tell whether there was room."""
        with self._changed:
            if self._closed or len(self._jobs) + len(jobs) > self._limits.max_queue:
                return False
            now = time.monotonic()
            self._jobs.extend((now, job) for job in jobs)
            self._changed.notify()
            return True

    def put_shadow(self, job: Job) -> bool:
        """Take a shadow; tell whether there was room."""
        with self._changed:
            if self._closed or len(self._shadows) == self._shadows.maxlen:
                return False
            self._shadows.append(job)
            self._changed.notify()
            return True

    def discard_claimed(self) -> None:
        """Let those go that somebody else has answered, or that nobody waits for any more."""
        with self._changed:
            self._jobs = deque(one for one in self._jobs if not one[1].claimed)

    def close(self) -> None:
        """Take nothing more; what is there can still be taken. Shadows are dropped."""
        with self._changed:
            self._closed = True
            self._shadows.clear()
            self._changed.notify_all()

    def take(self) -> list[Job]:
        """Wait for jobs of one variant, at most a batch; [] when closed and empty."""
        with self._changed:
            while True:
                if self._jobs:
                    self._wait_for_others()
                    if batch := self._take_batch():
                        return batch
                    continue
                if self._closed:
                    return []
                wait = self._shadows_until - time.monotonic()
                if self._shadows and wait <= 0:
                    return [self._shadows.popleft()]
                self._changed.wait(wait if self._shadows else None)

    def passed(self, seconds: float) -> None:
        """Say that a batch has been read, and how long it took."""
        with self._changed:
            self._pass_seconds, self._pass_end = seconds, time.monotonic()

    def shadow_passed(self, seconds: float) -> None:
        """Say that a shadow has been read, and how long it took: the next waits for its share."""
        with self._changed:
            pause = seconds * (1 / self._limits.shadow_share - 1)
            self._shadows_until = time.monotonic() + pause

    def _wait_for_others(self) -> None:
        """Wait while others keep coming, each within `max_wait_ms` or a share of a pass.

        Those who were just answered may come again, so a pass that has ended counts as one of
        them.
        """
        least = self._limits.max_wait_ms / 1000
        gap = max(least, GAP_SHARE * self._pass_seconds)
        latest = time.monotonic() + max(least, WAIT_SHARE * self._pass_seconds)
        while self._jobs and len(self._jobs) < self._limits.batch_size and not self._closed:
            newest = self._jobs[-1][0]
            until = min(max(newest, self._pass_end + gap) + gap, latest)
            wait = until - time.monotonic()
            if wait <= 0:
                return
            self._changed.wait(wait)

    def _take_batch(self) -> list[Job]:
        """Take the first job and those after it that are for the same variant; leave the others."""
        batch: list[Job] = []
        rest: deque[tuple[float, Job]] = deque()
        for since, job in self._jobs:
            if job.claimed:
                continue
            if len(batch) < self._limits.batch_size and (
                not batch or job.variant is batch[0].variant
            ):
                batch.append(job)
            else:
                rest.append((since, job))
        self._jobs = rest
        return batch
