"""Errors a user can cause, and how a stage begins, and ends when it meets one."""

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from dotenv import find_dotenv, load_dotenv

DISK_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
# libraries wrap the system's error in types of their own (SQLite under DVC too); the words stay
DISK_FULL_WORDS = (
    "No space left on device",
    "File too large",
    "disk is full",
    "disk I/O error",
)


class PricerError(Exception):
    """An error with one line for the user: what, where, got, allowed, next step."""


class ParamsError(PricerError):
    """`params.yaml` is missing, unreadable, or asks for something that cannot be."""


class ItemsError(PricerError):
    """Item files that are missing, unreadable, or do not hold usable products."""


class BaseModelError(PricerError):
    """A base model that cannot be fetched, read or run on this machine."""


class HubError(PricerError):
    """What the Hugging Face Hub refuses or cannot deliver."""


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


def explain(error: BaseException) -> str | None:
    """Say in one line what went wrong, or return None for what no user can cause (a bug)."""
    if isinstance(error, PricerError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    full = isinstance(error, OSError) and error.errno in DISK_FULL
    if full or any(words in str(error) for words in DISK_FULL_WORDS):
        where = getattr(error, "filename", None) or Path.cwd()
        return f"no disk space left for {where}: free some space, then run the same command again"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return None


def run_stage(name: str, main: Callable[..., None]) -> None:
    """Call `main(*paths)` with the command line's paths; end an error in one line, exit code 1.

    DVC has removed the stage's earlier outputs by then, so the line says how to get them back.
    PRICER_DEBUG=1 shows the traceback instead.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main(*(Path(argument) for argument in sys.argv[1:]))
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
