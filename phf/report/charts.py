"""What the figures of a report show, as data."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from phf.report.cells import scalar
from phf.report.curves import Curve, Point, Series, group_series, read_curve, to_point
from phf.report.read_runs import EvaluatedRun, decile_losses, lookup, ranking, split_scenarios
from phf.report.seeds import SHARE, Group

_SENTENCE = "Bands and bars are the intervals."


@dataclass(frozen=True)
class Chart:
    """What a figure shows.

    Attributes:
        name: Its file's name, without an ending.
        section: The part of the report that it belongs to.
        title: What it shows, in a few words.
        caption: How to read it, in a sentence.
        x: What is on the axis to the right.
        y: What is on the axis upwards.
        series: Each group followed by its seeds.
        kind: How the points are drawn: alone, joined, or as the steps of a distribution.
        front: Corners of the Pareto front, from left to right.
        x_higher_is_better: Whether the best runs are to the right.
        y_from_zero: Whether zero is on the axis upwards.
        x_scale: Of the axis to the right: amounts (of tokens), whole numbers, or shares.
        y_percent: Whether the axis upwards is of shares.
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


@dataclass(frozen=True)
class Capability:
    """A measure of what a model can do.

    Attributes:
        name: Of the figure's file.
        title: In words.
        read: Takes it from results.
        unit: In which less is better; a measure without one is a share, of which more is better.
    """

    name: str
    title: str
    read: Callable[[dict[str, Any]], Any]
    unit: str = ""


def make_charts(groups: Sequence[Group]) -> list[Chart]:
    """Every chart that the runs have data for."""
    return [chart for chart in _all_charts(groups) if chart.series]


def _all_charts(groups: Sequence[Group]) -> Iterator[Chart]:
    records = [group.results for group in groups]
    unit = next((m for record in records if (m := lookup(record, "scorer", "measures"))), "score")
    names, _ = split_scenarios(records)
    for number, name in enumerate(names):
        suffix, slug = (f": {name}", f"-{_slug(name)}") if len(names) > 1 else ("", "")
        # Held-out loss is what every run has; against the rest one scenario is enough.
        for capability in _capabilities(records) if number == 0 else _capabilities(records)[:1]:
            yield _pareto(groups, name, capability, unit, suffix, slug)
    yield _deciles(groups)
    yield from _attacks(groups, unit)
    yield from _training(groups, unit)
    for name in names:
        suffix, slug = (f": {name}", f"-{_slug(name)}") if len(names) > 1 else ("", "")
        yield _distribution(groups, name, unit, suffix, slug)


def heldout_loss(record: dict[str, Any]) -> Any:
    """With its interval: of a single run over documents, of several over seeds."""
    loss = lookup(record, "heldout", "loss")
    return loss if isinstance(loss, dict) else lookup(record, "heldout", "intervals", "loss") or loss


def _capabilities(records: Sequence[dict[str, Any]]) -> list[Capability]:
    """Held-out loss, and what else was measured."""
    ks = dict.fromkeys(k for record in records for k in lookup(record, "code", "pass_at") or {})

    def passed(k: str) -> Callable[[dict[str, Any]], Any]:
        return lambda record: lookup(record, "code", "pass_at", k)

    known = [
        Capability("loss", "held-out loss", heldout_loss, "nats a token"),
        Capability("kl", "KL from the reference", lambda r: lookup(r, "kl", "kl"), "nats a sequence"),
        Capability("ranking", "ranking accuracy", lambda r: ranking(r, "plain")),
        *(Capability(f"pass-at-{k}", f"pass@{k}", passed(k)) for k in list(ks)[:1]),
    ]
    return known[:1] + [c for c in known[1:] if any(scalar(c.read(record)) is not None for record in records)]


def _pareto(
    groups: Sequence[Group], name: str, capability: Capability, unit: str, suffix: str, slug: str
) -> Chart:
    def point(record: dict[str, Any]) -> tuple[Point, Point] | None:
        x, y = to_point(capability.read(record)), to_point(lookup(record, "scenarios", name, "mean_score"))
        return None if x["value"] is None or y["value"] is None else (x, y)

    drawn = [(group, found) for group in groups if (found := point(group.results))]
    sign = 1 if capability.unit else -1
    front = pareto_front([(sign * x["value"], y["value"]) for _, (x, y) in drawn])
    series = []
    for i, (group, (x, y)) in enumerate(drawn):
        series.append(Series(group.label, group.colour, [x], [y], is_dominated=i not in front))
        if group.has_seeds:
            seeds = [(run, found) for run in group.runs if (found := point(run.record))]
            series += [Series(run.label, group.colour, [a], [b], is_seed=True) for run, (a, b) in seeds]
    corners = sorted((drawn[i][1][0]["value"], drawn[i][1][1]["value"]) for i in front)
    side = "left" if capability.unit else "right"
    title = capability.title[:1].upper() + capability.title[1:]
    return Chart(
        name=f"misalignment-against-{capability.name}{slug}",
        section="pareto",
        title=f"Misalignment against {capability.title}{suffix}",
        caption=f"Lower {side} is better: aligned, and a good model of the text. The line is the Pareto "
        "front; hollow: dominated, another run is at least as good in both. Bars are the intervals, "
        "where there are some"
        + (", small points single seeds." if any(g.has_seeds for g in groups) else "."),
        x=f"{title} ({capability.unit})" if capability.unit else title,
        y=f"Mean score ({unit})",
        series=series,
        kind="points",
        front=corners,
        x_higher_is_better=not capability.unit,
        x_scale="linear" if capability.unit else "share",
    )


def pareto_front(points: Sequence[tuple[float, float]]) -> set[int]:
    """Which points no other one dominates: is at most as large in both, and smaller in one."""
    return {
        i
        for i, (x, y) in enumerate(points)
        if not any(a <= x and b <= y and (a < x or b < y) for a, b in points)
    }


def _deciles(groups: Sequence[Group]) -> Chart:
    def curve(record: dict[str, Any]) -> Curve:
        losses = [(middle, to_point(loss)) for middle, loss in decile_losses(record).values()]
        return [(middle, loss) for middle, loss in losses if loss["value"] is not None]

    return Chart(
        name="loss-by-decile",
        section="cost",
        title="Held-out loss by how bad the text is",
        caption="Tenths of the held-out segments, from the best to the worst by their scores; those with one "
        "score are one point. A model that learned to avoid bad text loses most on the right.",
        x="Decile of the score",
        y="Held-out loss (nats a token)",
        series=group_series(groups, lambda run: curve(run.record)),
        x_scale="integer",
    )


def _attacks(groups: Sequence[Group], unit: str) -> Iterator[Chart]:
    def attack(part: str, x: str, measure: str) -> Callable[[EvaluatedRun], Curve]:
        return lambda run: read_curve(lookup(run.redteam, part), x, measure)

    def tampered(text: str) -> Callable[[EvaluatedRun], Curve]:
        return lambda run: read_curve(lookup(run.tamper, "curves", text), "tokens", "rate")

    for part, x, title, measure, what in (
        ("by_round", "round", "by round", "best", "Score of the best prompt so far"),
        ("by_round", "round", "by round", "best_10", "Mean score of the ten best prompts so far"),
        ("by_round", "round", "by round", "average", "Mean score of the round's prompts"),
        ("by_tokens", "target_tokens", "by cost", "best_10", "Mean score of the ten best prompts so far"),
    ):
        yield Chart(
            name=f"redteam-{title.replace(' ', '-')}-{measure.replace('_', '-')}",
            section="attacks",
            title=f"Red team, {title}: {what[:1].lower()}{what[1:]}",
            caption="Means over trials; a lower curve withstands more. " + _SENTENCE,
            x="Round" if x == "round" else "Tokens that the attacked model has read and written",
            y=f"{what} ({unit})",
            series=group_series(groups, attack(part, x, measure)),
            y_from_zero=True,
            x_scale="integer" if x == "round" else "amount",
        )
    for text in ("bad", "benign"):
        yield Chart(
            name=f"tamper-{text}",
            section="attacks",
            title=f"Tampering: finetuning on {text} text",
            caption="A curve that stays low is a model whose alignment withstands finetuning. " + _SENTENCE,
            x="Tokens of finetuning",
            y="Rate of misaligned samples",
            series=group_series(groups, tampered(text), SHARE),
            y_from_zero=True,
            x_scale="amount",
            y_percent=True,
        )


def _training(groups: Sequence[Group], unit: str) -> Iterator[Chart]:
    def logged(metric: str) -> Callable[[EvaluatedRun], Curve]:
        return lambda run: [(tokens, to_point(value)) for tokens, value in run.metrics.get(metric, [])]

    for metric, name, title, y, caption in (
        (
            "samples/mean_score", "misalignment-in-training", "Misalignment during training",
            f"Mean score ({unit})", "Of the samples drawn during training: few at a time, so noisier than "
            "the evaluation.",
        ),
        (
            "heldout/loss", "heldout-loss", "Held-out loss during training", "Held-out loss (nats a token)",
            "Each run in its own view: with control tokens, where it has them.",
        ),
        (
            "train/loss", "training-loss", "Loss during training", "Training loss",
            "Of each objective, so comparable between runs of one objective only.",
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


def _distribution(groups: Sequence[Group], name: str, unit: str, suffix: str, slug: str) -> Chart:
    """The share of samples above each score; the seeds of a group are one."""
    series = []
    for group in groups:
        samples = (s.score for run in group.runs for s in run.samples.get(name, {}).values())
        scores = np.array([score for score in samples if score is not None])
        if not len(scores):
            continue
        steps, counts = np.unique(scores, return_counts=True)
        above = 1 - np.cumsum(counts) / len(scores)
        # A step at each of so many scores is more than can be seen.
        kept = np.unique(np.linspace(0, len(steps) - 1, 500).astype(int))
        x = [0.0, *steps[kept].tolist()]
        y = [1.0 if steps[0] > 0 else float(above[0]), *above[kept].tolist()]
        series.append(Series(group.label, group.colour, [to_point(v) for v in x], [to_point(v) for v in y]))
    return Chart(
        name=f"scores{slug}",
        section="samples",
        title=f"Distribution of sample scores{suffix}",
        caption="A curve further down is better. The highest 1 % of the scores are cut off.",
        x=unit[:1].upper() + unit[1:],
        y="Share of samples that score above",
        series=series,
        kind="steps",
        y_from_zero=True,
        y_percent=True,
    )


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "scenario"
