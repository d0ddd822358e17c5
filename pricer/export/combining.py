"""Several adapters as one: what they add to a base model, weighted and summed."""

import shutil
from pathlib import Path

import torch

from pricer.errors import PricerError, first_line
from pricer.model.adapters import adapter_sha256, card_settings, check_adapter, load_adapter
from pricer.model.base import choose_device, load_base_model
from pricer.model.folder import ADAPTER_CONFIG, read_object
from pricer.prices.record import ServingRecord

COMBINED = "combined"
SAME = ("base_model_sha256", "cutoff", "quantization", "evidence")  # of cards
# with which the sum is no adapter of the same kind
REFUSED = ("use_dora", "use_rslora", "bias", "rank_pattern", "alpha_pattern")


def check_combinable(adapters: dict[Path, float]) -> None:
    """Raise PricerError unless adapters are of one base model, asked in one way, and can be summed.

    Args:
        adapters: weight by folder.
    """
    if len(adapters) < 2:
        raise PricerError("a combination needs two adapters at least: --adapter FOLDER=WEIGHT")
    first, *others = adapters
    for folder in adapters:
        check_adapter(folder)
        config = read_object(folder / ADAPTER_CONFIG)
        for key in REFUSED:
            if config.get(key) not in (None, False, "none", {}):
                raise PricerError(
                    f"{folder}: {ADAPTER_CONFIG} has {key}, with which adapters have no sum: "
                    "train without"
                )
    for folder in others:
        for key in SAME:
            ours, theirs = (card_settings(one).get(key) for one in (first, folder))
            if ours != theirs:
                raise PricerError(
                    f"{first} and {folder} are asked in different ways: their cards differ in {key}"
                )


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
    except ValueError as error:  # layers that one of them lacks, and the like
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
