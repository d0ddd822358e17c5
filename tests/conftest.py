"""A tiny Llama with a tokenizer of its own, made on the spot and saved like any base model."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from filelock import FileLock
from hypothesis import settings

# the tests never reach a hub, whatever the machine is set up for
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# several processes test at once, and tiny models gain nothing from a second thread
os.environ.setdefault("OMP_NUM_THREADS", "1")

# pydantic looks for the docstrings of the params in each module there is: now they are few
import pricer.params  # noqa: E402, F401
from pricer.products.catalog import generate_products  # noqa: E402
from pricer.products.items import clean_products  # noqa: E402
from tests.fork_server import fork_server  # noqa: E402
from tests.hub_server import Hub, hub_server  # noqa: E402

# the same examples in every run, however slow the machine is at the moment
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")

ROOT = Path(__file__).parent.parent
COMMANDS = pytest.StashKey[Path]()
Served = tuple[Hub, Path, Path]
# of the pipeline, as DVC names them
PIPELINE = (
    "fetch@items",
    "fetch@model",
    "fetch@adapter",
    "evidence",
    "prompts",
    "train",
    "predict_base",
    "predict",
    "baselines",
    "evaluate",
)

# what runs pipelines, trains, serves or starts commands: not in `make test-fast`. The longest come
# first, so that no process is left alone with one of them.
SLOW = (
    "pipeline/test_experiments.py",
    "pipeline/test_failures.py",
    "pipeline/test_resume.py",
    "pipeline/test_backup.py",
    "pipeline/test_notebook.py",
    "pipeline/test_pipeline.py",
    "pipeline",
    "monitoring/test_command.py",
    "serving/test_log.py",
    "serving/test_page.py",
    "serving/test_hostile_clients.py",
    "serving/test_api.py",
    "serving/test_keys.py",
    "serving/test_schemathesis.py",
    "serving/test_variants.py",
    "serving/test_container.py",
    "training/test_run.py",
    "test_hub.py",
    "test_hub_adapters.py",
    "commands/test_judge_api.py",
    "commands/test_rewrite.py",
    "export",
    "training",
    "commands/test_publish.py",
    "commands/test_memory.py",
    "commands/test_parts.py",
)


def place(path: Path) -> int:
    """Return where the tests of a file stand in the order; `len(SLOW)` if they are quick."""
    name = path.relative_to(ROOT / "tests").as_posix()
    return next((n for n, slow in enumerate(SLOW) if name.startswith(slow)), len(SLOW))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import what is slow, and the libraries it needs, in `make test-fast`."""
    quick = "not slow" in config.option.markexpr
    return True if quick and place(collection_path) < len(SLOW) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow, and let it begin."""
    items.sort(key=lambda item: place(item.path))
    for item in items:
        if place(item.path) < len(SLOW) or "commands" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


def pytest_configure(config: pytest.Config) -> None:
    """Let all processes of a run share one fork server, which the first of them starts."""
    if hasattr(config, "workerinput"):
        config.stash[COMMANDS] = Path(config.workerinput["commands"])
    else:
        stack = ExitStack()
        config.add_cleanup(stack.close)
        config.stash[COMMANDS] = stack.enter_context(fork_server(dict(os.environ)))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of xdist where the commands are."""
    node.workerinput["commands"] = str(node.config.stash[COMMANDS])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=3, help="training runs to kill in test_resume")
    parser.addoption("--ray-kills", type=int, default=3, help="processes to kill in test_ray")
    parser.addoption("--losses", type=int, default=2, help="machines to lose, by kind of backup")
    parser.addoption("--serve-kills", type=int, default=15, help="services to kill, by database")
    parser.addoption("--fuzz", type=int, default=500, help="inputs of test_fuzz")
    parser.addoption("--fuzz-from", type=int, default=0, help="number of the first of each kind")


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
    texts = items["summary"].tolist()
    return build_once(tmp_path_factory, "base_model", lambda folder: make_base_model(folder, texts))


@pytest.fixture(scope="session")
def commands(pytestconfig: pytest.Config) -> Path:
    """A folder with `python`, `pricer` and `dvc` that need not import torch anew."""
    return pytestconfig.stash[COMMANDS]


@pytest.fixture(scope="session")
def hub_with_commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("home")
    with hub_server() as hub, fork_server(os.environ | hub.environment(home)) as commands:
        yield hub, home, commands


@pytest.fixture
def served(hub_with_commands: Served) -> Served:
    """An empty Hub, a folder for its client's cache, and commands that know this Hub."""
    return emptied(hub_with_commands)


def emptied(served: Served) -> Served:
    """Return the same with nothing in it of the tests before."""
    hub, home, _ = served
    for held in (hub.repos, hub.tokens, hub.faults, hub.requests, hub.objects):
        held.clear()
    shutil.rmtree(home, ignore_errors=True)
    return served


def build_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], None]) -> Path:
    """Return the folder `name` that all test processes share; the first one calls `build`."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, built = root / name, root / f"{name}.built"
    with FileLock(f"{folder}.lock"):
        if not built.exists():
            folder.mkdir()
            build(folder)
            built.touch()
    return folder


@pytest.fixture(scope="session")
def tokenizer(base_model_dir: Path) -> Any:
    from pricer.model.base import load_tokenizer

    return load_tokenizer(base_model_dir)


def make_base_model(folder: Path, texts: list[str]) -> None:
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
