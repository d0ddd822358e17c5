"""What a run asks for that this machine cannot give: told before anything is loaded."""

import importlib.util
from collections.abc import Sequence

from pricer.errors import ParamsError
from pricer.params import MIN_CALIBRATION, Train

# what sends checkpoints to an address, and how it is installed
BACKUP_LIBRARIES = {
    "az": ("adlfs", "adlfs"),
    "gs": ("gcsfs", "gcsfs"),
    "s3": ("s3fs", "pricer[s3]"),
}


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
            f"run `pip install 'pricer[{','.join(missing)}]'`"
        )


def check_backup(url: str | None) -> None:
    """Raise ParamsError if the library that sends to such an address is not installed."""
    scheme = (url or "").partition("://")[0]
    library, install = BACKUP_LIBRARIES.get(scheme, ("fsspec", "fsspec"))
    if url and importlib.util.find_spec(library) is None:
        raise ParamsError(
            f"train.backup {scheme}:// needs {library}, not installed: "
            f"run `pip install '{install}'`"
        )


def check_calibration(train: Train, products: int) -> None:
    """Raise ParamsError if an adapter is selected on all `products` of the validation split.

    Intervals calibrated on them again would be too narrow, and the run would have been for nothing.
    """
    selected_on = train.selection_size
    if selected_on and products - selected_on < MIN_CALIBRATION:
        raise ParamsError(
            f"train.validation_size must be at most {products - MIN_CALIBRATION}, got "
            f"{selected_on}: the adapter is selected on these of {products} validation products "
            "(train.select, train.early_stopping_patience), and intervals are calibrated on "
            f"{MIN_CALIBRATION} others at least"
        )
