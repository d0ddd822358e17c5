"""The `pricer` command: which subcommands there are, and how each ends."""

import io
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from pricer.commands.compare import compare
from pricer.commands.doctor import doctor
from pricer.commands.export import app as export
from pricer.commands.init import init
from pricer.commands.inspect import inspect
from pricer.commands.judge_api import judge_api
from pricer.commands.monitor import monitor
from pricer.commands.predict import predict
from pricer.commands.preset import preset
from pricer.commands.publish import publish
from pricer.commands.rewrite import rewrite
from pricer.commands.serve import serve
from pricer.commands.sweep import show
from pricer.commands.variants import variants
from pricer.errors import explain, one_line
from pricer.stage import load_environment, show_traceback

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
sweep = typer.Typer(no_args_is_help=True)


def _tell_version(asked: bool) -> None:
    if asked:
        print(version("pricer"))
        raise typer.Exit


@app.callback()
def pricer(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Show it and exit."),
    ] = False,
) -> None:
    """Teach a language model what things cost."""


COMMANDS: tuple[Callable[..., None], ...] = (
    init,
    predict,
    serve,
    variants,
    monitor,
    compare,
    judge_api,
    rewrite,
    inspect,
    doctor,
    preset,
    publish,
)
for command in COMMANDS:
    app.command()(command)
sweep.command()(show)
app.add_typer(export, name="export", help="The trained model in one piece, judged again.")
app.add_typer(sweep, name="sweep", help="Experiments side by side.")


def main() -> None:
    """Run the command; an error a user can cause ends in one line, exit code 1."""
    _prepare_streams()
    try:
        load_environment()
        app(standalone_mode=False)
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        line = "interrupted" if isinstance(error, typer.Abort) else explain(error)
        message = getattr(error, "format_message", None)  # a wrong option, told by Click
        if line is None and message:
            line = one_line(message())
        if line == "":  # no command: its help was the answer
            sys.exit(1)
        if line is None or os.environ.get("PRICER_DEBUG"):
            show_traceback(error)
        else:
            print(f"pricer: {line}", file=sys.stderr)
        sys.exit(1)


def _prepare_streams() -> None:
    """Make stderr exist, where libraries write too, and stdout take all text."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
