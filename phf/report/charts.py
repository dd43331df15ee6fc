"""Collects the data of a report's figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from phf.base.estimates import SHARE, Interval
from phf.evaluation.measures.base import Axis, Curve
from phf.evaluation.results import AttackRound, EvaluationResults
from phf.report.contents import Contents
from phf.report.curves import Points, Series, group_series
from phf.report.read_runs import EvaluatedRun
from phf.report.seeds import Group

_SENTENCE = "Bands and bars show the intervals."
_ROUND, _TOKENS = "Round", "Tokens that the attacked model has read and written"


@dataclass(frozen=True)
class Chart:
    """The data of a figure.

    Attributes:
        name: File name without a suffix.
        section: Section of the report that shows the figure.
        title: Title of the figure.
        caption: One or two sentences that explain how to read the figure.
        x: Label of the x axis.
        y: Label of the y axis.
        series: The series of each group, followed by the series of its seeds.
        kind: How the points are drawn: separately, joined by a line, or as the steps of a distribution.
        front: Corners of the Pareto front, from left to right.
        x_higher_is_better: Whether larger values of x are better.
        y_from_zero: Whether the y axis starts at zero.
        x_scale: Values of the x axis: plain numbers, amounts (of tokens), whole numbers, or shares.
        y_percent: Whether the y axis shows shares, in percent.
    """

    name: str
    section: Literal["pareto", "cost", "attacks", "training", "samples"]
    title: str
    caption: str
    x: str
    y: str
    series: list[Series]
    kind: Literal["points", "line", "steps"] = "line"
    front: list[tuple[float, float]] = field(default_factory=list)
    x_higher_is_better: bool = False
    y_from_zero: bool = False
    x_scale: Literal["linear", "amount", "integer", "share"] = "linear"
    y_percent: bool = False


def make_charts(contents: Contents) -> list[Chart]:
    """Returns every chart for which the runs have data."""
    return [chart for chart in _all_charts(contents) if chart.series]


def _all_charts(contents: Contents) -> Iterator[Chart]:
    groups, unit, names = contents.groups, contents.unit, contents.asked
    axes = [(cls.name, axis) for cls, found in contents.measures() if (axis := cls.axis_for(found))]
    for number, name in enumerate(names):
        # The first axis (held-out loss) is drawn for each scenario, the others for the first scenario only.
        for measure, axis in axes if number == 0 else axes[:1]:
            yield _pareto(groups, measure, axis, unit, _Place.of(name, names))
    for cls, _ in contents.measures():
        if cls.curve is not None:
            yield _measured(groups, cls.name, cls.curve)
    yield from _attacks(groups, unit)
    yield from _training(groups, unit)
    for name in names:
        yield _distribution(groups, unit, _Place.of(name, names))


@dataclass(frozen=True)
class _Place:
    """A scenario, with what titles and file names add for it; both are empty for a single scenario."""

    scenario: str
    suffix: str
    slug: str

    @classmethod
    def of(cls, name: str, names: Sequence[str]) -> _Place:
        if len(names) == 1:
            return cls(name, "", "")
        slug = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "scenario"
        return cls(name, f": {name}", f"-{slug}")


def _pareto(groups: Sequence[Group], measure: str, axis: Axis, unit: str, place: _Place) -> Chart:
    def point(results: EvaluationResults) -> tuple[Interval, Interval] | None:
        found, scenario = results.measures.get(measure), results.scenarios.get(place.scenario)
        x = None if found is None else axis.read(found)
        y = scenario and scenario.mean_score
        return None if not x or not y or x.value is None or y.value is None else (x, y)

    drawn = [(group, found) for group in groups if (found := point(group.results))]
    values = [(x.value or 0.0, y.value or 0.0) for _, (x, y) in drawn]
    sign = 1 if axis.unit else -1
    front = pareto_front([(sign * x, y) for x, y in values])
    series = []
    for i, (group, (x, y)) in enumerate(drawn):
        series.append(Series(group.label, group.colour, [x], [y], is_dominated=i not in front))
        if group.has_seeds:
            seeds = [(run, found) for run in group.runs if (found := point(run.results))]
            series += [Series(run.label, group.colour, [a], [b], is_seed=True) for run, (a, b) in seeds]
    side = "left" if axis.unit else "right"
    title = axis.title[:1].upper() + axis.title[1:]
    return Chart(
        name=f"misalignment-against-{axis.slug}{place.slug}",
        section="pareto",
        title=f"Misalignment against {axis.title}{place.suffix}",
        caption=f"Points further down and to the {side} are better: more aligned, and a better model of the "
        "text. The line is the Pareto front. A hollow point is dominated: another run is at least as good "
        "in both and better in one. Bars show the intervals, where known."
        + (" Small points are single seeds." if any(g.has_seeds for g in groups) else ""),
        x=f"{title} ({axis.unit})" if axis.unit else title,
        y=f"Mean score ({unit})",
        series=series,
        kind="points",
        front=sorted(values[i] for i in front),
        x_higher_is_better=not axis.unit,
        x_scale="linear" if axis.unit else "share",
    )


def pareto_front(points: Sequence[tuple[float, float]]) -> set[int]:
    """Returns the indices of the points that no other point dominates; smaller coordinates are better.

    A point dominates another one if it is at most as large in both coordinates and smaller in one.
    """
    return {
        i
        for i, (x, y) in enumerate(points)
        if not any(a <= x and b <= y and (a < x or b < y) for a, b in points)
    }


def _measured(groups: Sequence[Group], measure: str, curve: Curve) -> Chart:
    """Returns the figure of a measure that has a curve."""

    def points(run: EvaluatedRun) -> Points:
        found = run.results.measures.get(measure)
        return [] if found is None else [(x, y) for _, x, y in curve.read(found)]

    return Chart(
        name=curve.slug,
        section="cost",
        title=curve.title,
        caption=curve.caption,
        x=curve.x,
        y=curve.y,
        series=group_series(groups, points),
        x_scale="integer" if curve.x_is_whole else "linear",
    )


def _attacks(groups: Sequence[Group], unit: str) -> Iterator[Chart]:
    best, best_10 = "Score of the best prompt so far", "Mean score of the ten best prompts so far"
    for slug, title, x, y, points in (
        ("by-round-best", "by round", _ROUND, best, _by_round(lambda found: found.best)),
        ("by-round-best-10", "by round", _ROUND, best_10, _by_round(lambda found: found.best_10)),
        (
            "by-round-average",
            "by round",
            _ROUND,
            "Mean score of the round's prompts",
            _by_round(lambda found: found.average),
        ),
        ("by-cost-best-10", "by cost", _TOKENS, best_10, _by_tokens),
    ):
        yield Chart(
            name=f"redteam-{slug}",
            section="attacks",
            title=f"Red team, {title}: {y[:1].lower()}{y[1:]}",
            caption="Means over trials. A lower curve means that the model withstands more. " + _SENTENCE,
            x=x,
            y=f"{y} ({unit})",
            series=group_series(groups, points),
            y_from_zero=True,
            x_scale="integer" if x == _ROUND else "amount",
        )
    for text in ("bad", "benign"):

        def tampered(run: EvaluatedRun, text: str = text) -> Points:
            return (
                [(point.tokens, point.rate) for point in run.tamper.curves.get(text, [])]
                if run.tamper
                else []
            )

        yield Chart(
            name=f"tamper-{text}",
            section="attacks",
            title=f"Tampering: finetuning on {text} text",
            caption="If the curve stays low, the alignment withstands finetuning. " + _SENTENCE,
            x="Tokens of finetuning",
            y="Rate of misaligned samples",
            series=group_series(groups, tampered, SHARE),
            y_from_zero=True,
            x_scale="amount",
            y_percent=True,
        )


def _by_round(measure: Callable[[AttackRound], Interval]) -> Callable[[EvaluatedRun], Points]:
    return lambda run: [
        (found.round or 0, measure(found)) for found in (run.redteam.by_round if run.redteam else [])
    ]


def _by_tokens(run: EvaluatedRun) -> Points:
    return [(found.target_tokens, found.best_10) for found in (run.redteam.by_tokens if run.redteam else [])]


def _training(groups: Sequence[Group], unit: str) -> Iterator[Chart]:
    def logged(metric: str) -> Callable[[EvaluatedRun], Points]:
        return lambda run: [(tokens, Interval(value)) for tokens, value in run.metrics.get(metric, [])]

    for metric, name, title, y, caption in (
        (
            "samples/mean_score", "misalignment-in-training", "Misalignment during training",
            f"Mean score ({unit})", "From the samples drawn during training. They are few at a time, "
            "so the curve is noisier than the evaluation.",
        ),
        (
            "heldout/loss", "heldout-loss", "Held-out loss during training", "Held-out loss (nats a token)",
            "Each run reads the held-out text like its training text: with control tokens, if it has any.",
        ),
        (
            "train/loss", "training-loss", "Loss during training", "Training loss",
            "The loss of the objective itself. Only runs with the same objective can be compared.",
        ),
    ):  # fmt: skip
        yield Chart(
            name=name,
            section="training",
            title=title,
            caption=caption,
            x="Tokens",
            y=y,
            series=group_series(groups, logged(metric)),
            y_from_zero=metric.startswith("samples/"),
            x_scale="amount",
        )


def _distribution(groups: Sequence[Group], unit: str, place: _Place) -> Chart:
    """Returns the figure of the share of samples above each score; the seeds of a group are pooled."""
    series = []
    for group in groups:
        samples = (s.score for run in group.runs for s in run.samples.get(place.scenario, {}).values())
        scores = np.array([score for score in samples if score is not None])
        if not len(scores):
            continue
        steps, counts = np.unique(scores, return_counts=True)
        above = 1 - np.cumsum(counts) / len(scores)
        # More than 500 steps could not be told apart in the figure.
        kept = np.unique(np.linspace(0, len(steps) - 1, 500).astype(int))
        x = [0.0, *steps[kept].tolist()]
        y = [1.0 if steps[0] > 0 else float(above[0]), *above[kept].tolist()]
        series.append(Series(group.label, group.colour, list(map(Interval, x)), list(map(Interval, y))))
    return Chart(
        name=f"scores{place.slug}",
        section="samples",
        title=f"Distribution of sample scores{place.suffix}",
        caption="A curve further down is better. The highest 1 % of the scores are cut off.",
        x=unit[:1].upper() + unit[1:],
        y="Share of samples that score above",
        series=series,
        kind="steps",
        y_from_zero=True,
        y_percent=True,
    )
