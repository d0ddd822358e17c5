import random

import numpy as np
import pytest

from pricer.products import near_duplicates
from pricer.products.near_duplicates import HASHES, near_repeats, signature

WORDS = [f"word{n}" for n in range(3_000)]


def sentence(draw: random.Random, length: int = 200) -> list[str]:
    return draw.choices(WORDS, k=length)


def similarity(one: list[str], other: list[str]) -> float:
    sets = [set(zip(words, words[1:], words[2:], strict=False)) for words in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.mark.parametrize("changed", [0, 3, 10, 30, 200])
def test_signatures_estimate_how_alike_texts_are(changed):
    draw, errors = random.Random(changed), []
    for _ in range(60):
        one = sentence(draw)
        other = list(one)
        for place in draw.sample(range(len(one)), changed):
            other[place] = draw.choice(WORDS)
        told = (signature(" ".join(one)) == signature(" ".join(other)).copy()).mean()
        errors.append(told - similarity(one, other))
    # the mean of 60 estimates, each with a standard error of at most 1 / (2 sqrt(64))
    assert abs(np.mean(errors)) < 4 * 0.0625 / np.sqrt(60)


def test_case_and_punctuation_do_not_matter_and_short_texts_have_one_too():
    assert (signature("A blue mug, of clay!") == signature("a BLUE mug of clay")).all()
    for text in ("", "mug", "a mug", "\U0001fad6", "!!"):
        assert signature(text).shape == (HASHES,)
    assert not (signature("mug") == signature("cup")).all()


def test_copies_are_found_and_others_are_left():
    draw = random.Random(3)
    texts, copies = [], []
    for _ in range(400):
        words = sentence(draw)
        texts.append(" ".join(words))
        copies.append(False)
        for place in range(draw.choice([0, 0, 0, 1, 3])):  # one word of 200 is another
            words[place * 7] = draw.choice(WORDS)
            texts.append(" ".join(words))
            copies.append(True)
    found = near_repeats(np.array([signature(text) for text in texts]), 0.8)
    assert found.tolist() == copies and sum(copies) > 50


def test_how_alike_is_too_alike_is_the_users_to_say():
    draw = random.Random(4)
    one = sentence(draw)
    other = [*one[:170], *sentence(draw, 30)]  # about 0.73
    both = np.array([signature(" ".join(words)) for words in (one, other)])
    assert near_repeats(both, 0.6).tolist() == [False, True]
    assert not near_repeats(both, 0.9).any()


def test_ten_thousand_of_one_text_take_as_many_comparisons(monkeypatch):
    compared = []
    real = near_duplicates._alike_pairs

    def counted(*arguments):
        pairs = real(*arguments)
        compared.append(pairs.shape[1])
        return pairs

    monkeypatch.setattr(near_duplicates, "_alike_pairs", counted)
    same = np.repeat(signature("one text for all of them")[None], 10_000, axis=0)
    assert near_repeats(same, 1.0).sum() == 9_999
    assert max(compared) == 9_999


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_repeats_nothing(n):
    assert not near_repeats(np.zeros((n, HASHES), dtype=np.uint16), 0.8).any()
