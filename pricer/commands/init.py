"""`pricer init`: a project of one's own."""

import shlex
import shutil
import sys
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
    if items and CONTROLS.search(str(items)):
        raise PricerError(
            f"--items {quoted(str(items))} has characters that show nothing or are no text: "
            "rename it"
        )
    if items and not items.exists():
        raise PricerError(f"--items {quoted(str(items))}: no such file or folder")
    with projects.beginning(folder) as partial:
        params, left_out = projects.project_params(items)
        told = projects.create(partial, folder.resolve().name, params, items)
    print(f"{folder.resolve()} is a project now: {told}")
    if items:
        print(_about_products(items, folder))
    if left_out:
        print(f"not used: {left_out}")
    print("", *_next_commands(folder), sep="\n  ")
    print("\nparams.yaml has every knob, README.md the next commands")


def _about_products(items: Path, folder: Path) -> str:
    held = ", which DVC holds" if (folder / "products.dvc").exists() else ""
    return f"a copy of {items} is in its folder products{held}"


def _next_commands(folder: Path) -> list[str]:
    commands = [
        "dvc repro    # fetch, train, judge: 10 to 20 minutes on two cores; again after any change",
        'pricer predict "Electric kettle, stainless steel, 1.7 litres, 2200 W"',
    ]
    if shutil.which("git"):
        kept = 'git add -A && git commit -m "first run"    # what later runs are compared with'
        commands.insert(1, kept)
    if folder.resolve() != Path.cwd():
        commands.insert(0, f"cd {shlex.quote(str(folder))}")
    activate, python = Path(sys.prefix, "bin/activate"), shutil.which("python")
    # DVC starts stages by the first `python` there is, which has to be the one of this library
    if activate.is_file() and (python is None or Path(python).parent != activate.parent):
        commands.insert(0, f"source {shlex.quote(str(activate))}")
    return commands
