"""An adapter that was trained elsewhere, in the place of one of this run: is it asked as it was?"""

import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_save

from pricer.errors import ParamsError, PricerError, quoted
from pricer.escaping import markdown
from pricer.files import read_facts
from pricer.hub import card_data, read_origin
from pricer.model.adapters import card_settings, check_adapter
from pricer.model.base import base_model_sha256
from pricer.model.folder import ADAPTER_CONFIG, read_object
from pricer.params import Params

CARD = "README.md"
# what a card says under `pricer`, and of which type
SETTINGS = {"base_model_sha256": str, "cutoff": int, "quantization": dict, "evidence": dict}


def is_published(fetched: Path) -> bool:
    """Tell whether the params name an adapter that is trained already."""
    return (fetched / ADAPTER_CONFIG).exists()


def take_published(params: Params, fetched: Path, base_model: Path, out: Path) -> str:
    """Copy an adapter that was fetched, and return where it comes from, in words.

    Its card keeps what it says, licence included, and gains what was asked of the params and where
    the adapter comes from.

    Args:
        params: all of them.
        fetched: folder of the adapter.
        base_model: folder of the base model.
        out: an empty folder.

    Raises:
        PricerError: the adapter is of another base model.
        ParamsError: prompts are not as it was trained with, or nobody says how it was.
    """
    check_adapter(fetched)
    _check_card(fetched)
    settings = card_settings(fetched)
    _check_quantization(params, fetched, settings)
    _check_base_model(fetched, settings, base_model)
    cutoff = _check_cutoff(params, fetched, settings)
    evidence = _check_evidence(params, fetched, settings)
    origin = str(read_facts(fetched / "origin.json")["adapter"])
    for file in fetched.iterdir():
        if file.name != "origin.json":
            shutil.copyfile(file, out / file.name)
    told = {"evidence": evidence} if evidence else {}
    asked = {
        "base_model_sha256": base_model_sha256(base_model),
        "cutoff": cutoff,
        "quantization": params.quantization.model_dump(),
    }
    card = out / CARD
    if not card.exists():
        card.write_text("# Price adapter\n", encoding="utf-8")
    hub = read_origin(base_model).hub
    licence = {str(key): text for key, text in hub.license.items()} if hub else {}
    metadata_save(card, licence | card_data(out) | {"pricer": asked | told})
    # where a folder lies is nobody else's business
    whence = "a folder" if origin.startswith("folder ") else markdown(origin)
    with card.open("a", encoding="utf-8") as text:
        text.write(f"\n## Origin\n\nTaken as it is from {whence}.\n")
    return origin


def _check_card(fetched: Path) -> None:
    """Raise PricerError if a card is damaged: what it says, its licence too, would get lost."""
    card = fetched / CARD
    if not card.exists():
        return
    try:
        text = card.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PricerError(f"{card} is not UTF-8 text (byte {error.start})") from None
    if text.startswith("---") and not card_data(fetched):
        raise PricerError(f"{card}: the metadata between its first two --- cannot be read")
    settings = card_settings(fetched)
    for key, kind in SETTINGS.items():
        if not isinstance(settings.get(key, kind()), kind):
            raise PricerError(
                f"{card}: pricer.{key} is {quoted(settings[key])}, must be of type {kind.__name__}"
            )


def _check_quantization(params: Params, fetched: Path, settings: dict[str, Any]) -> None:
    trained_with, here = settings.get("quantization"), params.quantization.model_dump()
    if trained_with not in (None, here):
        raise ParamsError(
            f"{fetched}: trained on a base model with quantization {quoted(trained_with)}, the "
            f"params have {here}: set quantization to that"
        )


def _check_base_model(fetched: Path, settings: dict[str, Any], base_model: Path) -> None:
    """Raise PricerError if an adapter is known to be of another base model than this.

    By the hash in its card, else by the name of one from the Hub in its configuration.
    """
    origin = read_origin(base_model)
    known = settings.get("base_model_sha256")
    if known and known != base_model_sha256(base_model):
        raise PricerError(
            f"{fetched}: its card names a base model of SHA-256 {quoted(known)}, which "
            f"{origin.base_model} is not: set model to what it was trained on"
        )
    named = read_object(fetched / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not known and origin.hub and named != origin.hub.repo:
        raise PricerError(
            f"{fetched}: {ADAPTER_CONFIG} names the base model {quoted(named)}, the params have "
            f"{origin.hub.repo}: set model.hub.id to what it was trained on"
        )


def _check_cutoff(params: Params, fetched: Path, settings: dict[str, Any]) -> int:
    trained_with = settings.get("cutoff", params.adapter.cutoff)
    if trained_with is None:
        raise ParamsError(
            f"{fetched}: its card does not say to how many tokens descriptions were cut: "
            "set adapter.cutoff to it, and prompts.cutoff to the same"
        )
    if trained_with != params.prompts.cutoff:
        raise ParamsError(
            f"{fetched}: trained on descriptions of at most {quoted(trained_with)} tokens, "
            f"prompts.cutoff is {params.prompts.cutoff}: set it to that"
        )
    return params.prompts.cutoff


def _check_evidence(
    params: Params, fetched: Path, settings: dict[str, Any]
) -> dict[str, Any] | None:
    """Return what prompts tell beside the description, in the words of a card; None for nothing."""
    told = {"neighbors": params.evidence.neighbors, "words": params.evidence.words}
    if "cutoff" in settings:  # a card of ours, which says it where there is some
        trained_with = settings.get("evidence") or {"neighbors": 0, "words": False}
        if any(trained_with.get(key) != value for key, value in told.items()):
            raise ParamsError(
                f"{fetched}: trained with evidence of {quoted(trained_with)}, the params have "
                f"{told}: set evidence.neighbors and evidence.words to that"
            )
    elif params.adapter.evidence is None:
        raise ParamsError(
            f"{fetched}: its card does not say whether prompts told evidence: set "
            "adapter.evidence to true or false (of the notebooks' adapters: false)"
        )
    elif params.adapter.evidence != any(told.values()):
        raise ParamsError(
            f"{fetched}: adapter.evidence is {str(params.adapter.evidence).lower()}, the params "
            f"have {told}: set evidence.neighbors and evidence.words to what it was trained with"
        )
    return told if any(told.values()) else None
