"""Rows as aligned text or as Markdown."""

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
