"""Draws the figures of a report, as files and for the page."""

from __future__ import annotations

import html
import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phf.base.estimates import Interval
from phf.base.plot_style import COLOURS, GRID, INK, MUTED, WHITE, house_style, percent
from phf.report.charts import Chart
from phf.report.curves import Series
from phf.report.table_formats import write_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
_LINES = ("-", "--", ":", "-.")
# The CSS variable of the page that replaces each colour.
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line"} | {
    c: f"--run-{i}" for i, c in enumerate(COLOURS)
}
_LEAST_SPAN = 0.1
"""Smallest span of the x axis of a Pareto plot, in units of x (nats a token, or a share)."""


@dataclass(frozen=True)
class Plot:
    """A chart that has been drawn.

    Attributes:
        chart: The data of the figure.
        svg: SVG with a white background, for a file.
        png: The same figure as PNG.
        pdf: The same figure as PDF, for LaTeX.
        inline: SVG without a background, whose colours are CSS variables of the page.
    """

    chart: Chart
    svg: str
    png: bytes
    pdf: bytes
    inline: str

    @property
    def csv(self) -> str:
        """The points of the chart as CSV."""
        return to_csv(self.chart)

    def save(self, folder: Path) -> None:
        """Writes the plot as SVG, PNG and PDF, and its points as CSV."""
        name = self.chart.name
        (folder / f"{name}.svg").write_text(self.svg, encoding="utf-8")
        (folder / f"{name}.png").write_bytes(self.png)
        (folder / f"{name}.pdf").write_bytes(self.pdf)
        (folder / f"{name}.csv").write_text(self.csv, encoding="utf-8")


def draw_plots(charts: Sequence[Chart]) -> list[Plot]:
    """Draws the charts."""
    with house_style():
        return [_render(chart, _draw(chart)) for chart in charts]


def to_csv(chart: Chart) -> str:
    """Returns the points of a chart as CSV, in full precision."""
    heads = [head for name in (chart.x, chart.y) for head in (name, f"{name} (low)", f"{name} (high)")]
    rows = [
        [series.label, "yes" if series.is_seed else "no", x.value, x.low, x.high, y.value, y.low, y.high]
        for series in chart.series
        for x, y in zip(series.x, series.y, strict=True)
    ]
    return write_csv([["run", "seed of a group", *heads], *rows])


def _draw(chart: Chart) -> Figure:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    figure, axes = _figure(chart)
    for series in chart.series:
        {"points": _draw_point, "line": _draw_line, "steps": _draw_steps}[chart.kind](axes, series)
    if chart.kind == "points":
        axes.margins(x=0.2, y=0.2)
        left, right = axes.get_xlim()
        slack = max(0.0, _LEAST_SPAN - (right - left)) / 2  # a negligible difference must not fill the plot
        axes.set_xlim(left - slack, right + slack)
        axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
    elif chart.kind == "steps":
        axes.set_xlim(0, _cut(chart.series))
    if chart.x_scale == "amount":
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    elif chart.x_scale == "share":
        axes.set_xlim(max(axes.get_xlim()[0], -0.02), min(axes.get_xlim()[1], 1.02))
        axes.xaxis.set_major_formatter(percent())
    elif chart.x_scale == "integer":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if chart.y_from_zero:
        axes.set_ylim(bottom=0)
    if chart.y_percent:
        axes.yaxis.set_major_formatter(percent())
        axes.set_ylim(top=min(axes.get_ylim()[1], 1.02))
    if chart.front:
        _draw_front(axes, chart)
    return _with_legend(figure)


def _draw_front(axes: Axes, chart: Chart) -> None:
    """Draws the Pareto front: the border of the dominated region, extended to the axis limits."""
    (left, right), (_, top) = axes.get_xlim(), axes.get_ylim()
    (x_first, _), (x_last, y_last) = chart.front[0], chart.front[-1]
    corners = [(x_first, top), *chart.front, (right, y_last)]
    if chart.x_higher_is_better:
        corners = [(left, chart.front[0][1]), *chart.front, (x_last, top)]
    x, y = zip(*corners, strict=True)
    axes.step(x, y, where="pre" if chart.x_higher_is_better else "post", color=MUTED, linewidth=1, zorder=1)
    axes.set_xlim(left, right)
    axes.set_ylim(top=top)


def _draw_point(axes: Axes, series: Series) -> None:
    x, y = _values(series.x), _values(series.y)
    style: dict[str, Any] = {"color": COLOURS[series.colour], "marker": _marker(series), "linestyle": "none"}
    if series.is_seed:
        axes.plot(x, y, markersize=3, alpha=0.55, **style)
        return
    if series.is_dominated:
        style["markerfacecolor"] = WHITE
    style |= {"markersize": 7, "capsize": 3, "elinewidth": 1.2, "label": _label(series)}
    axes.errorbar(x, y, xerr=_errors(series.x), yerr=_errors(series.y), **style)


def _draw_line(axes: Axes, series: Series) -> None:
    x, y = _values(series.x), _values(series.y)
    colour = COLOURS[series.colour]
    if series.is_seed:
        axes.plot(x, y, color=colour, linewidth=0.7, alpha=0.45)
        return
    marker: dict[str, Any] = {"marker": _marker(series), "markersize": 4} if len(x) <= 30 else {}
    line = _LINES[series.colour % len(_LINES)]
    axes.plot(x, y, color=colour, linestyle=line, label=_label(series), **marker)
    low, high = _bounds(series.y)
    axes.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)


def _draw_steps(axes: Axes, series: Series) -> None:
    style: dict[str, Any] = {
        "color": COLOURS[series.colour],
        "linestyle": _LINES[series.colour % len(_LINES)],
        "label": _label(series),
    }
    axes.step(_values(series.x), _values(series.y), where="post", **style)


def _cut(series: Sequence[Series]) -> float:
    """Returns the lowest score that at most 1 % of the samples of each series exceed."""
    return max(float(_values(one.x)[np.argmax(_values(one.y) <= 0.01)]) for one in series) or 1.0


def _values(points: Sequence[Interval]) -> np.ndarray:
    """Returns the values of the points, NaN where unknown. Shape (points,)."""
    return np.array([point.value for point in points], dtype=np.float64)


def _bounds(points: Sequence[Interval]) -> np.ndarray:
    """Returns the lower and upper ends of the intervals, NaN where there are none. Shape (2, points)."""
    return np.array([(point.low, point.high) for point in points], dtype=np.float64).T


def _errors(points: Sequence[Interval]) -> np.ndarray | None:
    """Returns the distances from the values to the interval ends; `None` if an interval is missing."""
    values, (low, high) = _values(points), _bounds(points)
    distances = np.maximum(0, [values - low, high - values])
    return None if np.isnan(distances).any() else distances


def _marker(series: Series) -> str:
    return _MARKERS[series.colour % len(_MARKERS)]


def _figure(chart: Chart) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    labels = [_label(series) for series in chart.series if not series.is_seed]
    rows = -(-len(labels) // _num_columns(labels))
    # The figure grows with the legend, so that the axes keep their size.
    figure = Figure(figsize=(4.7, 3.0 + 0.19 * rows), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=False, axis="x")
    axes.set_title(textwrap.fill(chart.y, 54))
    axes.set_xlabel(textwrap.fill(chart.x, 54))
    return figure, axes


def _num_columns(labels: Sequence[str]) -> int:
    longest = max(map(len, labels))
    return min(len(labels), 3 if longest <= 16 else 2 if longest <= 26 else 1)


def _with_legend(figure: Figure) -> Figure:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=_num_columns(labels), columnspacing=1.4)
    return figure


def _label(series: Series) -> str:
    """Returns the label of a series on one line of at most 44 characters.

    A space is put in front of an underscore, because matplotlib leaves such labels out of the legend.
    """
    label = " ".join(series.label.split())
    if len(label) > 44:  # the labels of runs with the same name differ at the end
        label = f"{label[:14]}\u2026{label[-29:]}"
    return f" {label}" if label.startswith("_") else label


def _render(chart: Chart, figure: Figure) -> Plot:
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout is computed once, not for each file
    pixels, document, drawn = io.BytesIO(), io.BytesIO(), io.StringIO()
    figure.savefig(pixels, format="png", dpi=200, facecolor=WHITE, metadata={"Software": None})
    dateless = {"CreationDate": None, "Creator": None, "Producer": None}
    figure.savefig(document, format="pdf", facecolor=WHITE, metadata=dateless)
    figure.savefig(drawn, format="svg", facecolor=WHITE, metadata={"Date": None, "Creator": None})
    svg = drawn.getvalue()
    return Plot(chart, svg, pixels.getvalue(), document.getvalue(), _inline(svg, chart))


def _inline(svg: str, chart: Chart) -> str:
    """Converts an SVG file for use inside the page: no header, unique ids, colours from CSS variables."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'\bid="', f'id="{chart.name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{chart.name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = svg.replace(WHITE, "var(--card)")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(chart.title)}" ', 1)
