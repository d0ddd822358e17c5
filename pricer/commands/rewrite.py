"""`pricer rewrite`: descriptions in a few even lines, written by a model behind an API."""

import re
from collections import Counter
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from pricer.commands import paid
from pricer.errors import PricerError, without_passwords
from pricer.workspace import Workspace, require

# what the course's summaries are like, 86 tokens on average
INSTRUCTIONS = """\
Describe the product that is listed below. Answer in exactly these five lines, and nothing else:
Title: a short and precise title
Category: such as Electronics
Brand: the brand, or unknown
Description: one sentence that says what it is
Details: one sentence on its features
Leave part numbers, prices and praise out, and add nothing that the listing does not say.

"""
LABELS = ("Title", "Category", "Brand", "Description", "Details")
ANSWER_TOKENS = 90
RECORD = "rewritten.json"
LONGEST = 1_500  # characters of an answer: four times the usual
THOUGHTS = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_MARKUP = re.compile(r"[*_#`]+")

# reasons why a product keeps the text it has
EMPTY = "empty answer"
TOO_LONG = "answer too long"
OTHER_FORM = "not the five lines"
TELLS_PRICE = "tells a price"


def rewrite(
    url: paid.Url,
    model: paid.Model,
    output: Annotated[
        Path, typer.Option(help="folder for the products, a file a split; replaced")
    ] = Path("data/rewritten"),
    concurrency: paid.Concurrency = 4,
    max_tokens: paid.MaxTokens = 400,
    input_price: paid.InputPrice = None,
    output_price: paid.OutputPrice = None,
    key_variable: paid.KeyVariable = None,
    yes: paid.Yes = False,
) -> None:
    """Have a model behind an API write the descriptions of the fetched products anew."""
    key = paid.key_for(url, key_variable)
    frontier = paid.client()
    from pricer.files import write_json, writing
    from pricer.products.items import SPLITS, read_items, write_items

    left = Workspace()
    check_output(output, left)
    for split in SPLITS:
        require(left.items / f"{split}.parquet")
    splits = {split: with_sources(read_items(left.items, split)) for split in SPLITS}
    texts = [text for items in splits.values() for text in items["full"]]
    where = frontier.Endpoint(url, model, "chat", INSTRUCTIONS, max_tokens, key)
    cache, prices = frontier.kept_answers(where, left.root), paid.Prices(input_price, output_price)
    asked = paid.agree(where, texts, cache, answer_tokens=ANSWER_TOKENS, prices=prices, yes=yes)
    # a text that several products share is asked about, and paid for, once
    said = dict(zip(texts, frontier.ask_all(where, texts, cache, concurrency), strict=True))
    answers = {text: one.text for text, one in said.items()}
    unchanged = sum((take_answers(items, answers) for items in splits.values()), Counter[str]())
    everything = paid.spent(said.values(), prices)
    this_run = paid.spent((said[text] for text in asked), prices)
    counts = {"products": len(texts), "unchanged": dict(sorted(unchanged.items()))}
    costs = {"all_answers": vars(everything), "this_run": vars(this_run)}
    with writing(output, folder=True) as partial:
        write_items(partial, splits)
        write_json(
            partial / RECORD, {"model": model, "url": without_passwords(url)} | counts | costs
        )
    print(
        f"{len(texts) - unchanged.total()} of {len(texts)} descriptions are new"
        f"{told(unchanged)}; {paid.told(everything, this_run, prices)}"
    )
    print(
        f"{output}: `dvc exp run -S items.source=files -S items.files.path={output} "
        "-S items.files.on_invalid=drop` trains on them"
    )


def check_output(output: Path, left: Workspace) -> None:
    """Raise PricerError if a folder is not to be replaced."""
    if output.resolve() == left.items.resolve():
        raise PricerError(f"{output} is what `dvc repro` writes: give another --output")
    if output.exists() and not (output / RECORD).is_file():
        raise PricerError(
            f"{output} is there, and not from `pricer rewrite`: give another --output"
        )


def told(unchanged: "Counter[str]") -> str:
    """Say in brackets how many products keep the text that they have, and why."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in unchanged.most_common())
    return f" (the others keep theirs: {reasons})" if reasons else ""


def with_sources(items: pd.DataFrame) -> pd.DataFrame:
    """Return items with what their summary is to be written from in `full`."""
    full = items["full"] if "full" in items else items["summary"]
    usable = full.map(lambda text: isinstance(text, str) and bool(text.strip()))
    return items.assign(full=full.where(usable, items["summary"]))


def take_answers(items: pd.DataFrame, answers: dict[str, str]) -> "Counter[str]":
    """Put what a model said in the place of summaries; return how many stay, and why.

    Args:
        items: changed: `summary`; `full` is what the model was asked about, `price` in USD.
        answers: by that.
    """
    kept, summaries = Counter[str](), []
    for full, summary, price in zip(items["full"], items["summary"], items["price"], strict=True):
        new, reason = checked(answers[full], full, price)
        summaries.append(summary if reason else new)
        kept.update([reason] if reason else [])
    items["summary"] = summaries
    return kept


def checked(answer: str, full: str, price: float) -> tuple[str, str]:
    """Return an answer as a summary, and the reason why it can be none; "" where it can.

    A summary tells no amount of money that the text does not: it would be the price, as the model
    remembers or invents it. Nor does it have the price, in USD, as a number of any other kind.
    """
    from pricer.products.items import clean_text
    from pricer.products.listings import dollar_amounts, tells_dollars_of
    from pricer.products.prompts import PREFIX

    lines = clean_text(THOUGHTS.sub("", answer)).splitlines()
    text = "\n".join(filter(None, (_MARKUP.sub("", line).strip() for line in lines)))
    if not text:
        return text, EMPTY
    if len(text) > LONGEST:
        return text, TOO_LONG
    if [line.partition(":")[0] for line in text.splitlines()] != list(LABELS):
        return text, OTHER_FORM
    money = dollar_amounts(text) - dollar_amounts(full)
    if money or tells_dollars_of(text, price, full) or PREFIX in text:
        return text, TELLS_PRICE
    return text, ""
