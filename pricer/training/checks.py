"""What a run asks for that this machine cannot give: told before anything is loaded."""

import importlib.util
from collections.abc import Sequence

from pricer.errors import ParamsError


def check_optimizer(optim: str, *, device: str) -> None:
    """Raise ParamsError if an optimizer is asked for that the type of device does not have."""
    if device == "cpu" and not optim.startswith("adamw_torch"):
        raise ParamsError(
            f"train.optim {optim} needs a GPU: set it to adamw_torch, or look at compute.device"
        )


def check_trackers(names: Sequence[str]) -> None:
    """Raise ParamsError if trackers are asked for that are not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ParamsError(
            f"train.report_to names {', '.join(missing)}, not installed: "
            f"run `pip install '.[{','.join(missing)}]'`"
        )
