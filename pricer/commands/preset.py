"""`pricer preset`: a whole set of knobs into `params.yaml`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pricer.errors import ParamsError, PricerError
from pricer.files import writing

PARAMS, PRESETS = Path("params.yaml"), Path("presets")


def preset(
    name: Annotated[str | None, typer.Argument(help="demo, lite or full")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="write without asking")] = False,
    check: Annotated[bool, typer.Option("--check", help="check every preset")] = False,
) -> None:
    """Write a whole set of knobs to `params.yaml`, whose comments stay; the diff comes first."""
    # params take a moment to import: only commands that read them wait for it
    from pricer.commands.presets import difference, preset_file, preset_names, with_preset

    if (name is None) != check:
        raise ParamsError("give either the name of a preset or --check")
    if name is None:
        for known in preset_names(PRESETS) or ["demo"]:  # which says that there are none
            preset_file(PRESETS, known)
            print(f"{known}: every knob is there and allowed")
        return
    file = preset_file(PRESETS, name)
    try:
        before = PARAMS.read_text(encoding="utf-8") if PARAMS.exists() else ""
    except UnicodeDecodeError as error:
        raise ParamsError(f"{PARAMS} is not UTF-8 text (byte {error.start})") from None
    after = with_preset(before, file.read_text(encoding="utf-8"))
    if before == after:
        print(f"{PARAMS} is preset {name} already", file=sys.stderr)
        return
    print(difference(before, after, str(PARAMS)), end="", flush=True)
    if not yes and not sys.stdin.isatty():
        raise PricerError(f"nothing written: add --yes to write this to {PARAMS}")
    if not yes and not typer.confirm(f"Write this to {PARAMS}?", err=True):
        raise PricerError("nothing written")
    with writing(PARAMS) as partial:
        partial.write_text(after, encoding="utf-8")
    print(f"{PARAMS} is preset {name} now: `dvc repro` runs it", file=sys.stderr)
