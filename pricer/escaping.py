"""Text from outside, made harmless for where it goes: JSON lines, Markdown, a spreadsheet.

What is harmless on a terminal and in an error line is in `pricer.errors`.
"""

import json
import re
from typing import Any

from pricer.errors import CONTROLS, printable

# GitHub makes a link of what begins with www. too
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+\-!|~:@&]|(?<=www)\.)", re.IGNORECASE)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def json_line(value: Any) -> str:
    """Return JSON on one line that is safe to print; what JSON has no number for is an error."""
    return _printable_json(json.dumps(value, ensure_ascii=False, allow_nan=False))


def json_text(value: Any) -> str:
    """Return indented JSON that is as safe to print."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2)
    return "\n".join(map(_printable_json, text.split("\n")))


def _printable_json(text: str) -> str:
    return CONTROLS.sub(lambda match: json.dumps(match[0])[1:-1], text)


def markdown(text: str) -> str:
    """Return `text` as Markdown that shows it and no more: no link, picture, heading or table."""
    return _MARKDOWN.sub(r"\\\1", printable(" ".join(text.split())))


def shortened(text: str, longest: int) -> str:
    r"""Return `text` as one printable line of at most so many characters, cut with an ellipsis.

    >>> shortened("Home\n& Garden", 11)
    'Home & Gar…'
    """
    line = printable(" ".join(text.split()))
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def spreadsheet(value: Any) -> Any:
    """Return a CSV field that no spreadsheet takes for a formula: `'` before what begins one.

    See OWASP, "CSV Injection".
    """
    formula = isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA)
    return f"'{value}" if formula else value
