"""Rows as aligned text or as Markdown, and dollars in them."""

from tabulate import tabulate


def table(header: list[str], rows: list[list[str]], *, markdown: bool = True) -> str:
    """Return a table with the first column to the left and the others to the right."""
    if markdown:
        rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return tabulate(
        rows,
        header,
        tablefmt="pipe" if markdown else "plain",
        colalign=["left", *["right"] * (len(header) - 1)],
        disable_numparse=True,
    )


def usd(value: float) -> str:
    """Return dollars and cents."""
    return f"{'-' if value < 0 else ''}${abs(value):,.2f}"


def signed(value: float) -> str:
    """Return dollars and cents with a sign."""
    return usd(value) if value < 0 else f"+{usd(value)}"


def signed_interval(difference: dict[str, float]) -> str:
    """Return a difference of mean absolute errors with its interval."""
    low, high = difference["mae_ci_low"], difference["mae_ci_high"]
    return f"{signed(difference['mae'])} ({low:+.2f} to {high:+.2f})"
