"""Tables of earlier runs: as a git revision or a DVC experiment left them."""

import io
from pathlib import Path

import pandas as pd

from pricer.errors import PricerError


def read_table(path: Path, revision: str) -> pd.DataFrame:
    """Read a Parquet file that DVC tracks as it was at a git revision or in an experiment.

    Args:
        path: relative to the project's root, which is the current folder.
        revision: whatever git can name, or the name of a DVC experiment.

    Raises:
        PricerError: there is no such revision, it has no such file, or the file is in neither
            DVC's cache nor its remote.
    """
    # DVC takes a second to import: only who asks for an earlier run waits for it
    import dvc.api
    from dvc.exceptions import DvcException, FileMissingError
    from dvc.scm import RevError

    try:
        content = dvc.api.read(str(path), rev=revision, mode="rb")
    except RevError:
        raise PricerError(
            f"{revision!r} is no git revision, experiment or predictor: "
            "`git log --oneline` and `dvc exp list` show what there is"
        ) from None
    except FileMissingError:
        raise PricerError(
            f"{path} of {revision} is not in the DVC cache: "
            f"`dvc fetch --all-commits` brings it from a remote, where there is one"
        ) from None
    except (DvcException, FileNotFoundError):
        raise PricerError(f"{revision} has no {path}: no pipeline had run there") from None
    return pd.read_parquet(io.BytesIO(content))
