"""Several adapters as one: what they add to a base model, weighted and summed."""

import shutil
from pathlib import Path
from typing import Any

import torch

from pricer.errors import PricerError, first_line, quoted
from pricer.model.adapters import adapter_sha256, card_settings, check_adapter, load_adapter
from pricer.model.base import base_model_sha256, choose_device, load_base_model
from pricer.model.folder import ADAPTER_CONFIG, read_object
from pricer.prices.record import ServingRecord

COMBINED = "combined"
# of an adapter's configuration: what more than two plain matrices a layer would need, or names
# layers in a way that a sum of several cannot have
PLAIN = {
    "bias": (None, "none"),
    "init_lora_weights": (True, "gaussian"),
    **dict.fromkeys(("use_dora", "use_rslora", "lora_bias", "fan_in_fan_out"), (None, False)),
    **dict.fromkeys(
        ("modules_to_save", "layers_to_transform", "layers_pattern", "exclude_modules"),
        (None, []),
    ),
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), (None, {})),
}


def check_combinable(adapters: dict[Path, float], base: Path, record: ServingRecord) -> None:
    """Raise PricerError unless adapters can be summed, and are asked as the trained model is.

    Args:
        adapters: weight by folder.
        base: folder of the base model.
        record: how the trained model is asked, on whose prompts the sum is judged.
    """
    if len(adapters) < 2:
        raise PricerError("a combination needs two adapters at least: --adapter FOLDER=WEIGHT")
    here = {
        "base_model_sha256": base_model_sha256(base),
        "cutoff": record.cutoff,
        "quantization": record.quantization.model_dump(),
        "evidence": _told(record.evidence.model_dump() if record.evidence else None),
    }
    for folder in adapters:
        check_adapter(folder)
        config = read_object(folder / ADAPTER_CONFIG)
        names = config.get("target_modules")
        if not isinstance(names, list):
            raise PricerError(
                f"{folder}: {ADAPTER_CONFIG} names its layers by a pattern ({quoted(names)}), must "
                "list them"
            )
        for key, plain in PLAIN.items():
            if config.get(key) not in plain:
                raise PricerError(
                    f"{folder}: {ADAPTER_CONFIG} has {key} {quoted(config[key])}, with which "
                    "adapters have no sum: train without"
                )
        card = card_settings(folder)
        for key, wanted in here.items():
            said = _told(card.get(key)) if key == "evidence" else card.get(key)
            if said != wanted:
                raise PricerError(
                    f"{folder}: its card says {key} {quoted(said)}, the last run has {wanted}: "
                    "only adapters that are asked as the trained one is are combined"
                )


def _told(evidence: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what prompts tell, without the hash of where it comes from."""
    return {key: evidence.get(key) for key in ("neighbors", "words")} if evidence else None


def combine(base: Path, adapters: dict[Path, float], record: ServingRecord, out: Path) -> None:
    """Write the weighted sum of what adapters add to a base model as an adapter of its own.

    Exact: its two matrices are those of all the adapters beside each other (`cat` of peft's
    `add_weighted_adapter`), its rank is the sum of theirs.

    Args:
        base: folder of the base model.
        adapters: weight by folder.
        record: how the base model is loaded.
        out: an existing folder.

    Raises:
        PricerError: they cannot be combined.
    """
    model = load_base_model(
        base,
        device=choose_device("auto"),
        dtype=torch.float32,  # the sum has the type of the base model's other weights
        quantization=record.quantization,
        dequantize=False,
    )
    names = []
    for folder in adapters:
        names.append(adapter_sha256(folder)[:12])
        model = load_adapter(model, folder, torch.float32, name=names[-1])
    try:
        model.add_weighted_adapter(names, list(adapters.values()), COMBINED, combination_type="cat")
    except (TypeError, ValueError) as error:  # layers that one of them lacks, and the like
        raise PricerError(f"these adapters cannot be combined ({first_line(error)})") from None
    config = model.peft_config[COMBINED]
    config.target_modules = sorted(config.target_modules)
    config.base_model_name_or_path = read_object(next(iter(adapters)) / ADAPTER_CONFIG).get(
        "base_model_name_or_path"
    )
    model.save_pretrained(str(out), selected_adapters=[COMBINED], save_embedding_layers=False)
    for file in (out / COMBINED).iterdir():
        file.rename(out / file.name)
    shutil.rmtree(out / COMBINED)
    (out / "README.md").unlink(missing_ok=True)  # a template
