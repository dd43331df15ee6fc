"""How plots look, wherever they are drawn."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Okabe and Ito's colours, which people with any kind of colour blindness tell apart, in an order that keeps
# the first few far apart; a dark red instead of yellow (invisible on white). The second row is lighter, for
# dark pages.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c6570", "#882255")
DARK_COLOURS = ("#5aabe3", "#f58442", "#2cc79d", "#e5a0c5", "#f5b93d", "#93d0f5", "#a9b2bd", "#cf6f9c")
# No series has one of these.
INK, MUTED, GRID, WHITE = "#1b1f24", "#59636f", "#d9dde2", "#ffffff"
_STYLE = {
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "text.parse_math": False,  # a name with dollar signs is no formula
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.06,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and set in the page's font
    "svg.hashsalt": "phf",  # the same runs give the same file
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": GRID,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Figures drawn in it have the style, and the caller's settings stay as they are."""
    import matplotlib as mpl

    # Not pyplot: figures of our own need no display.
    with mpl.rc_context({**mpl.rcParamsDefault, "backend": "agg", **_STYLE}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name may be in any script
        yield


def percent() -> Any:
    """Labels shares of an axis as percentages, with as many decimals as they need."""
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda share, _: f"{100 * share:.3g} %")
