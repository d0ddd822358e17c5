"""Who is read with whom, and who waits for whom."""

import threading
import time

import pytest

from pricer.serving.limits import Limits
from pricer.serving.queue import Job, Question, Queue
from pricer.serving.variants import Variant

A, B = Variant("a", None, None), Variant("b", None, None)


def job(variant: Variant = A, text: str = "kettle", **extra: object) -> Job:
    question = Question(text, "0" * 64, None, None, 80, distribution=False)
    return Job(question, variant, "default", lambda _: None, **extra)


def queue(**limits: float) -> Queue:
    return Queue(Limits(**({"max_wait_ms": 0, "batch_size": 4, "max_queue": 10} | limits)))


def test_batches_hold_jobs_of_one_variant_in_order():
    waiting = queue()
    jobs = [job(variant) for variant in (A, B, A, A, B, A, A)]
    assert waiting.put(jobs)
    taken = [waiting.take() for _ in range(3)]
    assert taken == [[jobs[n] for n in batch] for batch in ((0, 2, 3, 5), (1, 4), (6,))]
    assert len(waiting) == 0


def test_all_of_a_request_fits_or_none():
    waiting = queue()
    assert waiting.put([job() for _ in range(8)])
    assert not waiting.put([job() for _ in range(3)])
    assert len(waiting) == 8 and waiting.put([job(), job()])


def test_who_has_been_answered_leaves():
    waiting = queue()
    jobs = [job() for _ in range(6)]
    waiting.put(jobs)
    assert jobs[0].claim() and jobs[3].claim() and not jobs[3].claim()
    waiting.discard_claimed()
    assert len(waiting) == 4
    assert jobs[1].claim()  # after the others have gone, before it is read
    assert waiting.take() == [jobs[2], jobs[4], jobs[5]]


def test_the_first_waits_for_others_but_not_for_long():
    waiting = queue(max_wait_ms=200)
    waiting.put([job()])
    begin = time.monotonic()
    assert len(waiting.take()) == 1
    assert 0.15 < time.monotonic() - begin < 5
    waiting = queue(max_wait_ms=60_000)
    waiting.put([job()])
    filling = threading.Thread(target=lambda: waiting.put([job() for _ in range(3)]))
    filling.start()
    assert len(waiting.take()) == 4  # full: no reason to wait
    filling.join()


def test_closed_it_gives_what_is_left_and_takes_nothing():
    waiting = queue(max_wait_ms=60_000)
    waiting.put([job() for _ in range(5)])
    waiting.put_shadow(job(B))
    waiting.close()
    assert not waiting.put([job()]) and not waiting.put_shadow(job(B))
    assert [len(waiting.take()) for _ in range(3)] == [4, 1, 0]


def test_shadows_wait_until_nobody_else_does_and_take_their_share_of_the_time():
    waiting = queue(shadow_share=0.25)
    shadow, later = (job(B, shadow_of="1") for _ in range(2))
    waiting.put_shadow(shadow)
    waiting.put_shadow(later)
    first = job()
    waiting.put([first])
    assert waiting.take() == [first]
    assert waiting.take() == [shadow]
    waiting.shadow_passed(0.1)
    begin = time.monotonic()
    assert waiting.take() == [later]
    assert time.monotonic() - begin == pytest.approx(0.3, abs=0.1)


def test_shadows_for_which_there_is_no_room_are_dropped():
    waiting = queue()
    assert [waiting.put_shadow(job(B)) for _ in range(12)] == [True] * 10 + [False] * 2
