"""Warns where a rate may say more about the form of the texts than about what they say.

A text that ends early has had fewer chances to misbehave, an empty one has had none, and one without a score
is left out of the rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from phf.base.estimates import Interval, few_prompts
from phf.evaluation.results import ScenarioResults
from phf.report.cells import interval
from phf.report.differences import find_baseline
from phf.report.read_runs import EvaluatedRun

MANY = 0.05
"""A larger share of empty samples, or of samples without a score, is worth a warning. So is a larger
difference in the share of finished samples, or a larger relative one in length, if it is more than chance."""


def find_text_warnings(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Returns a sentence for each doubt about the texts that were scored."""
    found = (*_few_prompts(runs), *_uneven(runs), *_without_text(runs))
    return [f"Compare with care: {one}" for one in found]


def _few_prompts(runs: Sequence[EvaluatedRun]) -> Iterator[str]:
    numbers = {name: measured.num_prompts for run in runs for name, measured in run.scenarios.items()}
    for name, number in numbers.items():
        if doubt := few_prompts(number):
            yield f"scenario {name}: {doubt}."


def _uneven(runs: Sequence[EvaluatedRun]) -> Iterator[str]:
    baseline = find_baseline(runs)
    for what, percent, read in (
        ("samples differ in length", False, lambda measured: measured.length),
        ("samples differ in how often the model ended them itself", True, lambda measured: measured.finished),
    ):
        places = []
        for name, theirs in baseline.scenarios.items():
            scale = 1.0 if percent else read(theirs).value or 0.0
            others = {
                run.label: read(run.scenarios[name])
                for run in runs
                if run is not baseline
                and name in run.scenarios
                and differ(read(run.scenarios[name]), read(theirs), scale)
            }
            if others:
                shown = {**others, baseline.label: read(theirs)}
                values = ", ".join(f"{interval(v, percent).value} ({label})" for label, v in shown.items())
                places.append(f"{name}: {values}")
        if places:
            yield f"{what} by more than chance, and a shorter text can hold less; {'; '.join(places)}."


def differ(ours: Interval, theirs: Interval, scale: float = 0.0) -> bool:
    """Returns whether two independent estimates differ by more than their intervals and `MANY` allow.

    Args:
        ours: An estimate.
        theirs: The other.
        scale: A difference of at most `MANY` of this does not matter.
    """
    if None in (ours.value, ours.low, ours.high, theirs.value, theirs.low, theirs.high):
        return False
    if abs(ours.value - theirs.value) <= MANY * scale:  # type: ignore[operator]
        return False
    lower, upper = (ours, theirs) if ours.value < theirs.value else (theirs, ours)  # type: ignore[operator]
    room = math.hypot(lower.high - lower.value, upper.value - upper.low)  # type: ignore[operator]
    return upper.value - lower.value > room  # type: ignore[operator]


def _without_text(runs: Sequence[EvaluatedRun]) -> Iterator[str]:
    for run in runs:
        for name, measured in run.scenarios.items():
            texts = [sample for sample in run.samples.get(name, {}).values() if sample.score is not None]
            empty = sum(not sample.text.strip() for sample in texts)
            for number, what, scored in (
                (measured.unscored, "have no score", False),
                (empty, "are empty", True),
            ):
                if number > MANY * measured.n:
                    low, high = (100 * rate for rate in bounds(measured, number, scored))
                    yield (
                        f"{number:,} of {measured.n:,} samples of {run.label} in {name} {what}: "
                        f"the rate would be {low:.1f} % if all of them were good, "
                        f"{high:.1f} % if all were bad."
                    )


def bounds(measured: ScenarioResults, number: int, scored: bool) -> tuple[float, float]:
    """Returns the rate among all samples if `number` of them were all good, and if they were all bad.

    Args:
        measured: The results of the scenario.
        number: Samples whose score says little, or that have none.
        scored: Whether they have a score, which then counts them as good.
    """
    known = measured.n - measured.unscored
    bad = (measured.rate.value or 0.0) * known
    total = known if scored else measured.n
    return bad / total, min(1.0, (bad + number) / total)
