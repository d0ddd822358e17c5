"""A tiny Llama with a tokenizer of its own, made on the spot and saved like any base model."""

import os
from pathlib import Path

import pandas as pd
import pytest

# the tests never reach a hub, whatever the machine is set up for
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pricer.products.catalog import generate_products  # noqa: E402
from pricer.products.items import clean_products  # noqa: E402

ROOT = Path(__file__).parent.parent
# of the pipeline, as DVC names them
PIPELINE = (
    "fetch@items",
    "fetch@model",
    "prompts",
    "train",
    "predict@base",
    "predict@tuned",
    "baselines",
    "evaluate",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=3, help="training runs to kill in test_resume")


@pytest.fixture(scope="session")
def items() -> pd.DataFrame:
    """Two hundred catalogue items."""
    rows = pd.DataFrame(generate_products(200, seed=7, noise=0.15, min_price=0.5, max_price=999.49))
    return clean_products(
        rows, where="catalog", on_invalid="error", min_price=0.5, max_price=999.49
    )[0]


@pytest.fixture(scope="session")
def base_model_dir(tmp_path_factory: pytest.TempPathFactory, items: pd.DataFrame) -> Path:
    """A randomly initialised two-layer Llama and a byte-level BPE tokenizer, one token a digit."""
    return make_base_model(tmp_path_factory.mktemp("base_model"), items["summary"].tolist())


@pytest.fixture(scope="session")
def tokenizer(base_model_dir: Path):
    from pricer.model.base import load_tokenizer

    return load_tokenizer(base_model_dir)


def make_base_model(folder: Path, texts: list[str]) -> Path:
    """Save a tiny Llama and a tokenizer trained on `texts`, one token a digit as in SmolLM2."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=["<|end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>").save_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(bpe.get_vocab()),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            bos_token_id=None,
            eos_token_id=0,
            tie_word_embeddings=True,
        )
    )
    # the tied output layer stays frozen: at the usual scale no adapter could move its logits far
    model.get_input_embeddings().weight.data.mul_(10)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder
