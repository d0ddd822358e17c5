"""Which variant is better, by outcomes; and never because somebody looked often."""

import hashlib

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


def test_a_share_that_grows_keeps_its_subjects():
    few, more = variants(b=0.1), variants(b=0.3)
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


def row(number, variant, assignment, error, shadow_of=None, who=None):
    return {
        "id": f"{number}{variant}",
        "shadow_of": shadow_of,
        "variant": variant,
        "assignment": assignment,
        "subject_sha256": subject(number if who is None else who),
        "estimate_usd": 100 + error,
        "price_usd": 100,
    }


def test_a_shadow_is_compared_with_the_answers_it_was_beside():
    rows = []
    for number in range(200):
        rows.append(row(number, "tuned", "default", 20 + number % 3))
        rows.append(row(number, "b", "shadow", 10 + number % 2, shadow_of=f"{number}tuned"))
    rows.append(row(999, "b", "shadow", 500, shadow_of="an answer without an outcome"))
    found = trials(rows, "tuned")
    assert found["tuned"].n == 200 and found["tuned"].against is None
    assert found["b"].against == "shadow" and found["b"].gap.n == 200
    assert found["b"].gap.value == pytest.approx(10.5 - 20.995)
    assert found["b"].verdict == "better"


def test_in_a_split_each_subject_counts_once_and_named_ones_do_not():
    rows = [row(number, "tuned", "split", 20 + number % 5) for number in range(300)]
    rows += [row(number, "b", "split", 60 + number % 5) for number in range(300, 400)]
    rows += [row(500 + number, "b", "split", 900, who=300) for number in range(50)]  # one subject
    rows += [row(600 + number, "b", "named", 900) for number in range(50)]
    found = trials(rows, "tuned")["b"]
    assert found.against == "split" and found.gap.n == 400 and found.n == 200
    assert found.gap.value == pytest.approx(40 + (60 + 900 * 50) / 51 / 100 - 60 / 100, abs=0.1)
    assert found.verdict == "worse"


def test_too_few_outcomes_say_nothing():
    rows = [row(number, "tuned", "split", 20) for number in range(FEWEST)]
    rows += [row(100 + number, "b", "split", 60) for number in range(FEWEST - 1)]
    found = trials(rows, "tuned")["b"]
    assert found.gap is None and found.verdict.startswith("too few outcomes")
    assert trials([], "tuned") == {}
