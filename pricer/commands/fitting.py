"""Which presets can be trained on the GPU of a machine, and which of them to begin with."""

from pathlib import Path

import torch

from pricer.commands.inspection import adapted_model, estimate_on, model_shape
from pricer.commands.presets import BUILT_IN, preset_params
from pricer.model.sources import find_config
from pricer.workspace import Workspace

WITHOUT_A_GPU = "small"
# the reference recipe's, in the order of what to try first: minutes, then hours to a day
ON_A_GPU = ("lite", "full")


def gpu_bytes() -> int | None:
    """Return the memory of the first GPU that torch sees; None without one."""
    if not torch.cuda.device_count():
        return None
    return int(torch.cuda.get_device_properties(0).total_memory)


def fitting_presets(memory: int | None) -> list[str]:
    """Return the library's presets whose training is estimated to fit, the one to begin with first.

    Args:
        memory: of the GPU, bytes, see `gpu_bytes`; None where there is none.
    """
    if memory is None:
        return [WITHOUT_A_GPU]
    fitting = [name for name in ON_A_GPU if _needed_bytes(name) <= memory]
    return [*fitting, WITHOUT_A_GPU]


def _needed_bytes(preset: str) -> int:
    params = preset_params(BUILT_IN, preset)
    config, _ = find_config(params.model, Workspace(Path()).base_model)
    shape = model_shape(adapted_model(config, params.lora))
    # in bfloat16 the same: both have two bytes
    return sum(estimate_on("cuda", "float16", shape, params).values())
