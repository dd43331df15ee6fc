"""Sets the style of every plot: colours, fonts, grid."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# The Okabe-Ito colours can be told apart with any kind of colour blindness. The order keeps the first few far
# apart. Dark red replaces yellow, which is invisible on white. The second row is lighter, for dark pages.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c6570", "#882255")
DARK_COLOURS = ("#5aabe3", "#f58442", "#2cc79d", "#e5a0c5", "#f5b93d", "#93d0f5", "#a9b2bd", "#cf6f9c")
# No series uses these colours.
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
    "text.parse_math": False,  # a name with dollar signs is not a formula
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
    """Applies the style to figures drawn in the block; the caller's settings stay as they are."""
    import matplotlib as mpl

    # pyplot is not imported, because these figures need no display.
    with mpl.rc_context({**mpl.rcParamsDefault, "backend": "agg", **_STYLE}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name may be in any script
        yield


def percent() -> Any:
    """Returns an axis formatter that shows shares as percentages, with as many decimals as needed."""
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda share, _: f"{100 * share:.3g} %")
