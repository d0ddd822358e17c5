"""`pricer inspect`: how large an adapter gets, and what memory training takes."""

from typing import Annotated

import typer

from pricer.workspace import Workspace


def inspect(
    preset: Annotated[
        str | None, typer.Option(help="a preset in place of params.yaml: lite, full, ...")
    ] = None,
    measure: Annotated[
        bool, typer.Option(help="load the base model, however large, and measure its weights")
    ] = False,
) -> None:
    """Show what the adapter adds to each layer and what memory training takes. Needs no weights."""
    # torch takes seconds to import: only a command that needs it waits for it
    from pricer.commands.inspection import inspection_text
    from pricer.commands.presets import preset_params
    from pricer.params import read_params

    left = Workspace()
    params = read_params(left.params) if preset is None else preset_params(left.presets, preset)
    print(inspection_text(params, left.base_model, measure))
