"""Figures without a run: how one looks, how it is saved, token counts."""

import io
import warnings
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pricer.files import writing

matplotlib.use("Agg")
matplotlib.rcParams["text.parse_math"] = False  # a dollar sign is a dollar sign
# names of products' categories may be in any script; a box in their place is no reason to worry
warnings.filterwarnings("ignore", message="Glyph .* missing from font")

BLUE, GREY = "#0072b2", "#777777"


def new_figure(title: str, x: str, y: str, *, square: bool = False) -> tuple[Figure, Axes]:
    """Return an empty figure with its axes, x and y labelled."""
    figure = Figure(figsize=(6.4, 6.0) if square else (6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file, the same bytes for the same figure."""
    held = io.BytesIO()
    # no software version: the same data give the same bytes after an upgrade, too
    figure.savefig(held, format="png", dpi=110, metadata={"Software": None})
    return held.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG file, see `png`."""
    with writing(path) as partial:
        partial.write_bytes(png(figure))


def token_histogram(path: Path, tokens: ArrayLike, *, limit: int, title: str) -> None:
    """Draw how many texts have how many tokens, with the limit they are held to."""
    counts = np.asarray(tokens)
    figure, axes = new_figure(f"{title} (n = {len(counts):,})", "tokens", "texts")
    # a few very long texts would squeeze all others into one bar
    top = max(limit * 2, 1)
    axes.hist(np.minimum(counts, top), bins=min(60, top), color=BLUE)
    axes.axvline(limit, color="black", linestyle="--", label=f"limit {limit}")
    above = int((counts > top).sum())
    if above:
        axes.set_xlabel(f"tokens ({above:,} texts of more than {top} counted at {top})")
    axes.legend(frameon=False)
    save_figure(figure, path)
