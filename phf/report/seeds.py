"""Groups runs that differ only in their seed, and averages their results with intervals over seeds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from itertools import cycle
from operator import attrgetter, itemgetter, methodcaller
from typing import Any, TypeVar

import numpy as np
from scipy import stats

from phf.base.estimates import NONNEGATIVE, Bounds, ExpectedMax, Interval
from phf.base.plot_style import COLOURS
from phf.config.identity import run_identity_without_seed
from phf.evaluation.results import EvaluationResults
from phf.report.differences import Comparison, compare, find_baseline
from phf.report.read_runs import EvaluatedRun

T = TypeVar("T")

_ORDER = ("mle", "conditional", "filtering", "unlikelihood", "rwr", "awr", "masking", "upsampling")
"""The objectives of `phf` in the order of reports. The index of an objective is that of its colour."""


@dataclass(frozen=True)
class Group:
    """The runs of one configuration, one run for each seed.

    Attributes:
        label: Name of the group in the report, unique among its groups.
        colour: Index of the colour in `COLOURS`, given by the objective if possible.
        runs: The runs, in the order of their seeds.
    """

    label: str
    colour: int
    runs: list[EvaluatedRun]

    @cached_property
    def results(self) -> EvaluationResults:
        """The merged results of the runs, see `merge`."""
        return merge([run.results for run in self.runs], self.confidence)

    @property
    def confidence(self) -> float:
        """Coverage of the intervals."""
        return self.runs[0].results.confidence

    @property
    def has_seeds(self) -> bool:
        """Whether the group has more than one run."""
        return len(self.runs) > 1


def group_runs(runs: Sequence[EvaluatedRun]) -> list[Group]:
    """Groups the runs whose configurations differ only in the seed.

    A run without a configuration is a group of its own. The group of the baseline comes first. The other
    groups are sorted by objective; groups with the same objective keep the order of `runs`.
    """
    alike: list[tuple[Any, list[EvaluatedRun]]] = []
    for run in runs:
        settings = _settings(run)
        for other, members in alike:
            if settings is not None and settings == other and _seed(run) not in map(_seed, members):
                members.append(run)
                break
        else:
            alike.append((settings, [run]))
    gathered = [sorted(members, key=_seed) for _, members in alike]
    baseline = find_baseline(runs)
    gathered.sort(key=lambda members: (baseline not in members, _rank(members[0])))
    labels = [_label(members) for members in gathered]
    colours = _colours([_rank(members[0]) for members in gathered])
    return [
        Group(label if labels.count(label) == 1 else f"{label} ({members[0].label})", colour, members)
        for label, colour, members in zip(labels, colours, gathered, strict=True)
    ]


def compare_groups(groups: Sequence[Group]) -> list[Comparison]:
    """Compares each group, and each run of a group with several seeds, with the group of the baseline.

    The first run of a group is compared with the first run of the baseline, the second with the second, and
    so on. The differences are therefore independent, and their mean has an interval over seeds. With fewer
    than two pairs of runs, the difference of a group has no interval.
    """
    baseline = find_baseline_group(groups)
    records = []
    for group in (group for group in groups if group is not baseline):
        pairs = [compare(pair) for pair in zip(baseline.runs, group.runs, strict=False)]
        if group.has_seeds or baseline.has_seeds:
            records += [_over_pairs(found, group, baseline) for found in zip(*pairs, strict=False)]
            records += [record for pair in pairs for record in pair] if group.has_seeds else []
        else:
            records += pairs[0]
    return records


def find_baseline_group(groups: Sequence[Group]) -> Group:
    """Returns the group of the baseline."""
    baseline = find_baseline([run for group in groups for run in group.runs])
    return next(group for group in groups if baseline in group.runs)


def _over_pairs(pairs: Sequence[Comparison], group: Group, baseline: Group) -> Comparison:
    name = pairs[0].scenario
    ours, theirs = (side.results.scenarios[name].mean_score.value for side in (group, baseline))
    record = merge(pairs, group.confidence)
    if len(pairs) < 2:  # an interval over the samples of two runs says nothing about other seeds
        known = ours is not None and theirs is not None
        difference = Interval(ours - theirs if known else None)  # type: ignore[operator]
        record = replace(record, difference=difference, improvement=Interval())
    return replace(
        record,
        run=group.label,
        baseline=baseline.label,
        ratio=ours / theirs if ours is not None and theirs else None,
        num_seeds=len(pairs),
    )


def merge(parts: Sequence[T], confidence: float) -> T:
    """Merges the results of several seeds into one object of the same type.

    An estimate becomes its mean over the seeds that have it, with an interval over seeds that lies within the
    bounds of its field. If seeds differ in another number, it becomes the mean. If they differ in any other
    value, it becomes empty. A part that is `None` stands for a seed without the value.
    """
    return _merge(parts, confidence, NONNEGATIVE)


def _merge(parts: Sequence[Any], confidence: float, bounds: Bounds) -> Any:
    known = [part for part in parts if part is not None]
    if len(parts) == 1 or not known:
        return known[0] if known else None

    def inner(read: Callable[[Any], Any], within: Bounds = bounds) -> Any:
        return _merge([None if part is None else read(part) for part in parts], confidence, within)

    first = known[0]
    if isinstance(first, Interval):
        return _merge_estimates(known, confidence, bounds)
    if is_dataclass(first):
        merged = {
            one.name: inner(attrgetter(one.name), one.metadata.get("bounds", bounds)) for one in fields(first)
        }
        cls: type = type(first)
        return cls(**merged)
    if isinstance(first, dict):
        keys = dict.fromkeys(key for part in known for key in part)
        return {key: inner(methodcaller("get", key)) for key in keys}
    if isinstance(first, list):
        lengths = set(map(len, known))
        return [inner(itemgetter(i)) for i in range(len(first))] if len(lengths) == 1 else []
    if all(part == first for part in known):
        return first
    if all(isinstance(part, int | float) and not isinstance(part, bool) for part in known):
        return float(np.mean(known))
    return "" if isinstance(first, str) else None


def _merge_estimates(known: Sequence[Interval], confidence: float, bounds: Bounds) -> Interval:
    found = over_seeds(known, confidence, bounds)
    if not isinstance(known[0], ExpectedMax):
        return found
    ks = {one.k for one in known if isinstance(one, ExpectedMax)}
    return ExpectedMax(found.value, found.low, found.high, ks.pop() if len(ks) == 1 else 0)


def over_seeds(measured: Sequence[Interval], confidence: float, bounds: Bounds = NONNEGATIVE) -> Interval:
    """Returns the mean over seeds, with Student's t interval.

    If all seeds have exactly the same value (for example, because no sample was bad), their spread is
    unknown. The result is then the smallest interval that contains all of their own intervals, if any.

    Args:
        measured: The estimate of each seed.
        confidence: Coverage of the interval.
        bounds: The smallest and the largest possible value of the ends of the interval.

    Returns:
        An interval with low <= value <= high. Its ends are `None` if fewer than two seeds have a value. Its
            value is `None` if no seed has one.
    """
    known = [one for one in measured if one.value is not None]
    values = np.array([one.value for one in known], dtype=np.float64)
    if len(values) < 2:
        return Interval(float(values[0]) if len(values) else None)
    if np.ptp(values) == 0:
        lows = [one.low for one in known if one.low is not None]
        highs = [one.high for one in known if one.high is not None]
        return Interval(float(values[0]), min(lows, default=None), max(highs, default=None))
    mean = float(values.mean())
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values))
    lowest, highest = bounds
    low, high = max(mean - half, lowest), min(mean + half, highest)
    return Interval(mean, min(low, mean), max(high, mean))


def _settings(run: EvaluatedRun) -> Any:
    """Returns the settings that the runs of a group share; `None` if they are not known."""
    if run.config is None:
        return None
    return run_identity_without_seed(run.config), run.store or run.config.store.path


def _seed(run: EvaluatedRun) -> int:
    return run.config.train.seed if run.config else 0


def _rank(run: EvaluatedRun) -> int:
    return _ORDER.index(run.objective) if run.objective in _ORDER else len(_ORDER)


def _colours(ranks: Sequence[int]) -> list[int]:
    """Returns the colour of each group.

    The first group of an objective gets the colour of the objective; other groups get unused colours.
    """
    own = [rank if rank < len(COLOURS) and rank not in ranks[:i] else None for i, rank in enumerate(ranks)]
    left = cycle([colour for colour in range(len(COLOURS)) if colour not in own] or range(len(COLOURS)))
    return [next(left) if colour is None else colour for colour in own]


def _label(runs: Sequence[EvaluatedRun]) -> str:
    """Returns a single run's label, or what the run names share before the seed, or the objective."""
    if len(runs) == 1:
        return runs[0].label
    stems = {re.sub(rf"[\W_]*(?:seed|s)?[\W_]*{_seed(run)}$", "", run.results.run.name) for run in runs}
    return stems.pop() if len(stems) == 1 and "" not in stems else runs[0].objective or runs[0].label
