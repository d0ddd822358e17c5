"""What commands share that ask models behind an API: options, the key, the cost told first."""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from pricer.errors import PricerError, quoted, without_passwords
from pricer.tables import usd

if TYPE_CHECKING:
    from pricer.commands.frontier import Cache, Endpoint, Said

HERE = ("localhost", "127.0.0.1", "::1")

Url = Annotated[str, typer.Option(help="of an OpenAI-compatible API, https://HOST/v1")]
Model = Annotated[str, typer.Option(help="its name there")]
Concurrency = Annotated[int, typer.Option(min=1, max=256, help="requests at once")]
MaxTokens = Annotated[int, typer.Option(min=1, help="of an answer, thoughts included")]
InputPrice = Annotated[float | None, typer.Option(min=0, help="USD a million tokens that go in")]
OutputPrice = Annotated[
    float | None, typer.Option(min=0, help="USD a million tokens that come out")
]
KeyVariable = Annotated[
    str | None,
    typer.Option(
        help="variable of the environment, or of .env, that has the key; OPENAI_API_KEY for "
        "api.openai.com, none for others"
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="ask without asking you first")]


@dataclass(frozen=True)
class Prices:
    """What tokens cost, USD a million; None where nobody said.

    Attributes:
        going_in: of what is asked.
        coming_out: of answers.
    """

    going_in: float | None
    coming_out: float | None

    def cost(self, going_in: int, coming_out: int) -> float | None:
        """Return what so many tokens cost, in USD."""
        if self.going_in is None or self.coming_out is None:
            return None
        return (going_in * self.going_in + coming_out * self.coming_out) / 1e6

    def told(self, going_in: int, coming_out: int) -> str:
        """Say what so many tokens cost."""
        cost = self.cost(going_in, coming_out)
        if cost is None:
            return "at a cost that --input-price and --output-price would tell"
        return f"for {usd(cost)}"


@dataclass(frozen=True)
class Spent:
    """Tokens that answers took, and what they cost.

    Attributes:
        input_tokens: that went in.
        output_tokens: that came out.
        cost_usd: None where nobody said what tokens cost.
    """

    input_tokens: int
    output_tokens: int
    cost_usd: float | None


def spent(answers: Iterable["Said"], prices: Prices) -> Spent:
    """Return what answers took, each of which was asked for once."""
    answers = list(answers)
    tokens = sum(one.input_tokens for one in answers), sum(one.output_tokens for one in answers)
    return Spent(*tokens, prices.cost(*tokens))


def told(everything: Spent, this_run: Spent, prices: Prices) -> str:
    """Say what all answers took, and which part of it this run's, the others being kept ones."""
    both = everything.input_tokens, everything.output_tokens
    now = this_run.input_tokens, this_run.output_tokens
    part = "all" if now == both else f"{now[0]:,} and {now[1]:,}, {prices.told(*now)},"
    return f"{both[0]:,} tokens in, {both[1]:,} out, {prices.told(*both)}, {part} in this run"


def client() -> ModuleType:
    """Return the module that asks.

    Raises:
        PricerError: its library is not installed.
    """
    try:
        from pricer.commands import frontier
    except ModuleNotFoundError as error:
        if error.name != "openai":
            raise
        raise PricerError("the client is not installed: `pip install 'pricer[api]'`") from None
    return frontier


def agree(
    endpoint: "Endpoint",
    texts: list[str],
    cache: "Cache",
    *,
    answer_tokens: int,
    prices: Prices,
    yes: bool,
) -> list[str]:
    """Tell what asking costs, and return which texts are asked about if someone agrees.

    Args:
        endpoint: who is asked.
        texts: about what.
        cache: answers of earlier runs, which are not asked for again.
        answer_tokens: that an answer takes, thoughts left out.
        prices: of tokens.
        yes: ask nobody.

    Raises:
        PricerError: nobody can be asked.
        typer.Abort: nobody agrees.
    """
    frontier = client()
    asked = dict.fromkeys(texts)
    open_ = [text for text in asked if cache.get(frontier.cache_key(endpoint, text)) is None]
    going_in, coming_out = frontier.expected_tokens(endpoint, open_), answer_tokens * len(open_)
    most = endpoint.max_tokens * len(open_)
    print(
        f"{endpoint.model} at {without_passwords(endpoint.url)}: {len(open_)} of {len(texts)} "
        f"products to ask, about {going_in:,} tokens in and {coming_out:,} out, "
        f"{prices.told(going_in, coming_out)}; at most {most:,} out (--max-tokens), "
        f"{prices.told(going_in, most)}"
    )
    if open_ and not yes:
        if sys.stdin is None or not sys.stdin.isatty():  # None: closed
            raise PricerError("nobody to confirm it: add --yes")
        typer.confirm("ask now?", abort=True)
    return open_


def key_for(url: str, variable: str | None) -> str:
    """Return the key for an address; "" where none is to be sent.

    Raises:
        PricerError: it is no address, there is no such key, or others could read it on its way.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise PricerError(f"--url must be an address as in https://HOST/v1, got {quoted(url)}")
    variable = variable or ("OPENAI_API_KEY" if host == "api.openai.com" else None)
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key or not (key.isascii() and key.isprintable()):
        what = "holds no key that can be sent" if key else "is not set"
        raise PricerError(f"{variable} {what}: set it in the environment or in .env")
    if parts.scheme == "http" and host not in HERE:
        raise PricerError(f"{url}: a key goes over https alone, but for servers on this machine")
    return key
