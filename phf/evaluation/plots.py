"""The plots of a report: saved as files on white, and set into the page in the page's own colours."""

from __future__ import annotations

import html
import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phf.evaluation.runs import EvaluatedRun, lookup, scenario_names
from phf.plot_style import COLOURS, GRID, INK, MUTED, WHITE, house_style, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", ":", "-.")
# Colours that stand for the page's variables.
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line"} | {
    c: f"--run-{i}" for i, c in enumerate(COLOURS)
}
_LEAST_SPAN = 0.1
"""Nats a token shown at least."""


@dataclass(frozen=True)
class Plot:
    """A plot that has been drawn.

    Attributes:
        name: Its file's name, without an ending.
        title: What it shows, in a few words.
        caption: How to read it, in a sentence.
        svg: With a white background, for a file.
        png: The same as pixels.
        inline: SVG without a background, coloured by the page's variables.
    """

    name: str
    title: str
    caption: str
    svg: str
    png: bytes
    inline: str

    def save(self, folder: Path) -> None:
        """Writes the plot as SVG and as PNG."""
        (folder / f"{self.name}.svg").write_text(self.svg, encoding="utf-8")
        (folder / f"{self.name}.png").write_bytes(self.png)


def draw_plots(runs: Sequence[EvaluatedRun]) -> list[Plot]:
    """Draws every plot that the runs have data for."""
    with house_style():
        return [_render(*drawn) for drawn in _draw_all(runs)]


def _draw_all(runs: Sequence[EvaluatedRun]) -> Iterator[tuple[str, str, str, Figure]]:
    unit = next((m for run in runs if (m := lookup(run.results, "scorer", "measures"))), "score")
    names = scenario_names(runs)
    for name in names:
        suffix, slug = (f": {name}", f"-{_slug(name)}") if len(names) > 1 else ("", "")
        figure = _against_loss(runs, name, unit)
        if figure is not None:
            caption = "Lower left is better: aligned, and a good model of the text. Bars are the intervals."
            yield (
                f"misalignment-against-loss{slug}",
                f"Misalignment against held-out loss{suffix}",
                caption,
                figure,
            )
        figure = _distribution(runs, name, unit)
        if figure is not None:
            caption = "A curve further down is better. The highest 1 % of the scores are cut off."
            yield f"scores{slug}", f"Distribution of sample scores{suffix}", caption, figure
    figure = _over_tokens(runs, "samples/mean_score", f"Mean score ({unit})")
    if figure is not None:
        caption = (
            "Mean score of the samples drawn during training: few at a time, so noisier than the evaluation."
        )
        yield "misalignment-in-training", "Misalignment during training", caption, figure
    figure = _over_tokens(runs, "heldout/loss", "Held-out loss (nats a token)")
    if figure is not None:
        yield (
            "heldout-loss",
            "Held-out loss during training",
            "Each run in its own view: with control tokens, where it has them.",
            figure,
        )


def _against_loss(runs: Sequence[EvaluatedRun], name: str, unit: str) -> Figure | None:
    points = []
    for index, run in enumerate(runs):
        score = lookup(run.scenarios, name, "mean_score") or {}
        values = lookup(run.results, "heldout", "loss"), lookup(score, "value")
        if None not in values:
            points.append((index, _label(run), *values, lookup(score, "low"), lookup(score, "high")))
    if not points:
        return None
    figure, axes = _figure(f"Mean score ({unit})", "Held-out loss (nats a token)")
    for index, label, loss, value, low, high in points:
        error = None if low is None or high is None else [[max(0, value - low)], [max(0, high - value)]]
        style: dict[str, Any] = {"color": _colour(index), "marker": _MARKERS[index % len(_MARKERS)]}
        axes.errorbar(
            [loss], [value], yerr=error, capsize=4, linestyle="none", markersize=7, label=label, **style
        )
    axes.margins(x=0.2, y=0.15)
    left, right = axes.get_xlim()
    slack = max(0.0, _LEAST_SPAN - (right - left)) / 2  # a difference of nothing must not fill the plot
    axes.set_xlim(left - slack, right + slack)
    axes.set_ylim(bottom=0)
    return _finished(figure)


def _distribution(runs: Sequence[EvaluatedRun], name: str, unit: str) -> Figure | None:
    scores = {
        index: np.sort([s.score for s in run.samples.get(name, {}).values() if s.score is not None])
        for index, run in enumerate(runs)
    }
    scores = {index: values for index, values in scores.items() if len(values)}
    if not scores:
        return None
    figure, axes = _figure("Share of samples that score above", unit[:1].upper() + unit[1:])
    right = max(float(np.quantile(values, 0.99)) for values in scores.values()) or 1.0
    for index, values in scores.items():
        steps, above = np.unique(values, return_index=False, return_counts=True)
        share = 1 - np.cumsum(above) / len(values)
        axes.step(
            [0, *steps, max(right, steps[-1])],
            [1.0 if steps[0] > 0 else share[0], *share, 0],
            where="post",
            **_line(index),
            label=_label(runs[index]),
        )
    axes.set_xlim(0, right)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(percent())
    return _finished(figure)


def _over_tokens(runs: Sequence[EvaluatedRun], metric: str, title: str) -> Figure | None:
    curves = [
        (index, _label(run), run.metrics[metric]) for index, run in enumerate(runs) if run.metrics.get(metric)
    ]
    if not curves:
        return None
    figure, axes = _figure(title, "Tokens")
    for index, label, points in curves:
        tokens, values = zip(*points, strict=True)
        few = len(points) <= 30
        marker: dict[str, Any] = {"marker": _MARKERS[index % len(_MARKERS)], "markersize": 4} if few else {}
        axes.plot(tokens, values, label=label, **_line(index), **marker)
    axes.set_xlim(left=0)
    if metric.startswith("samples/"):
        axes.set_ylim(bottom=0)
    from matplotlib.ticker import EngFormatter

    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    return _finished(figure)


def _figure(title: str, xlabel: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.7, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=False, axis="x")
    axes.set_title(textwrap.fill(title, 54))
    axes.set_xlabel(textwrap.fill(xlabel, 54))
    return figure, axes


def _finished(figure: Figure) -> Figure:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns = 3 if max(map(len, labels)) <= 16 else 1
    figure.legend(
        handles, labels, loc="outside upper left", ncols=min(len(labels), columns), columnspacing=1.4
    )
    return figure


def _label(run: EvaluatedRun) -> str:
    """The run's label on one short line; with an underscore in front the legend would leave it out."""
    label = " ".join(run.label.split())
    if len(label) > 44:  # runs of one name differ in their ends
        label = f"{label[:14]}\u2026{label[-29:]}"
    return f" {label}" if label.startswith("_") else label


def _line(index: int) -> dict[str, Any]:
    return {"color": _colour(index), "linestyle": _LINES[index % len(_LINES)]}


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "scenario"


def _render(name: str, title: str, caption: str, figure: Figure) -> Plot:
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, not for each file
    pixels, drawn = io.BytesIO(), io.StringIO()
    figure.savefig(pixels, format="png", dpi=200, facecolor=WHITE, metadata={"Software": None})
    figure.savefig(drawn, format="svg", facecolor=WHITE, metadata={"Date": None, "Creator": None})
    svg = drawn.getvalue()
    return Plot(name, title, caption, svg, pixels.getvalue(), _inline(svg, name, title))


def _inline(svg: str, name: str, title: str) -> str:
    """Makes a file's SVG a part of a page: no header, ids of its own, colours from the page's variables."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = svg.replace(WHITE, "none")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)
