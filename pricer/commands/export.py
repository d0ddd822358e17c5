"""`pricer export`: the trained model in one piece, judged again before it is kept."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pricer.errors import PricerError, quoted
from pricer.workspace import Workspace

if TYPE_CHECKING:
    from pricer.export.fidelity import Fidelity
    from pricer.export.trained import Trained

app = typer.Typer(no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="to make; it must not exist")]
Products = Annotated[int, typer.Option(min=1, help="validation products that it is judged on")]
Tolerance = Annotated[
    float, typer.Option(min=0, help="USD that its MAE and CRPS may be above the trained model's")
]
Kind = Annotated[
    Literal["f16", "q8_0", "q4_0"], typer.Option("--type", help="of the weights in the file")
]
Judge = Annotated[bool, typer.Option("--judge/--no-judge", help="run it by llama.cpp")]


@app.command()
def merged(
    folder: Folder,
    onto: Annotated[
        Literal["trained", "original"],
        typer.Option(help="the 4-bit weights' numbers, or the weights before: another model"),
    ] = "trained",
    dtype: Annotated[Literal["bfloat16", "float16"], typer.Option(help="of the weights")] = (
        "bfloat16"
    ),
    products: Products = 200,
    tolerance: Tolerance = 1.0,
) -> None:
    """Write base model and adapter as one Hugging Face folder, as transformers and vLLM read."""
    _check_new(folder)
    # torch takes seconds to import: only who exports waits for it
    from pricer.export.card import EVIDENCE, copy_evidence, model_card
    from pricer.export.fidelity import check_fidelity, compare_prices, fidelity_text
    from pricer.export.merging import merge, save_merged
    from pricer.export.trained import merged_settings, read_trained
    from pricer.files import writing
    from pricer.model.base import DTYPES, load_tokenizer

    trained = read_trained(Workspace(), products)
    with writing(folder, folder=True) as partial:
        model = merge(trained.base, trained.adapter, trained.record, onto=onto, dtype=DTYPES[dtype])
        save_merged(
            model,
            load_tokenizer(trained.base),
            trained.base,
            partial,
            max_new_tokens=trained.record.max_new_tokens,
        )
        del model
        exported = trained.prices_of_merged(partial, dtype)
        fidelity = compare_prices(trained.products, trained.prices(), exported)
        check_fidelity(fidelity, tolerance, folder)
        asked = 'Predictor("THIS_FOLDER")'
        note = ""
        if trained.evidence:
            asked = f'Predictor("THIS_FOLDER", evidence="THIS_FOLDER/{EVIDENCE}")'
            note = f" {copy_evidence(trained.evidence, partial)}"
        weights = (
            "numbers that its quantized weights stand for"
            if onto == "trained"
            else ("original weights, which it was not trained on")
        )
        card = model_card(
            trained.base,
            trained.adapter,
            merged_settings(trained.record),
            is_made=f"A base model with an adapter merged onto the {weights}, in {dtype}.",
            judged=fidelity_text(fidelity, markdown=True),
            use=f"`{asked}`, or any library that reads a folder of transformers.{note}",
        )
        (partial / "README.md").write_text(card, encoding="utf-8")
    print(f"{folder}: merged onto the {weights}, {dtype}\n\n{fidelity_text(fidelity)}")


@app.command()
def gguf(
    file: Annotated[Path, typer.Argument(help="to write; it must not exist")],
    kind: Kind = "q8_0",
    judge: Judge = True,
    products: Products = 50,
    tolerance: Tolerance = 1.0,
) -> None:
    """Write base model and adapter as one GGUF file, for llama.cpp and what is built on it."""
    _check_new(file)
    trained = _read_trained(products, judge=judge)
    from pricer.files import writing

    with writing(file) as partial:
        said = _write_gguf(trained, partial, kind, file, judge=judge, tolerance=tolerance)
    print(f"{file}: {kind}, {file.stat().st_size:,} bytes\n\n{said}")


@app.command()
def ollama(
    folder: Folder,
    kind: Kind = "q8_0",
    judge: Judge = True,
    products: Products = 50,
    tolerance: Tolerance = 1.0,
) -> None:
    """Write a GGUF file and the Modelfile that `ollama create` takes."""
    _check_new(folder)
    trained = _read_trained(products, judge=judge)
    from pricer.export.card import model_card
    from pricer.export.ollama import GGUF_NAME, modelfile
    from pricer.export.trained import merged_settings
    from pricer.files import writing

    with writing(folder, folder=True) as partial:
        said = _write_gguf(
            trained, partial / GGUF_NAME, kind, folder, judge=judge, tolerance=tolerance
        )
        (partial / "Modelfile").write_text(modelfile(trained.record), encoding="utf-8")
        card = model_card(
            trained.base,
            trained.adapter,
            merged_settings(trained.record),
            is_made=f"A base model with an adapter merged into it, as a GGUF file ({kind}).",
            judged=f"```text\n{said}\n```",
            use="`ollama create pricer -f Modelfile` in this folder; prompts go as they are.",
        )
        (partial / "README.md").write_text(card, encoding="utf-8")
    print(f"{folder}: {kind}\n\n{said}\n\nollama create pricer -f {folder / 'Modelfile'}")


@app.command()
def combined(
    folder: Folder,
    adapter: Annotated[
        list[str], typer.Option(help="FOLDER=WEIGHT of an adapter; two at least, one option each")
    ],
    products: Products = 200,
    tolerance: Tolerance = 1.0,
) -> None:
    """Write a weighted sum of adapters of one base model as an adapter of its own."""
    _check_new(folder)
    weights = dict(map(_weighted, adapter))
    if len({folder.resolve() for folder in weights}) < len(adapter):
        raise PricerError("--adapter names a folder twice: give each one weight")
    from pricer.escaping import markdown
    from pricer.export.card import model_card
    from pricer.export.combining import check_combinable, combine
    from pricer.export.fidelity import check_fidelity, compare_prices, fidelity_text
    from pricer.export.trained import read_trained
    from pricer.files import writing
    from pricer.model.base import base_model_sha256
    from pricer.prices.record import record_of

    trained = read_trained(Workspace(), products)
    check_combinable(weights, trained.base, trained.record)
    with writing(folder, folder=True) as partial:
        combine(trained.base, weights, trained.record, partial)
        fidelity = compare_prices(trained.products, trained.prices(), trained.prices(partial))
        check_fidelity(fidelity, tolerance, folder)
        card = model_card(
            trained.base,
            partial,
            record_of(next(iter(weights))).model_copy(
                update={"base_model_sha256": base_model_sha256(trained.base)}
            ),
            relation="adapter",
            is_made=f"A weighted sum of adapters: {markdown(' + '.join(adapter))}.",
            judged=fidelity_text(fidelity, markdown=True),
            use='`Predictor("BASE_MODEL_FOLDER", "THIS_ADAPTER")`, or as any adapter of PEFT.',
        )
        (partial / "README.md").write_text(card, encoding="utf-8")
    print(f"{folder}: {' + '.join(adapter)}\n\n{fidelity_text(fidelity)}")


def _weighted(text: str) -> tuple[Path, float]:
    folder, _, weight = text.rpartition("=")
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not folder or not math.isfinite(number):
        raise PricerError(
            f"--adapter must be FOLDER=WEIGHT, as in data/adapter=0.5, got {quoted(text)}"
        )
    return Path(folder), number


def _check_new(path: Path) -> None:
    if path.exists():
        raise PricerError(f"{path} exists: name what is to be made, or remove it first")


def _read_trained(products: int, *, judge: bool) -> "Trained":
    from pricer.export.llama_cpp import check_llama_cpp
    from pricer.export.trained import read_trained

    if judge:
        check_llama_cpp()
    return read_trained(Workspace(), products)


def _write_gguf(
    trained: "Trained",
    file: Path,
    kind: Literal["f16", "q8_0", "q4_0"],
    name: Path,
    *,
    judge: bool,
    tolerance: float,
) -> str:
    """Write the model as a GGUF file, and return how its prices differ from the trained one's.

    Args:
        trained: the model.
        file: to write.
        kind: of its weights.
        name: what errors call it.
        judge: whether it is run.
        tolerance: see `check_fidelity`.
    """
    import tempfile

    import torch

    from pricer.export.fidelity import check_fidelity, fidelity_text
    from pricer.export.gguf_file import check_convertible, write_gguf
    from pricer.export.merging import merge, save_merged
    from pricer.model.base import load_tokenizer

    check_convertible(trained.base)
    tokenizer = load_tokenizer(trained.base)
    with tempfile.TemporaryDirectory(
        dir=file.parent, prefix=f".{name.name}.", suffix=".partial"
    ) as temporary:
        model = merge(
            trained.base, trained.adapter, trained.record, onto="trained", dtype=torch.float16
        )
        save_merged(
            model,
            tokenizer,
            trained.base,
            Path(temporary),
            max_new_tokens=trained.record.max_new_tokens,
        )
        del model
        write_gguf(Path(temporary), file, kind)
    if not judge:
        return "not judged: its prices were not compared with those of the trained model"
    fidelity = _judge_gguf(trained, file)
    check_fidelity(fidelity, tolerance, name)
    return fidelity_text(fidelity)


def _judge_gguf(trained: "Trained", file: Path) -> "Fidelity":
    from pricer.export.fidelity import compare_prices
    from pricer.export.llama_cpp import check_tokens, llama_server, read_distributions
    from pricer.model.base import load_tokenizer
    from pricer.prices.trie import build_price_trie
    from pricer.products.prompts import encode_prompts

    tokenizer, prompts = load_tokenizer(trained.base), trained.prompts
    longest = max(map(len, encode_prompts(tokenizer, prompts)))
    with llama_server(file, tokens=longest) as client:
        check_tokens(client, tokenizer, prompts)
        trie = build_price_trie(tokenizer, trained.record.max_price)
        exported = read_distributions(client, tokenizer, trie, prompts)
    return compare_prices(trained.products, trained.prices(), exported.probabilities)
