"""Curves and points of the figures of a report: those of groups of runs, and of their seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from phf.report.cells import scalar
from phf.report.read_runs import EvaluatedRun, lookup
from phf.report.seeds import NONNEGATIVE, Bounds, Group, over_seeds

Point = dict[str, Any]
"""A measurement: `value`, `low`, `high`."""
Curve = list[tuple[float, Point]]


@dataclass(frozen=True)
class Series:
    """The points of a group of runs, or of one of its seeds.

    Attributes:
        label: Of the group or the run.
        colour: Which of the colours stands for it.
        x: A measurement for each point.
        y: The same.
        is_seed: Whether it is one of the seeds of a group.
        is_dominated: Whether another one is at least as good in both, and better in one.
    """

    label: str
    colour: int
    x: list[Point]
    y: list[Point]
    is_seed: bool = False
    is_dominated: bool = False


def group_series(
    groups: Sequence[Group], read: Callable[[EvaluatedRun], Curve], bounds: Bounds = NONNEGATIVE
) -> list[Series]:
    """The curve of each group: that of its run, or the mean of its seeds' and theirs, within bounds."""
    series = []
    for group in groups:
        curves = [(run, curve) for run in group.runs if (curve := read(run))]
        if not curves:
            continue
        mean = curves[0][1]
        if len(curves) > 1:
            mean = mean_curve([c for _, c in curves], group.confidence, bounds)
        series.append(_line(group.label, group.colour, mean))
        if group.has_seeds:
            series += [_line(run.label, group.colour, curve, is_seed=True) for run, curve in curves]
    return series


def mean_curve(curves: Sequence[Curve], confidence: float, bounds: Bounds = NONNEGATIVE) -> Curve:
    """The mean over seeds at the points of the first one, where the others' are interpolated.

    It ends where the shortest of them does.
    """
    start, end = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
    mean: Curve = []
    for x, _ in curves[0]:
        if start <= x <= end:
            values = [
                np.interp(x, [place for place, _ in curve], [y["value"] for _, y in curve])
                for curve in curves
            ]
            mean.append((x, over_seeds([{"value": float(value)} for value in values], confidence, bounds)))
    return mean


def _line(label: str, colour: int, curve: Curve, is_seed: bool = False) -> Series:
    return Series(label, colour, [to_point(x) for x, _ in curve], [y for _, y in curve], is_seed)


def read_curve(rows: Any, x: str, measure: str) -> Curve:
    """A measure of each of some records, over another; those without it are left out."""
    points = [(scalar(lookup(row, x)), to_point(lookup(row, measure))) for row in rows or []]
    return [(float(place), y) for place, y in points if place is not None and y["value"] is not None]


def to_point(measured: Any) -> Point:
    """A measurement with an interval or without one, in one form."""
    bounds = {key: lookup(measured, key) if isinstance(measured, dict) else None for key in ("low", "high")}
    return {"value": scalar(measured), **bounds}
