"""Which variant is better, by outcomes; and never because somebody looked often."""

import hashlib
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from pricer.errors import PricerError
from pricer.judging.sequential import FEWEST, paired_gap, unpaired_gap
from pricer.serving.trial import trials
from pricer.serving.variants import Variant, Variants, check_variants, fraction

LOOKS, EXPERIMENTS = 50, 200
NAMES = ("tuned", "b", "c")


def subject(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def variants(**shares: float) -> Variants:
    return Variants({name: Variant(name, None, None) for name in NAMES}, shares)


def answered(some: Variants, number: int) -> str:
    return some.of(subject(number), None)[0].name


def test_each_has_its_share_of_subjects_and_keeps_them():
    some = variants(b=0.1, c=0.25)
    names = [answered(some, number) for number in range(20_000)]
    for name, share in (("b", 0.1), ("c", 0.25), ("tuned", 0.65)):
        deviation = (share * (1 - share) / 20_000) ** 0.5
        assert names.count(name) / 20_000 == pytest.approx(share, abs=4 * deviation)
    assert names[:100] == [answered(some, number) for number in range(100)]


@pytest.mark.parametrize("others", [{}, {"c": 0.2}])
def test_the_first_share_keeps_its_subjects_when_it_grows(others):
    few, more = variants(b=0.1, **others), variants(b=0.3, **others)
    for number in range(5_000):
        if answered(few, number) == "b":
            assert answered(more, number) == "b"
    assert all(0 <= fraction(subject(number)) < 1 for number in range(1_000))


def test_a_caller_may_name_who_answers():
    some = variants(b=1.0)
    assert some.of(subject(1), "c") == (some.by_name["c"], "named")
    assert some.of(subject(1), None) == (some.by_name["b"], "split")
    assert variants().of(subject(1), None) == (some.by_name["tuned"], "default")
    with pytest.raises(KeyError):
        some.of(subject(1), "d")


@pytest.mark.parametrize(
    ("folders", "splits", "shadow", "reason"),
    [
        (["b"], [], None, "--variant NAME=FOLDER: got 'b'"),
        (["b=.", "b=."], [], None, "'b' is given twice"),
        (["tuned=."], [], None, "is not tuned or words"),
        (["a b=."], [], None, "letters, digits"),
        (["b=none"], [], None, "none is missing"),
        (["b=."], ["c=0.1"], None, "--split: no variant 'c', there are: b"),
        (["b=."], ["b=lots"], None, "a share is above 0 to 1, got 'lots'"),
        (["b=."], ["b=nan"], None, "a share is above 0 to 1"),
        (["b=.", "c=."], ["b=0.6", "c=0.6"], None, "1 together at most, got 1.2"),
        (["b=."], [], "c", "--shadow: no variant 'c'"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_loaded(folders, splits, shadow, reason):
    with pytest.raises(PricerError, match=reason) as error:
        check_variants(folders, splits, shadow)
    assert "\n" not in str(error.value)


def losses(rng: np.random.Generator, count: int) -> np.ndarray:
    """Absolute errors in dollars, few of them large, as those of prices are."""
    return 25 * np.exp(rng.normal(size=count))


def clear_at_some_look(seed: int, *, paired: bool, gap: float = 0.0) -> bool:
    rng = np.random.default_rng(seed)
    count = LOOKS * 40
    shared = losses(rng, count) if paired else 0
    a, b = losses(rng, count) + shared, losses(rng, count) + shared + gap
    in_b = rng.random(count) < 0.1
    for seen in range(40, count + 1, 40):
        first, second = a[:seen], b[:seen]
        if not paired:
            first, second = first[~in_b[:seen]], second[in_b[:seen]]
        found = (paired_gap if paired else unpaired_gap)(second, first)
        if found and found.is_clear:
            assert gap == 0 or found.value > 0
            return True
    return False


@pytest.mark.parametrize("paired", [True, False], ids=["shadow", "split"])
def test_looking_fifty_times_finds_no_difference_that_is_not_there(paired):
    false = sum(clear_at_some_look(seed, paired=paired) for seed in range(EXPERIMENTS))
    assert false / EXPERIMENTS <= 0.05


@pytest.mark.parametrize("paired", [True, False], ids=["shadow", "split"])
def test_a_difference_that_is_there_is_found(paired):
    gap = 8.0 if paired else 25.0
    assert sum(clear_at_some_look(seed, paired=paired, gap=gap) for seed in range(20)) >= 16


BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def row(number, variant, assignment, error, shadow_of=None, who=None, **changes):
    return {
        "id": f"{number}{variant}",
        "created_at": BEGIN + timedelta(seconds=number),
        "model_sha256": variant,
        "shadow_of": shadow_of,
        "variant": variant,
        "assignment": assignment,
        "subject_sha256": subject(number if who is None else who),
        "fallback": None,
        "estimate_usd": 100 + error,
        "price_usd": 100,
    } | changes


def shadowed(number, error, other, **changes):
    """An answer and the shadow beside it."""
    beside = {"shadow_of": f"{number}tuned"} | changes
    return [
        row(number, "tuned", "default", error, **changes),
        row(number, "b", "shadow", other, **beside),
    ]


def test_a_shadow_is_compared_with_the_answers_it_was_beside():
    rows = [one for n in range(200) for one in shadowed(n, 20 + n % 3, 10 + n % 2)]
    rows.append(row(999, "b", "shadow", 500, shadow_of="an answer without an outcome"))
    found = trials(rows, "tuned")
    assert found["tuned"].n == 200 and found["tuned"].against is None
    assert found["b"].against == "shadow" and found["b"].gap.n == 200
    assert found["b"].gap.value == pytest.approx(10.5 - 20.995)
    assert found["b"].verdict == "better"


def test_a_subject_counts_once_however_often_it_was_priced():
    rows = [one for n in range(60) for one in shadowed(n, 20 + n % 3, 10 + n % 2)]
    once = trials(rows, "tuned")["b"].gap
    rows += [one for n in range(1000, 3000) for one in shadowed(n, 20 + n % 3, 900, who=0)]
    often = trials(rows, "tuned")["b"].gap
    assert often.n == once.n == 60
    assert often.interval.high - often.interval.low >= once.interval.high - once.interval.low


def test_what_no_model_answered_or_was_asked_by_name_is_beside_no_shadow():
    rows = [one for n in range(60) for one in shadowed(n, 20, 10)]
    rows += [one for n in range(100, 200) for one in shadowed(n, 900, 10, fallback="timeout")]
    for number in range(300, 400):
        named, beside = shadowed(number, 900, 10)
        rows += [named | {"assignment": "named"}, beside]
    found = trials(rows, "tuned")["b"].gap
    assert (found.n, found.value) == (60, -10)


def test_in_a_split_each_subject_counts_once_and_named_ones_do_not():
    rows = [row(number, "b", "split", 60 + number % 5) for number in range(100)]
    rows += [row(100 + number, "tuned", "split", 20 + number % 5) for number in range(300)]
    rows += [row(500 + number, "b", "split", 900, who=0) for number in range(50)]  # one subject
    rows += [row(600 + number, "b", "named", 900) for number in range(50)]
    found = trials(rows, "tuned")["b"]
    assert found.against == "split" and found.gap.n == 400 and found.n == 200
    assert found.gap.value == pytest.approx(40 + ((60 + 900 * 50) / 51 - 60) / 100)
    assert found.verdict == "worse"


def test_only_who_was_answered_in_the_same_split_is_compared():
    before = [row(number, "tuned", "split", 900) for number in range(200)]  # of an earlier split
    rows = before + [row(1000 + number, "b", "split", 20) for number in range(100)]
    rows += [row(2000 + number, "tuned", "split", 20 + number % 2) for number in range(100)]
    # moved to b when its share grew: they have been tuned's
    moved = [row(3000 + number, "b", "split", 900, who=2000 + number) for number in range(50)]
    found = trials(rows + moved, "tuned")["b"].gap
    assert (found.n, found.value) == (200, -0.5)


def test_of_a_name_only_its_newest_model_counts():
    rows = [row(number, "b", "split", 900, model_sha256="old") for number in range(100)]
    rows += [row(1000 + number, "b", "split", 20) for number in range(60)]
    rows += [row(1000 + number, "tuned", "split", 20, who=number) for number in range(60)]
    found = trials(rows, "tuned")["b"]
    assert found.n == 60 and found.mae == 20


def test_too_few_outcomes_say_nothing():
    rows = [row(100 + number, "b", "split", 60) for number in range(FEWEST - 1)]
    rows += [row(200 + number, "tuned", "split", 20) for number in range(FEWEST)]
    found = trials(rows, "tuned")["b"]
    assert found.gap is None and found.verdict.startswith("too few outcomes")
    assert trials([], "tuned") == {}
