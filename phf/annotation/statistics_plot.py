"""Draws the statistics of a scorer: the distribution of its scores, and the sources of high scores."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phf.base.files import replacing
from phf.base.plot_style import COLOURS, MUTED, WHITE, house_style, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_SOURCES = 12
# If the highest score is this many times the 0.99 quantile, a linear axis would leave no room for the others.
_LOG_RATIO = 20
# Shares below this cannot be told apart on a linear axis.
_LOG_SHARE = 0.01


def draw(statistics: Mapping[str, Any], path: Path) -> None:
    """Draws the statistics of a scorer, as returned by `phf.annotation.statistics`, to a PNG file."""
    from matplotlib.figure import Figure

    sources = statistics["sources"][:_MOST_SOURCES]
    with house_style():
        figure = Figure(figsize=(9.4 if sources else 4.7, 3.4), layout="constrained")
        panels = figure.subplots(1, 2 if sources else 1, squeeze=False)[0]
        _spread(panels[0], statistics)
        if sources:
            _by_source(panels[1], list(statistics["above"])[-1], sources)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=200, facecolor=WHITE, metadata={"Software": None})


def _spread(axes: Axes, statistics: Mapping[str, Any]) -> None:
    from matplotlib.ticker import LogLocator

    measures = statistics["measures"]
    axes.set_title(textwrap.fill(f"Share of segments that score above ({statistics['scorer']})", 54))
    axes.set_xlabel(textwrap.fill(measures[:1].upper() + measures[1:], 54))
    if not statistics["share_above"]:
        axes.text(0.5, 0.5, "No score is above 0", ha="center", color=MUTED, transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    scores, shares = zip(*statistics["share_above"], strict=True)
    last = shares[-2]  # the share above the highest score is 0, which a logarithmic axis cannot show
    axes.step(scores, [*shares[:-1], last], where="post", color=COLOURS[0])
    if 0 < statistics["quantiles"]["0.99"] * _LOG_RATIO < statistics["max"]:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xlim(left=0)
    if last < _LOG_SHARE:
        axes.set_yscale("log")
        axes.set_ylim(top=1)
    else:
        axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(percent())
    for threshold in map(float, statistics["above"]):
        if threshold > 0:
            label = f"threshold {threshold:g}"
            axes.axvline(threshold, color=MUTED, linewidth=1, linestyle="--", label=label)
            axes.legend(loc="best")


def _by_source(axes: Axes, threshold: str, sources: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.ticker import EngFormatter

    amount = EngFormatter(places=0, sep="")
    names = [textwrap.shorten(str(s["source"] or "(none)"), 24, placeholder="…") for s in sources]
    labels = [f"{name} ({amount(s['segments'])})" for name, s in zip(names, sources, strict=True)]
    shares = [s["above"][threshold]["segments"] or 0.0 for s in sources]
    axes.set_title(f"Share of segments above {threshold}")
    bars = axes.barh(range(len(sources)), shares, color=COLOURS[0], height=0.7)
    axes.bar_label(bars, [f"{100 * share:.3g} %" for share in shares], padding=4, color=MUTED)
    axes.set_yticks(range(len(sources)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max(shares) or 1)
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([])
    axes.set_xlabel("By source, with its number of segments in brackets")
    axes.spines["bottom"].set_visible(False)
