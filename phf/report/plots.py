"""The plots of a report: saved as files on white, and set into the page in the page's own colours."""

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

from phf.base.plot_style import COLOURS, GRID, INK, MUTED, WHITE, house_style, percent
from phf.report.charts import Chart
from phf.report.curves import Point, Series
from phf.report.table_formats import latex, write_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
_LINES = ("-", "--", ":", "-.")
# Colours that stand for the page's variables.
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line"} | {
    c: f"--run-{i}" for i, c in enumerate(COLOURS)
}
_LEAST_SPAN = 0.1
"""Nats a token shown at least."""


@dataclass(frozen=True)
class Plot:
    """A chart that has been drawn.

    Attributes:
        chart: What it shows.
        svg: With a white background, for a file.
        png: The same as pixels.
        pdf: The same for LaTeX.
        inline: SVG without a background, coloured by the page's variables.
    """

    chart: Chart
    svg: str
    png: bytes
    pdf: bytes
    inline: str

    @property
    def csv(self) -> str:
        """Its points."""
        return to_csv(self.chart)

    def save(self, folder: Path) -> None:
        """Writes the plot as SVG, PNG and PDF, its points as CSV, and the LaTeX that includes it."""
        name = self.chart.name
        (folder / f"{name}.svg").write_text(self.svg, encoding="utf-8")
        (folder / f"{name}.png").write_bytes(self.png)
        (folder / f"{name}.pdf").write_bytes(self.pdf)
        (folder / f"{name}.csv").write_text(self.csv, encoding="utf-8")
        (folder / f"{name}.tex").write_text(
            "\\begin{figure}\n  \\centering\n"
            f"  \\includegraphics[width=\\linewidth]{{{name}.pdf}}\n"
            f"  \\caption{{{latex(self.chart.title)}. {latex(self.chart.caption)}}}\n"
            f"  \\label{{fig:{name}}}\n\\end{{figure}}\n",
            encoding="utf-8",
        )


def draw_plots(charts: Sequence[Chart]) -> list[Plot]:
    """Draws every chart."""
    with house_style():
        return [_render(chart, _draw(chart)) for chart in charts]


def to_csv(chart: Chart) -> str:
    """The points of a chart as CSV, in full precision."""
    bounds = ("value", "low", "high")
    heads = [name + ("" if key == "value" else f" ({key})") for name in (chart.x, chart.y) for key in bounds]
    rows = [
        [series.label, "yes" if series.is_seed else "no", *(point[key] for point in pair for key in bounds)]
        for series in chart.series
        for pair in zip(series.x, series.y, strict=True)
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
        slack = max(0.0, _LEAST_SPAN - (right - left)) / 2  # a difference of nothing must not fill the plot
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
    """The border of what some run is better than in both, as far as the axes go."""
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
    (x,), (y,) = series.x, series.y
    style: dict[str, Any] = {"color": COLOURS[series.colour], "marker": _marker(series)}
    if series.is_seed:
        axes.plot(x["value"], y["value"], linestyle="none", markersize=3, alpha=0.55, **style)
        return
    if series.is_dominated:
        style["markerfacecolor"] = WHITE
    axes.errorbar(
        [x["value"]], [y["value"]], xerr=_error(x), yerr=_error(y), capsize=3, elinewidth=1.2,
        linestyle="none", markersize=7, label=_label(series), **style,
    )  # fmt: skip


def _draw_line(axes: Axes, series: Series) -> None:
    x, y = ([point["value"] for point in points] for points in (series.x, series.y))
    colour = COLOURS[series.colour]
    if series.is_seed:
        axes.plot(x, y, color=colour, linewidth=0.7, alpha=0.45)
        return
    marker: dict[str, Any] = {"marker": _marker(series), "markersize": 4} if len(x) <= 30 else {}
    line = _LINES[series.colour % len(_LINES)]
    axes.plot(x, y, color=colour, linestyle=line, label=_label(series), **marker)
    low, high = ([np.nan if p[k] is None else p[k] for p in series.y] for k in ("low", "high"))
    axes.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)


def _draw_steps(axes: Axes, series: Series) -> None:
    x, y = ([point["value"] for point in points] for points in (series.x, series.y))
    line = _LINES[series.colour % len(_LINES)]
    colour = COLOURS[series.colour]
    axes.step(x, y, where="post", color=colour, linestyle=line, label=_label(series))


def _cut(series: Sequence[Series]) -> float:
    """The score that no more than 1 % of the samples of any of them are above."""
    return (
        max(next(x["value"] for x, y in zip(s.x, s.y, strict=True) if y["value"] <= 0.01) for s in series)
        or 1.0
    )


def _error(point: Point) -> Any:
    """An interval as distances from the value, which matplotlib wants."""
    if point["low"] is None or point["high"] is None:
        return None
    return [[max(0, point["value"] - point["low"])], [max(0, point["high"] - point["value"])]]


def _marker(series: Series) -> str:
    return _MARKERS[series.colour % len(_MARKERS)]


def _figure(chart: Chart) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    labels = [_label(series) for series in chart.series if not series.is_seed]
    rows = -(-len(labels) // _num_columns(labels))
    # The legend takes its room from the figure, not from the axes.
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
    """The label on one short line; with an underscore in front the legend would leave it out."""
    label = " ".join(series.label.split())
    if len(label) > 44:  # runs of one name differ in their ends
        label = f"{label[:14]}\u2026{label[-29:]}"
    return f" {label}" if label.startswith("_") else label


def _render(chart: Chart, figure: Figure) -> Plot:
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, not for each file
    pixels, document, drawn = io.BytesIO(), io.BytesIO(), io.StringIO()
    figure.savefig(pixels, format="png", dpi=200, facecolor=WHITE, metadata={"Software": None})
    dateless = {"CreationDate": None, "Creator": None, "Producer": None}
    figure.savefig(document, format="pdf", facecolor=WHITE, metadata=dateless)
    figure.savefig(drawn, format="svg", facecolor=WHITE, metadata={"Date": None, "Creator": None})
    svg = drawn.getvalue()
    return Plot(chart, svg, pixels.getvalue(), document.getvalue(), _inline(svg, chart))


def _inline(svg: str, chart: Chart) -> str:
    """Makes a file's SVG a part of a page: no header, ids of its own, colours from the page's variables."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'\bid="', f'id="{chart.name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{chart.name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = svg.replace(WHITE, "var(--card)")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(chart.title)}" ', 1)
