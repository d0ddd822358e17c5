"""Predictions of this run and of earlier ones: files, git revisions, DVC experiments."""

import io
import json
import sys
from pathlib import Path

import pandas as pd

from pricer.errors import PricerError, quoted
from pricer.files import read_parquet
from pricer.judging.asked import read_asked
from pricer.judging.baselines import BASELINES
from pricer.library import HASHES, is_current
from pricer.prices.predictions import read_baselines, read_predictions
from pricer.workspace import require

ON_THE_HUB = "hub:"  # before OWNER/NAME, maybe @REVISION: a branch of git may be called so too
ITEM_COLUMNS = ["id", "title", "category"]
# estimates that git holds: all of a run's, or 1,000 of more
COMMITTED = Path("metrics/plots/scatter.json")


class NotCachedError(PricerError):
    """What DVC tracks of an earlier run is on another machine."""


def read_run(
    name: str, *, predictions_dir: Path, items_file: Path
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return the predictions that `name` stands for, and the items they are of, where known.

    Args:
        name: a file of predictions; `workspace`, `tuned` or `base`; a baseline; a model that
            `pricer judge-api` has asked; else a git
            revision or a DVC experiment, of which it is the tuned model.
        predictions_dir: relative to the project's root, which is the current folder.
        items_file: of the test split, likewise.

    Returns:
        A table with id, price, estimate_usd and, of a model, crps (USD); the items with id, title
        and category.

    Raises:
        PricerError: there is no such thing.
    """
    baselines = predictions_dir / "baselines.parquet"
    if name.endswith(".parquet"):
        table = _read(Path(name), name)
    elif name in ("workspace", "tuned", "base"):
        file = predictions_dir / f"{'tuned' if name == 'workspace' else name}.parquet"
        table = _read(file, name)
    elif baselines.exists() and name in (table := read_baselines(baselines, str(baselines))):
        table = table[["id", "price", name]].rename(columns={name: "estimate_usd"})
    elif name in BASELINES:
        require(baselines)
        raise PricerError(f"{baselines} does not have {name}: `dvc repro baselines` makes it anew")
    elif (asked := Path("metrics/api") / f"{name}.json").is_file():
        table = read_asked(asked).predictions()
    else:
        return _read_earlier(name, predictions_dir / "tuned.parquet", items_file)
    return table, read_items_of(items_file)


def read_items_of(items_file: Path) -> pd.DataFrame | None:
    """Return id, title and category of the products that are here; None where there are none."""
    return read_parquet(items_file, ITEM_COLUMNS) if items_file.exists() else None


def is_adapter(name: str) -> bool:
    """Tell whether a name stands for an adapter: a folder that holds one, or one on the Hub."""
    return name.startswith(ON_THE_HUB) or (Path(name) / "adapter_config.json").is_file()


def _read_earlier(
    name: str, predictions_file: Path, items_file: Path
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return a revision's or an experiment's predictions and items, or what git holds of them."""
    try:
        table = read_tuned(predictions_file, name)
        items = read_revision(items_file, name)
        return table, read_parquet(items, ITEM_COLUMNS, name=f"{items_file} of {name}")
    except NotCachedError as error:
        try:
            table = pd.DataFrame(json.load(read_revision(COMMITTED, name)))
            table = table.rename(columns={"truth_usd": "price"})[["id", "price", "estimate_usd"]]
        except (NotCachedError, KeyError, ValueError):  # a run of an earlier version has no ids
            raise error from None
        print(
            f"{name}: not in DVC's cache; compared by the {len(table)} estimates in its "
            f"{COMMITTED}, which git holds",
            file=sys.stderr,
        )
        return table, None


def _read(file: Path, name: str) -> pd.DataFrame:
    require(file)
    return read_predictions(file, name)


def read_tuned(path: Path, revision: str) -> pd.DataFrame:
    """Return the tuned model's predictions at a git revision or in an experiment.

    Raises:
        PricerError: see `read_revision`; they are of an earlier version of `pricer`.
    """
    return read_predictions(read_revision(path, revision), f"{path} of {revision}")


def read_revision(path: Path, revision: str) -> io.BytesIO:
    """Read a file that DVC tracks as it was at a git revision or in an experiment.

    Args:
        path: relative to the project's root, which is the current folder.
        revision: whatever git can name, or the name of a DVC experiment.

    Raises:
        PricerError: there is no such revision.
        NotCachedError: it has no such file, or the file is neither in DVC's cache nor in its
            remote.
    """
    # DVC takes a second to import: only who asks for an earlier run waits for it
    import dvc.api
    from dvc.exceptions import DvcException
    from dvc.scm import SCM, RevError, SCMError

    try:
        # at a revision, DVC takes paths from git's root, which may be a folder further up
        inside = Path.cwd().relative_to(Path(SCM(str(Path.cwd())).root_dir).resolve())
        content = dvc.api.read(str(inside / path), rev=revision, mode="rb")
    except RevError:
        raise PricerError(
            f"{quoted(revision)} is no predictor, git revision or experiment: "
            "`git log --oneline` and `dvc exp list` show what there is"
        ) from None
    except SCMError:
        raise PricerError(
            f"{quoted(revision)} is no predictor here, and revisions and experiments are known in "
            f"a git repository alone, in which {Path.cwd()} is not"
        ) from None
    except (DvcException, FileNotFoundError):
        raise NotCachedError(
            f"{path} of {revision} is not in the DVC cache: no pipeline had run there, "
            "or `dvc fetch --all-commits` has to bring it from a remote"
        ) from None
    return io.BytesIO(content)


def stages_to_run(target: str) -> list[str]:
    """Return which stages, of `target` and those it needs, `dvc repro` would run now."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            changed = repo.status(targets=[target], with_deps=True)
    except NotDvcRepoError:
        raise PricerError(f"{Path.cwd()} is not in a DVC project: run from the root") from None
    # in a project without the library's files, the stage that looks at them is one that always runs
    if changed.get("library") == ["always changed"] and is_current(Path(HASHES)):
        del changed["library"]
    return sorted(changed)
