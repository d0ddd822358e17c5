"""Prices of the test products that models elsewhere were asked for: kept in git, judged as others.

One file a model in `metrics/api/`: the answers themselves, since asking again costs money and says
something else. `pricer judge-api` writes them.
"""

import datetime
import re
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pricer.errors import ItemsError, PricerError, quoted
from pricer.files import read_json, write_json
from pricer.judging.leaderboard import LABELS
from pricer.params import first_problem
from pricer.prices.predictions import LARGEST, no_number_is_zero, parse_price

NAME = r"\w[\w.:-]{0,99}"
TAKEN = {*LABELS, "workspace"}


class Record(BaseModel):
    """What is read from a file is what was written."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Answer(Record):
    """What a model said of one product."""

    id: int | str
    price: Annotated[float, Field(gt=0)]
    """What it costs, USD."""
    text: str
    """What was said; the first number in it is the estimate, as in the reference recipe."""


class Asked(Record):
    """What a model elsewhere said of products of the test split."""

    model: str
    url: str
    endpoint: Literal["chat", "completions"]
    asked_on: datetime.date = Field(strict=False)
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    """Of all answers, as are the tokens, a text that products share once, whichever run asked for
    them; None where nobody said what tokens cost."""
    answers: Annotated[list[Answer], Field(min_length=1)]

    def predictions(self) -> pd.DataFrame:
        """Return id, price, estimate_usd (USD) and unparsed; no number counts as $0."""
        table = pd.DataFrame([dict(answer) for answer in self.answers])
        numbers = [_dollars(text) for text in table.pop("text")]
        return no_number_is_zero(table.assign(estimate_usd=np.array(numbers, dtype=float)))


def _dollars(text: str) -> float | None:
    """Return the first number in an answer, None where there is none, or one that no price has."""
    number = parse_price(text)
    return number if number is not None and number <= LARGEST else None


def check_name(name: str) -> None:
    """Raise PricerError unless a model that was asked can have that name beside what is here."""
    if not re.fullmatch(NAME, name):
        raise PricerError(f"{quoted(name)} is no name of a file: give another --name")
    if name in TAKEN:
        raise PricerError(f"{name} is what a predictor here is called: give another --name")


def write_asked(file: Path, asked: Asked) -> None:
    """Write what a model said."""
    write_json(file, asked.model_dump(mode="json"))


def read_asked(file: Path) -> Asked:
    """Read what a model said.

    Raises:
        PricerError: the file is damaged.
    """
    try:
        return Asked.model_validate(read_json(file))
    except (ValueError, ValidationError) as error:
        raise PricerError(
            f"{file} holds no answers of a model ({first_problem(error)}): "
            f"`git checkout {file}` brings it back"
        ) from None


def read_all_asked(folder: Path, items: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the predictions of each model that was asked, by its name, in the order of the names.

    Args:
        folder: of the files, `metrics/api`.
        items: the test split.

    Raises:
        PricerError: a file is damaged.
        ItemsError: it is of other products.
    """
    prices = dict(zip(items["id"], items["price"], strict=True))
    tables = {}
    for file in sorted(folder.glob("*.json")):
        check_name(file.stem)
        table = read_asked(file).predictions()
        known = np.array([prices.get(one, np.nan) for one in table["id"]], dtype=float)
        if not np.isclose(known, table["price"], rtol=1e-5, atol=0).all() or (
            table["id"].duplicated().any()
        ):
            raise ItemsError(
                f"{file} is of other products than the test split: "
                "remove it, or run `pricer judge-api` again"
            )
        tables[file.stem] = table
    return tables
