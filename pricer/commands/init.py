"""`pricer init`: a project of one's own."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pricer.errors import CONTROLS, PricerError, quoted


def init(
    folder: Annotated[Path, typer.Argument(help="a new folder, or an empty one")],
    items: Annotated[
        Path | None, typer.Option(help="your products: a file, or a folder of splits")
    ] = None,
) -> None:
    """Begin a project of one's own: pipeline, params, git and DVC; this library stays installed."""
    # DVC takes a second to import: only this command waits for it
    from pricer.commands import projects

    if CONTROLS.search(str(folder)):
        raise PricerError(f"{quoted(str(folder))} has characters that show nothing: name another")
    if items and not items.exists():
        raise PricerError(f"--items {quoted(str(items))}: no such file or folder")
    with projects.beginning(folder) as partial:
        params = projects.project_params(items, folder)
        told = projects.create(partial, folder.resolve().name, params)
    print(f"{folder.resolve()} is a project now: {told}")
    enter = "" if folder.resolve() == Path.cwd() else f"  cd {shlex.quote(str(folder))}\n"
    print(
        f"\n{enter}  dvc repro          # fetch, train and judge; again after any change\n"
        '  pricer predict "Electric kettle, stainless steel, 1.7 litres, 2200 W"\n\n'
        "params.yaml has every knob, README.md the next commands"
    )
