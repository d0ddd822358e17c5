import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, trainers
from transformers import PreTrainedTokenizerFast

from pricer.errors import ItemsError, PricerError
from pricer.products.prompts import (
    CHARACTERS_A_TOKEN,
    COLUMNS,
    COUNTS,
    PREFIX,
    build_completion,
    build_prompt,
    build_prompts,
    check_max_length,
    cut_summaries,
    encode_completions,
    encode_prompts,
    evidence_line,
    parse_prompt,
    prompt_lengths,
    token_statistics,
    told_of_cuts,
)

EVIDENCE = "Similar products cost $111, $82, $114. Its words suggest $122."


def test_the_contract():
    assert build_prompt("A mug") == (
        "What does this cost to the nearest dollar?\n\nA mug\n\nPrice is $"
    )
    assert build_completion(218.5, rounded=True) == "218.00"
    assert build_completion(0.6, rounded=True) == "1.00"
    assert build_completion(218.99, rounded=False) == "218.99"
    assert build_completion(218.9, rounded=False) == "218.90"
    assert build_completion(106.59000000000002, rounded=False) == "106.59"


@given(st.text())
def test_a_prompt_gives_its_summary_back(summary):
    assert parse_prompt(build_prompt(summary)) == summary


@pytest.mark.parametrize("prompt", ["", "A mug", "How much?\n\nPrice is $", "a\n\nb\n\nPrice?"])
def test_a_prompt_of_another_form_has_no_summary(prompt):
    assert parse_prompt(prompt) == ""


@given(text=st.text(max_size=300), cutoff=st.integers(1, 40))
def test_a_cut_summary_is_a_prefix_within_the_cutoff(tokenizer, text, cutoff):
    [cut], [tokens] = cut_summaries(tokenizer, [text], cutoff)
    assert text.startswith(cut)
    assert tokens == len(tokenizer(text, add_special_tokens=False)["input_ids"])
    if tokens <= cutoff:
        assert cut == text
    else:
        # re-reading a prefix may merge differently, by a token at most for one character
        assert len(tokenizer(cut, add_special_tokens=False)["input_ids"]) <= cutoff + 3


def test_a_character_of_several_tokens_is_dropped_whole(tokenizer):
    [cut], _ = cut_summaries(tokenizer, ["ab\U0001f9ff\U0001f9ff"], 4)
    assert cut in ("ab", "ab\U0001f9ff")


def test_prompt_ids_begin_a_trained_sequence(tokenizer, items):
    prompts = [build_prompt(text) for text in items["summary"]]
    prompts.append(build_prompt("Sold elsewhere: Price is $7.00, they say. Price is $"))
    completions = [build_completion(price, rounded=True) for price in items["price"]] + ["12.00"]
    prompt_ids = encode_prompts(tokenizer, prompts)
    completion_ids = encode_completions(tokenizer, prompts, completions)
    for prompt, completion, ids, after in zip(
        prompts, completions, prompt_ids, completion_ids, strict=True
    ):
        assert tokenizer.decode(ids) == prompt
        assert tokenizer.decode(after) == completion + tokenizer.eos_token
        assert tokenizer(prompt + completion)["input_ids"] == ids + after[:-1]


def test_one_by_one_and_in_batches_the_ids_are_the_same(tokenizer, items):
    prompts = [build_prompt(text) for text in items["summary"]] * 6  # more than one batch
    assert encode_prompts(tokenizer, prompts) == [
        ids for prompt in prompts for ids in encode_prompts(tokenizer, [prompt])
    ]


def test_a_tokenizer_that_merges_prefix_and_price_is_refused():
    merging = Tokenizer(models.BPE())  # splits nowhere before it merges
    trainer = trainers.BpeTrainer(special_tokens=["<|end|>"], show_progress=False)
    merging.train_from_iterator(["Price is $7.00"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=merging, eos_token="<|end|>")
    with pytest.raises(PricerError, match=r"merges 'Price is \$' with the price '7.00'"):
        encode_completions(tokenizer, ["Price is $"], ["7.00"])
    items = pd.DataFrame({"id": [1], "summary": ["A mug"], "price": [7.0]})
    with pytest.raises(PricerError, match="merges"):
        build_prompts(tokenizer, items, cutoff=90, rounded=True)


def test_the_table_counts_every_token(tokenizer, items):
    table = build_prompts(tokenizer, items, cutoff=30, rounded=True)
    assert list(table) == [*COLUMNS, *COUNTS[:1], *COUNTS[-1:]]
    assert table["truncated"].all() and (table["completion"].str.endswith(".00")).all()
    assert table["prompt"].str.endswith(PREFIX).all()
    for row in table.head(20).itertuples():
        assert row.prompt_tokens == len(tokenizer(row.prompt)["input_ids"])
        assert row.completion_tokens == len(tokenizer(row.completion)["input_ids"]) + 1
    statistics = token_statistics(table)
    assert statistics["n"] == 200 and statistics["truncated_share"] == 1
    assert statistics["example_tokens_max"] < statistics["summary_tokens_max"]
    exact = build_prompts(tokenizer, items, cutoff=30, rounded=True, exact=True)
    assert exact["completion"].tolist() == [str(price) for price in items["price"]]


def test_what_is_never_kept_of_a_long_text_is_not_tokenized(tokenizer, items):
    """No token is as long, so that the tokens which are kept come before the cut."""
    assert max(map(len, tokenizer.get_vocab())) <= CHARACTERS_A_TOKEN / 2
    text = "\n".join(items["summary"])
    long = text * (20 * CHARACTERS_A_TOKEN // len(text) + 2)
    encoding = tokenizer(long, add_special_tokens=False, return_offsets_mapping=True)
    [cut], [tokens] = cut_summaries(tokenizer, [long], 20)
    assert cut == long[: encoding["offset_mapping"][19][1]]
    assert 20 < tokens < len(encoding["input_ids"])
    kept = long[: 20 * CHARACTERS_A_TOKEN]
    assert tokens == len(tokenizer(kept, add_special_tokens=False)["input_ids"])


@given(
    texts=st.lists(
        st.text(st.sampled_from("ab 1.,$\n\t'-é掃🧹"), max_size=40).map(str.strip), max_size=5
    )
)
def test_a_prompts_length_follows_from_its_summarys(tokenizer, texts):
    """Whatever stands at the ends of a summary, where the question and the prefix touch it."""
    summaries, tokens = cut_summaries(tokenizer, texts, 100)
    for lines in ([""] * len(summaries), [EVIDENCE] * len(summaries)):
        prompts = [build_prompt(*told) for told in zip(summaries, lines, strict=True)]
        expected = [len(ids) for ids in encode_prompts(tokenizer, prompts)]
        assert prompt_lengths(tokenizer, summaries, tokens, lines) == expected


def test_evidence_stands_before_the_prefix():
    assert evidence_line([111.4, 82, 113.5], 121.6) == EVIDENCE
    assert evidence_line([111.4], None) == "Similar products cost $111."
    assert evidence_line([], 121.6) == "Its words suggest $122."
    assert evidence_line([], None) == ""
    assert build_prompt("A mug", EVIDENCE) == (
        "What does this cost to the nearest dollar?\n\nA mug\n\n"
        "Similar products cost $111, $82, $114. Its words suggest $122.\n\nPrice is $"
    )


@pytest.mark.parametrize("prices", [[], [1.0], [1.0, 999.0]])
@pytest.mark.parametrize("words", [None, 3.2])
def test_evidence_is_no_part_of_a_prompts_summary(prices, words):
    for summary in ("A mug", "Two\n\nparagraphs", "Similar products cost $5."):
        assert parse_prompt(build_prompt(summary, evidence_line(prices, words))) == summary


def test_nothing_is_cut_silently(tokenizer, items):
    table = build_prompts(tokenizer, items, cutoff=60, rounded=True)
    longest = int((table["prompt_tokens"] + table["completion_tokens"]).max())
    check_max_length(table, cutoff=60, max_length=longest)
    with pytest.raises(ItemsError, match="longer than prompts.max_length") as error:
        check_max_length(table, cutoff=60, max_length=longest - 4)
    assert "prompts.cutoff to 56" in str(error.value)
    fitting = build_prompts(tokenizer, items, cutoff=56, rounded=True)
    check_max_length(fitting, cutoff=56, max_length=longest - 4)


def test_where_most_descriptions_are_cut_the_cutoff_that_leaves_them_whole_is_told(
    tokenizer, items
):
    table = build_prompts(tokenizer, items, cutoff=30, rounded=True)
    assert table["truncated"].all()
    [enough] = re.fullmatch(r" \(nine of ten are whole with (\d+)\)", told_of_cuts(table)).groups()
    whole = build_prompts(tokenizer, items, cutoff=int(enough), rounded=True)
    assert 0.05 < whole["truncated"].mean() <= 0.11
    assert told_of_cuts(whole) == ""


def test_texts_that_state_a_price_are_counted(tokenizer):
    items = pd.DataFrame(
        {"id": [1, 2], "summary": ["Price is $5.00 elsewhere", "A mug"], "price": [5.0, 7.0]}
    )
    table = build_prompts(tokenizer, items, cutoff=90, rounded=True)
    assert token_statistics(table)["prefix_in_summary"] == 1
