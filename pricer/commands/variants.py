"""`pricer variants`: which of the models that a service runs is better, by outcomes."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pricer.commands.serve import LOG, serving_extra
from pricer.errors import PricerError
from pricer.escaping import json_text

if TYPE_CHECKING:
    from pricer.serving.trial import Trial


def variants(
    database: Annotated[
        str, typer.Option(help="the service's --database", envvar="PRICER_DATABASE")
    ] = LOG,
    main: Annotated[str, typer.Option(help="variant that others are compared with")] = "tuned",
    output_format: Annotated[
        Literal["text", "json"], typer.Option("--format", help="of what is printed")
    ] = "text",
) -> None:
    """Compare a service's variants by what products really sold for, as often as you like."""
    with serving_extra():
        from pricer.serving.log import Log
        from pricer.serving.trial import trials
    found = trials(Log(database, create=False).judged(), main)
    if not found:
        raise PricerError(f"{database}: no estimate has an outcome yet: POST /v1/outcomes")
    if output_format == "json":
        print(json_text({name: _json(trial) for name, trial in found.items()}))
        return
    for name, trial in found.items():
        print(f"{name}: off by ${trial.mae:,.2f} on average on {trial.n} products with an outcome")
        if trial.against:
            print(f"  by {trial.against}: {trial.verdict}{_difference(trial)}")


def _difference(trial: "Trial") -> str:
    if trial.gap is None:
        return ""
    low, high = trial.gap.interval.low, trial.gap.interval.high
    return (
        f": {trial.gap.value:+,.2f} dollars (95% interval at every look {low:+,.2f} to "
        f"{high:+,.2f}, {trial.gap.n} products)"
    )


def _json(trial: "Trial") -> dict[str, Any]:
    from pricer.judging.paired import flat

    told: dict[str, Any] = {"n": trial.n, "mae": trial.mae}
    if trial.against:
        gap = trial.gap and flat(trial.gap) | {"n": trial.gap.n}
        told |= {"compared_by": trial.against, "less_main": gap, "verdict": trial.verdict}
    return told
