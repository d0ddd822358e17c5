"""Errors a user can cause, and the one line that tells each."""

import errno
from pathlib import Path

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
