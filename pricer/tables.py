"""Rows as aligned text or as Markdown, and dollars in them."""

from tabulate import tabulate

from pricer import escaping
from pricer.escaping import shortened


def table(header: list[str], rows: list[list[str]], *, markdown: bool = True) -> str:
    """Return a table with the first column to the left and the others to the right.

    Cells are shown as they are: text from outside goes through `cell`.
    """
    return tabulate(
        rows,
        header,
        tablefmt="pipe" if markdown else "plain",
        colalign=["left", *["right"] * (len(header) - 1)],
        disable_numparse=True,
    )


def cell(text: str, *, markdown: bool = True, longest: int = 60) -> str:
    """Return text from outside as a cell of `table`: one line that shows the text and no more."""
    text = shortened(text, longest)
    return escaping.markdown(text) if markdown else text


def usd(value: float) -> str:
    """Return dollars and cents."""
    return f"{'-' if value < 0 else ''}${abs(value):,.2f}"


def signed(value: float) -> str:
    """Return dollars and cents with a sign."""
    return usd(value) if value < 0 else f"+{usd(value)}"


def interval_text(low: float, high: float) -> str:
    """Return the ends of an interval beside dollars, or any number; of a single product, none."""
    return "-" if low == high else f"{low:,.2f} to {high:,.2f}"


def signed_interval(value: float, low: float, high: float) -> str:
    """Return a difference in dollars with its interval."""
    return f"{signed(value)} ({low:+,.2f} to {high:+,.2f})"
