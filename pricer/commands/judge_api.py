"""`pricer judge-api`: what a model behind an API says of test products, judged as others are."""

import datetime
import os
import re
import sys
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

import typer

from pricer.errors import PricerError, quoted, without_passwords
from pricer.tables import interval_text, usd
from pricer.workspace import Workspace, require

HERE = ("localhost", "127.0.0.1", "::1")

if TYPE_CHECKING:
    from pricer.judging.asked import Asked
    from pricer.judging.paired import Bootstrap


def judge_api(
    url: Annotated[str, typer.Option(help="of an OpenAI-compatible API, https://HOST/v1")],
    model: Annotated[str, typer.Option(help="its name there")],
    endpoint: Annotated[
        Literal["chat", "completions"],
        typer.Option(help="ask in words, or continue this pipeline's own prompts"),
    ] = "chat",
    products: Annotated[int, typer.Option(min=1, help="of the test split, the first")] = 200,
    name: Annotated[str | None, typer.Option(help="in the leaderboard; the model's")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="requests at once")] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, help="of an answer, thoughts included")] = 200,
    input_price: Annotated[
        float | None, typer.Option(min=0, help="USD a million tokens that go in")
    ] = None,
    output_price: Annotated[
        float | None, typer.Option(min=0, help="USD a million tokens that come out")
    ] = None,
    key_variable: Annotated[
        str | None,
        typer.Option(
            help="variable of the environment, or of .env, that has the key; OPENAI_API_KEY for "
            "api.openai.com, none for others"
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="ask without asking you first")] = False,
) -> None:
    """Ask a model behind an API for the prices of test products, and judge it as the others are."""
    from pricer.judging.asked import check_name

    key = _key(url, key_variable)
    name = name or re.sub(r"[^\w.:-]+", "-", model).strip("-.:")
    check_name(name)
    try:
        from pricer.commands.frontier import Cache, Endpoint, ask_all, cache_key, expected_tokens
    except ModuleNotFoundError as error:
        if error.name != "openai":
            raise
        raise PricerError("the client is not installed: `pip install 'pricer[api]'`") from None
    from pricer.files import read_parquet
    from pricer.judging.asked import Answer, Asked, write_asked
    from pricer.judging.paired import Bootstrap
    from pricer.params import read_params

    left = Workspace()
    source = left.items / "test.parquet" if endpoint == "chat" else left.prompts / "test.parquet"
    require(source)
    asked_text = "summary" if endpoint == "chat" else "prompt"
    items = read_parquet(source, ["id", "price", asked_text]).head(products)
    texts = items[asked_text].tolist()
    where = Endpoint(url, model, endpoint, max_tokens, key)
    cache = Cache(left.root / "data/api" / f"{where.sha256()[:16]}.jsonl")
    open_ = [text for text in texts if cache.get(cache_key(where, text)) is None]
    going_in, coming_out = expected_tokens(where, open_)
    print(
        f"{model} at {without_passwords(url)}: {len(open_)} of {len(items)} products to ask, "
        f"about {going_in:,} tokens in and {coming_out:,} out, "
        f"{_cost_text(_cost(going_in, coming_out, input_price, output_price))}; at most "
        f"{max_tokens * len(open_):,} out (--max-tokens), "
        f"{_cost_text(_cost(going_in, max_tokens * len(open_), input_price, output_price))}"
    )
    if open_ and not yes:
        if not sys.stdin.isatty():
            raise PricerError("nobody to confirm it: add --yes")
        typer.confirm("ask now?", abort=True)
    said = ask_all(where, texts, cache, concurrency)
    tokens = sum(one.input_tokens for one in said), sum(one.output_tokens for one in said)
    asked = Asked(
        model=model,
        url=without_passwords(url),
        endpoint=endpoint,
        asked_on=datetime.datetime.now(datetime.UTC).date(),
        input_tokens=tokens[0],
        output_tokens=tokens[1],
        cost_usd=_cost(*tokens, input_price, output_price),
        answers=[
            Answer(id=one, price=float(price), text=answer.text)
            for one, price, answer in zip(
                items["id"].tolist(), items["price"].tolist(), said, strict=True
            )
        ],
    )
    file = left.metrics / "api" / f"{name}.json"
    write_asked(file, asked)
    settings = read_params().evaluate
    print(_scored(asked, Bootstrap(settings.bootstrap_resamples, settings.seed)))
    print(f"{file}: `dvc repro evaluate` puts it into the report; or `pricer compare {name} tuned`")


def _scored(asked: "Asked", bootstrap: "Bootstrap") -> str:
    """Return what was measured of a model's answers, in a line."""
    from pricer.judging.metrics import evaluate

    table = asked.predictions()
    guesses = {asked.model: table["estimate_usd"].to_numpy(float)}
    [score] = evaluate(table["id"], table["price"], guesses, bootstrap).values()
    ends = score.intervals["mae"]
    return (
        f"mean absolute error {usd(score.values['mae'])} (95% interval "
        f"{interval_text(ends.low, ends.high)}, n = {score.n}, {int(table['unparsed'].sum())} "
        f"answers without a number); {asked.input_tokens:,} tokens in, "
        f"{asked.output_tokens:,} out, {_cost_text(asked.cost_usd)}"
    )


def _key(url: str, variable: str | None) -> str:
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


def _cost(
    going_in: int, coming_out: int, input_price: float | None, output_price: float | None
) -> float | None:
    if input_price is None or output_price is None:
        return None
    return (going_in * input_price + coming_out * output_price) / 1e6


def _cost_text(cost: float | None) -> str:
    if cost is None:
        return "at a cost that --input-price and --output-price would tell"
    return f"for {usd(cost)}"
