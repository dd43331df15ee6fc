"""Runs that differ in nothing but their seed, as one: means over seeds, with intervals over seeds."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import stats

from phf.base.plot_style import COLOURS
from phf.report.differences import DEFAULT_CONFIDENCE, compare, find_baseline
from phf.report.read_runs import EvaluatedRun, lookup

_ORDER = ("mle", "conditional", "filtering", "unlikelihood", "rwr", "awr", "masking", "upsampling")
"""Objectives in the order of the report, whatever the order of the folders; each has a colour of its own."""

_NO_PART_OF_TRAINING = ("run", "evaluation", "redteam", "tamper")
"""Sections of the configuration that do not change the model."""


Bounds = tuple[float, float]
NONNEGATIVE: Bounds = (0.0, math.inf)
SHARE: Bounds = (0.0, 1.0)
UNBOUNDED: Bounds = (-math.inf, math.inf)

_BOUNDS = dict.fromkeys(("kl", "difference"), UNBOUNDED) | dict.fromkeys(
    (
        *("rate", "segment_rate", "fresh_rate", "improvement", "finished", "plain", "length_normalized"),
        *("pass_at", "parses", "self_bleu", "distinct_1", "distinct_2", "distinct_3"),
    ),
    SHARE,
)
"""Where the measurements under a key can lie; those under other keys are scores, losses and counts."""


@dataclass(frozen=True)
class Group:
    """Runs of one configuration, a run for each seed.

    Attributes:
        label: Names the group in the report; no other group has it.
        colour: Its place among the colours, which the objective decides where it can.
        runs: In the order of their seeds.
    """

    label: str
    colour: int
    runs: list[EvaluatedRun]

    @cached_property
    def results(self) -> dict[str, Any]:
        """The runs' records as one, see `merge`, with the group's label."""
        return {**merge([run.record for run in self.runs], self.confidence), "label": self.label}

    @property
    def confidence(self) -> float:
        """Coverage of the intervals."""
        return float(lookup(self.runs[0].results, "confidence") or DEFAULT_CONFIDENCE)

    @property
    def has_seeds(self) -> bool:
        """Whether it is more than one run."""
        return len(self.runs) > 1


def group_runs(runs: Sequence[EvaluatedRun]) -> list[Group]:
    """Puts runs together whose configurations differ in nothing but `train.seed` and what the run is called.

    A folder without a `config.yaml` is a group of its own. Groups are ordered by objective, those of one
    objective as they were given.
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
    gathered = sorted((sorted(members, key=_seed) for _, members in alike), key=lambda m: _rank(m[0]))
    labels = [_label(members) for members in gathered]
    colours = _colours([_rank(members[0]) for members in gathered])
    return [
        Group(label if labels.count(label) == 1 else f"{label} ({members[0].label})", colour, members)
        for label, colour, members in zip(labels, colours, gathered, strict=True)
    ]


def compare_groups(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Compares each group, and each run of it, with the group of the baseline.

    The first run of a group is compared with the first one of the baseline, the second with the second, and
    so on: the differences are independent, so their mean has an interval over seeds.

    Returns:
        Records as of `compare`; those of a group have `num_seeds`, the number of pairs of runs that they come
        from. With fewer than two pairs their `difference` has no interval.
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
    """The group of the baseline."""
    baseline = find_baseline([run for group in groups for run in group.runs])
    return next(group for group in groups if baseline in group.runs)


def _over_pairs(pairs: Sequence[dict[str, Any]], group: Group, baseline: Group) -> dict[str, Any]:
    name = pairs[0]["scenario"]
    means = [lookup(side.results, "scenarios", name, "mean_score", "value") for side in (group, baseline)]
    record = merge(pairs, group.confidence)
    if len(pairs) < 2:  # an interval over the samples of two runs says nothing of other seeds
        record["difference"] = {
            "value": None if None in means else means[0] - means[1],
            "low": None,
            "high": None,
        }
        record["improvement"] = None
    return {
        **record,
        "run": group.label,
        "baseline": baseline.label,
        "ratio": means[0] / means[1] if means[0] is not None and means[1] else None,
        "num_seeds": len(pairs),
    }


def merge(parts: Sequence[Any], confidence: float, bounds: Bounds = NONNEGATIVE) -> Any:
    """Results of several seeds as one of the same form.

    A measurement becomes its mean over the seeds that have it, with the interval over them, and so does a
    number in which they differ; what else they differ in becomes `None`. No interval reaches
    beyond `bounds`, unless a key below has others.
    """
    known = [part for part in parts if part is not None]
    if not known or len(parts) == 1:
        return copy.deepcopy(known[0]) if known else None
    if all(isinstance(part, dict) for part in known):
        keys = dict.fromkeys(key for part in known for key in part)
        merged = {
            key: merge([part.get(key) for part in known], confidence, _BOUNDS.get(key, bounds))
            for key in keys
        }
        return merged | over_seeds(known, confidence, bounds) if "value" in keys else merged
    if all(isinstance(part, list) for part in known):
        if len(set(map(len, known))) > 1:
            return None
        return [merge(items, confidence, bounds) for items in zip(*known, strict=True)]
    if all(part == known[0] for part in known):
        return known[0]
    numbers = all(isinstance(part, int | float) and not isinstance(part, bool) for part in known)
    return over_seeds([{"value": part} for part in known], confidence, bounds) if numbers else None


def over_seeds(
    measured: Sequence[dict[str, Any]], confidence: float, bounds: Bounds = NONNEGATIVE
) -> dict[str, float | None]:
    """The mean over seeds, with Student's t interval.

    Seeds that agree to the last digit (no sample was bad) tell nothing of the spread: there it is the widest
    of their own intervals.

    Args:
        measured: The `value` of each seed, with `low` and `high` where it has an interval.
        confidence: Coverage of the interval.
        bounds: Where the interval ends at the latest.

    Returns:
        `value`, `low` and `high`, with low <= value <= high; `None` where fewer than two seeds say nothing.
    """
    values = np.array([v for one in measured if (v := lookup(one, "value")) is not None], dtype=np.float64)
    if len(values) < 2:
        return {"value": float(values[0]) if len(values) else None, "low": None, "high": None}
    mean = float(values.mean())
    if np.ptp(values) == 0:
        lows, highs = ([b for one in measured if (b := lookup(one, k)) is not None] for k in ("low", "high"))
        return {"value": mean, "low": min(lows, default=mean), "high": max(highs, default=mean)}
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values))
    lowest, highest = bounds
    low, high = max(mean - half, lowest), min(mean + half, highest)
    return {"value": mean, "low": min(low, mean), "high": max(high, mean)}


def _settings(run: EvaluatedRun) -> Any:
    """What of a run's configuration other seeds have too; `None` if it is not known."""
    if run.config is None:
        return None
    settings = {key: value for key, value in run.config.items() if key not in _NO_PART_OF_TRAINING}
    settings["train"] = {k: v for k, v in (settings.get("train") or {}).items() if k != "seed"}
    return settings


def _seed(run: EvaluatedRun) -> int:
    return int(lookup(run.config, "train", "seed") or 0)


def _rank(run: EvaluatedRun) -> int:
    return _ORDER.index(run.objective) if run.objective in _ORDER else len(_ORDER)


def _colours(ranks: Sequence[int]) -> list[int]:
    """The objective's own colour for the first of its groups, for the rest those that are left."""
    own = [rank if rank < len(COLOURS) and rank not in ranks[:i] else None for i, rank in enumerate(ranks)]
    left = [colour for colour in range(len(COLOURS)) if colour not in own] or list(range(len(COLOURS)))
    rest = iter(range(len(ranks)))
    return [left[next(rest) % len(left)] if colour is None else colour for colour in own]


def _label(runs: Sequence[EvaluatedRun]) -> str:
    """What the names have in common before the seed, or else the objective."""
    if len(runs) == 1:
        return runs[0].label
    stems = {
        re.sub(rf"[\W_]*(?:seed|s)?[\W_]*{_seed(run)}$", "", str(lookup(run.results, "run", "name") or ""))
        for run in runs
    }
    return stems.pop() if len(stems) == 1 and "" not in stems else runs[0].objective or runs[0].label
