"""`pricer preset`: a whole set of knobs into `params.yaml`."""

import sys
from typing import Annotated

import typer

from pricer.errors import ParamsError, PricerError
from pricer.files import writing
from pricer.workspace import Workspace

PARAMS, PRESETS = Workspace().params, Workspace().presets


def preset(
    name: Annotated[str | None, typer.Argument(help="demo, small, lite, full, ...")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="write without asking")] = False,
    check: Annotated[bool, typer.Option("--check", help="check every preset")] = False,
) -> None:
    """Write a whole set of knobs to `params.yaml`, whose comments stay; the diff comes first."""
    # YAML takes a moment to import: only commands that read it wait for it
    from pricer.commands import presets
    from pricer.params import params_text

    if (name is None) != check:
        raise ParamsError("give either the name of a preset or --check")
    if name is None:
        for known in presets.preset_files(PRESETS):
            presets.check_preset(PRESETS, known)
            print(f"{known}: every knob is there and allowed")
        return
    presets.preset_params(PRESETS, name)
    before = params_text(PARAMS) if PARAMS.exists() else ""
    after = presets.with_preset(before, presets.preset_text(PRESETS, name))
    if before == after:
        print(f"{PARAMS} is preset {name} already", file=sys.stderr)
        return
    print(presets.difference(before, after, str(PARAMS)), end="", flush=True)
    if not yes and (sys.stdin is None or not sys.stdin.isatty()):  # None: closed
        raise PricerError(f"nothing written: add --yes to write this to {PARAMS}")
    if not yes and not typer.confirm(f"Write this to {PARAMS}?", err=True):
        raise PricerError("nothing written")
    with writing(PARAMS) as partial:
        partial.write_text(after, encoding="utf-8")
    print(f"{PARAMS} is preset {name} now: `dvc repro` runs it", file=sys.stderr)
