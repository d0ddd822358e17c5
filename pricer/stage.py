"""How a stage begins, and how it ends: one-line errors, `.env`, Ctrl-C."""

import os
import signal
import stat
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from dotenv import load_dotenv

from pricer.errors import PricerError, explain, without_passwords

ROOT_MARKS = ("dvc.yaml", ".git")
TRUSTED = (0,)  # root may read and write everything anyway


def load_environment() -> None:
    """Read tokens and the like from the `.env` of the current folder, or of one above it.

    The project's root is the last that is looked into; outside of a project, the current folder.
    To be called before a library reads the environment, which wins over the file.

    Raises:
        PricerError: the file is not text, not readable, or others may write it.
    """
    file = next((folder / ".env" for folder in _folders() if (folder / ".env").is_file()), None)
    if file is None:
        return
    try:
        _check_owner(file)
        load_dotenv(file)
    except UnicodeDecodeError as error:
        raise PricerError(
            f"{file} is not UTF-8 text (byte {error.start}): .env.example shows its form"
        ) from None
    except OSError as error:
        raise PricerError(f"{file}: {error.strerror}") from None


def _folders() -> list[Path]:
    """Return the current folder and those above it, up to the project's root."""
    here = Path.cwd()
    folders = [here, *here.parents]
    for number, folder in enumerate(folders, start=1):
        if any((folder / mark).exists() for mark in ROOT_MARKS):
            return folders[:number]
    return [here]


def _check_owner(file: Path) -> None:
    """Raise PricerError if someone else could have written an `.env` that says anything.

    It could send a token to another host.
    """
    about = file.stat()
    if not about.st_size:
        return
    if about.st_mode & stat.S_IWOTH:
        raise PricerError(f"{file} can be written by everyone: `chmod 600 {file}`, look into it")
    if about.st_uid not in (os.getuid(), *TRUSTED):
        raise PricerError(f"{file} belongs to another user: look into it, and make it yours")


def show_traceback(error: BaseException) -> None:
    """Print what Python prints of an error that nobody handles, without passwords in addresses."""
    text = "".join(traceback.format_exception(error))
    print(without_passwords(text), file=sys.stderr, end="")


def run_stage(name: str, main: Callable[..., None], paths: list[str]) -> None:
    """Call `main(*paths)` with the command line's paths; end an error in one line, exit code 1.

    DVC has removed the stage's earlier outputs by then, so the line says how to get them back.
    PRICER_DEBUG=1 shows the traceback instead.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main(*map(Path, paths))
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        line = explain(error)
        if line is None or os.environ.get("PRICER_DEBUG"):
            show_traceback(error)
        else:
            print(
                f"{name}: {line}\n"
                "(`git checkout dvc.lock metrics && dvc checkout` brings back what the last commit "
                "has; a knob set by `dvc exp run -S` stays in params.yaml)",
                file=sys.stderr,
            )
        # DVC waits for this exit code, so nothing after it may hang or change it
        sys.stdout.flush()
        sys.stderr.flush()
        sys.exit(1)
