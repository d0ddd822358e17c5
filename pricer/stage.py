"""How a stage begins, and how it ends: one-line errors, `.env`, Ctrl-C."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from dotenv import find_dotenv, load_dotenv

from pricer.errors import PricerError, explain


def load_environment() -> None:
    """Read tokens and the like from the `.env` of the current folder, or of one above it.

    To be called before a library reads the environment, which wins over the file.

    Raises:
        PricerError: the file is not text.
    """
    file = find_dotenv(usecwd=True)
    try:
        load_dotenv(file)
    except UnicodeDecodeError as error:
        raise PricerError(
            f"{file} is not UTF-8 text (byte {error.start}): .env.example shows its form"
        ) from None


def run_stage(name: str, main: Callable[..., None], paths: list[str]) -> None:
    """Call `main(*paths)` with the command line's paths; end an error in one line, exit code 1.

    DVC has removed the stage's earlier outputs by then, so the line says how to get them back.
    PRICER_DEBUG=1 shows the traceback instead.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main(*map(Path, paths))
    except BaseException as error:
        line = explain(error)
        if line is None or os.environ.get("PRICER_DEBUG"):
            raise
        print(
            f"{name}: {line}\n"
            "(`dvc checkout` and `git checkout metrics` bring the last complete outputs back; "
            "a knob set by `dvc exp run -S` stays in params.yaml)",
            file=sys.stderr,
        )
        # DVC waits for this exit code, so nothing after it may hang or change it
        sys.stdout.flush()
        sys.stderr.flush()
        sys.exit(1)
