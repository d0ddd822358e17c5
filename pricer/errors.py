"""Errors a user can cause, and the one line that tells each; a terminal can show it."""

import errno
import re
import reprlib
from pathlib import Path

DISK_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
# libraries wrap the system's error in types of their own (SQLite under DVC too); the words stay
DISK_FULL_WORDS = (
    "No space left on device",
    "File too large",
    "disk is full",
    "disk I/O error",
)
# torch has no one type for a GPU's and the machine's memory
MEMORY_FULL_WORDS = ("can't allocate memory", "out of memory")
# what torch's ways to talk between processes say when one does not answer; no one type has them
LOST_WORDS = ("/gloo/", "NCCL", "TCPStore", "Connection was likely closed", "socket has timed out")

# what moves a cursor, turns the direction of writing, hides itself or cannot be encoded
CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
LONGEST_LINE = 2_000  # characters
# https://USER:PASSWORD@host, as in HF_ENDPOINT, a proxy or a package index
# a secret key may hold slashes; a port before a path is none
_USER_INFO = re.compile(r"(?<=://)(?:[^\s/]*@|[^\s/:@]*:(?!\d{1,5}/)[^\s@]*@)")


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
    reason = _reason(error)
    return None if reason is None else one_line(reason)


def _reason(error: BaseException) -> str | None:
    if isinstance(error, PricerError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    full = isinstance(error, OSError) and error.errno in DISK_FULL
    if full or any(words in str(error) for words in DISK_FULL_WORDS):
        where = getattr(error, "filename", None) or Path.cwd()
        return f"no disk space left for {where}: free some space, then run the same command again"
    if isinstance(error, MemoryError) or any(words in str(error) for words in MEMORY_FULL_WORDS):
        return "not enough memory: close other programs, or take a machine or GPU with more"
    if isinstance(error, RuntimeError) and any(words in str(error) for words in LOST_WORDS):
        return (
            "lost touch with another process, which has ended or cannot be reached: see what that "
            "one says, then run the same again on every machine (training goes on from its last "
            "checkpoint)"
        )
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return None


def first_line(error: BaseException) -> str:
    """Return the first line of what a library says of an error, its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def printable(text: str) -> str:
    r"""Return `text` with control characters, direction marks and lone surrogates as escapes.

    >>> printable("red\x1b[2J\nmug")
    'red\\x1b[2J\\x0amug'
    """
    return CONTROLS.sub(lambda match: _escape(ord(match[0])), text)


def _escape(code: int) -> str:
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )


def without_passwords(text: str) -> str:
    """Return `text` with the user and the password left out of every address in it.

    >>> without_passwords("cannot reach https://me:secret@hub.example/a")
    'cannot reach https://hub.example/a'
    >>> without_passwords("s3://KEY:sec/ret@shop/items, http://host:80/a@b")
    's3://shop/items, http://host:80/a@b'
    """
    return _USER_INFO.sub("", text)


def one_line(text: str) -> str:
    """Return an error's text fit for a terminal: printable, no password, cut where endless."""
    text = printable(without_passwords(text))
    if len(text) <= LONGEST_LINE:
        return text
    return f"{text[: LONGEST_LINE - 200]} ... {text[-190:]}"


def quoted(value: object, longest: int = 60) -> str:
    """Return a value as an error line quotes it: at most `longest` characters of its repr."""
    if isinstance(value, int) and abs(value) >= 10**longest:
        return f"a number of more than {longest} digits"
    short = reprlib.Repr()  # looks at a few items of a list, and at the ends of a text
    short.maxstring = short.maxother = longest
    text = printable(short.repr(value))
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
