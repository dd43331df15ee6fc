"""Computes the curves of a report's figures, for groups of runs and for single seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from phf.base.estimates import NONNEGATIVE, Bounds, Interval
from phf.report.read_runs import EvaluatedRun
from phf.report.seeds import Group, over_seeds

Points = list[tuple[float, Interval]]
"""Values of x, each with the measurement there."""


@dataclass(frozen=True)
class Series:
    """The points of a group of runs, or of one of its seeds.

    Attributes:
        label: Label of the group or the run.
        colour: Index of the colour in `COLOURS`.
        x: The measurement on the x axis, for each point.
        y: The measurement on the y axis, for each point.
        is_seed: Whether this is a single seed of a group.
        is_dominated: Whether another series is at least as good in x and y, and better in one of them.
    """

    label: str
    colour: int
    x: list[Interval]
    y: list[Interval]
    is_seed: bool = False
    is_dominated: bool = False


def group_series(
    groups: Sequence[Group], read: Callable[[EvaluatedRun], Points], bounds: Bounds = NONNEGATIVE
) -> list[Series]:
    """Returns the curve of each group.

    A group of several seeds has the mean of their curves, whose intervals lie within the bounds, followed by
    the curve of each seed.
    """
    series = []
    for group in groups:
        curves = [(run, curve) for run in group.runs if (curve := _known(read(run)))]
        if not curves:
            continue
        mean = curves[0][1]
        if len(curves) > 1:
            mean = mean_curve([curve for _, curve in curves], group.confidence, bounds)
        series.append(_line(group.label, group.colour, mean))
        if group.has_seeds:
            series += [_line(run.label, group.colour, curve, is_seed=True) for run, curve in curves]
    return series


def mean_curve(curves: Sequence[Points], confidence: float, bounds: Bounds = NONNEGATIVE) -> Points:
    """Returns the mean over seeds at the points of the first curve; the other curves are interpolated there.

    The mean covers the range of x that all curves cover.
    """
    start, end = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
    lines = [([x for x, _ in curve], [_value(y) for _, y in curve]) for curve in curves]
    return [
        (x, over_seeds([Interval(float(np.interp(x, *line))) for line in lines], confidence, bounds))
        for x, _ in curves[0]
        if start <= x <= end
    ]


def _line(label: str, colour: int, curve: Points, is_seed: bool = False) -> Series:
    return Series(label, colour, [Interval(x) for x, _ in curve], [y for _, y in curve], is_seed)


def _known(curve: Points) -> Points:
    return [(x, y) for x, y in curve if y.value is not None]


def _value(measured: Interval) -> float:
    return np.nan if measured.value is None else measured.value
