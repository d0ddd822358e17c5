"""`pricer judge-api`: what a model behind an API says of test products, judged as others are."""

import datetime
import re
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pricer.commands import paid
from pricer.errors import without_passwords
from pricer.tables import interval_text, usd
from pricer.workspace import Workspace, require

if TYPE_CHECKING:
    from pricer.judging.asked import Asked
    from pricer.judging.paired import Bootstrap

QUESTION = (
    "What does this product cost in US dollars? "
    "Answer with your best estimate as a number alone, without any explanation.\n\n"
)
ANSWER_TOKENS = 5


def judge_api(
    url: paid.Url,
    model: paid.Model,
    endpoint: Annotated[
        Literal["chat", "completions"],
        typer.Option(help="ask in words, or continue this pipeline's own prompts"),
    ] = "chat",
    products: Annotated[int, typer.Option(min=1, help="of the test split, the first")] = 200,
    name: Annotated[str | None, typer.Option(help="in the leaderboard; the model's")] = None,
    concurrency: paid.Concurrency = 4,
    max_tokens: paid.MaxTokens = 200,
    input_price: paid.InputPrice = None,
    output_price: paid.OutputPrice = None,
    key_variable: paid.KeyVariable = None,
    yes: paid.Yes = False,
) -> None:
    """Ask a model behind an API for the prices of test products, and judge it as the others are."""
    from pricer.judging.asked import check_name

    key = paid.key_for(url, key_variable)
    name = name or re.sub(r"[^\w.:-]+", "-", model).strip("-.:")
    check_name(name)
    frontier = paid.client()
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
    where = frontier.Endpoint(url, model, endpoint, QUESTION, max_tokens, key)
    cache, prices = frontier.kept_answers(where, left.root), paid.Prices(input_price, output_price)
    new = paid.agree(where, texts, cache, answer_tokens=ANSWER_TOKENS, prices=prices, yes=yes)
    said = frontier.ask_all(where, texts, cache, concurrency)
    by_text = dict(zip(texts, said, strict=True))  # one that products share is paid for once
    everything = paid.spent(by_text.values(), prices)
    this_run = paid.spent((by_text[text] for text in new), prices)
    asked = Asked(
        model=model,
        url=without_passwords(url),
        endpoint=endpoint,
        asked_on=datetime.datetime.now(datetime.UTC).date(),
        **vars(everything),
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
    scored = _scored(asked, Bootstrap(settings.bootstrap_resamples, settings.seed))
    print(f"{scored}; {paid.told(everything, this_run, prices)}")
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
        "answers without a number)"
    )
