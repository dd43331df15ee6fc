"""Runs against a baseline: how far apart they are, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from phf.base.estimates import Interval, mean_by_cluster, share_by_cluster
from phf.report.read_runs import EvaluatedRun, Key, Sample, lookup

DEFAULT_CONFIDENCE = 0.95


def find_baseline(runs: Sequence[EvaluatedRun]) -> EvaluatedRun:
    """The first run with the MLE objective, or the first run if there is none."""
    return next((run for run in runs if run.objective == "mle"), runs[0])


def compare(runs: Sequence[EvaluatedRun]) -> list[dict[str, Any]]:
    """Compares each run with the baseline, in each scenario that both have.

    Returns:
        One record for each, with `run`, `baseline` and `scenario`; `difference` of the mean scores (run minus
        baseline) with its interval, `num_pairs` it comes from, `improvement`: the probability that a sample
        of the run scores lower than one of the baseline, `ratio` of the mean scores as measured, and
        `overlap`: whether the intervals of the two mean scores do. `None` stands for what is unknown.
    """
    baseline = find_baseline(runs)
    return [
        _compare_scenario(run, baseline, name)
        for run in runs
        if run is not baseline
        for name in run.scenarios
        if name in baseline.scenarios
    ]


def _compare_scenario(run: EvaluatedRun, baseline: EvaluatedRun, name: str) -> dict[str, Any]:
    ours = lookup(run.scenarios[name], "mean_score") or {}
    theirs = lookup(baseline.scenarios[name], "mean_score") or {}
    value, reference = lookup(ours, "value"), lookup(theirs, "value")
    confidence = lookup(baseline.results, "confidence") or DEFAULT_CONFIDENCE
    pairs = run.samples.get(name, {}), baseline.samples.get(name, {})
    difference, num_pairs = paired_difference(*pairs, confidence)
    if difference is None and value is not None and reference is not None:
        difference = {"value": value - reference, "low": None, "high": None}
    bounds = [lookup(side, bound) for side in (ours, theirs) for bound in ("low", "high")]
    overlap = None if None in bounds else bounds[0] <= bounds[3] and bounds[2] <= bounds[1]
    return {
        "run": run.label,
        "baseline": baseline.label,
        "scenario": name,
        "difference": difference,
        "confidence": confidence,
        "num_pairs": num_pairs,
        "improvement": probability_of_improvement(*pairs, confidence),
        "ratio": value / reference if value is not None and reference else None,
        "overlap": overlap,
    }


def paired_difference(
    ours: dict[Key, Sample], theirs: dict[Key, Sample], confidence: float = DEFAULT_CONFIDENCE
) -> tuple[Interval | None, int]:
    """The mean difference of score over samples with the same prompt and index, with a bootstrap interval.

    Samples of one prompt resemble each other, so prompts are drawn where there are several of them, and
    single samples where there is one. A pair counts if both of its samples have a score.

    Returns:
        `value`, `low` and `high` (`None` without a pair), and the number of pairs.
    """
    ours_N, theirs_N, prompts_N = _pairs(ours, theirs)
    if not len(prompts_N):
        return None, 0
    return mean_by_cluster((ours_N - theirs_N).tolist(), _clusters(prompts_N), confidence, 0), len(prompts_N)


def probability_of_improvement(
    ours: dict[Key, Sample], theirs: dict[Key, Sample], confidence: float = DEFAULT_CONFIDENCE
) -> Interval | None:
    """The probability that a sample of ours scores lower than one of theirs to the same prompt, ties half.

    For each prompt it is Mann and Whitney's U of all pairs over their number (Agarwal et al. 2021, arXiv
    2108.13264). What is bootstrapped is each sample's part in U (its placement, DeLong et al. 1988), drawn as
    in `paired_difference`.

    Returns:
        `value`, `low` and `high`; `None` without a pair.
    """
    ours_N, theirs_N, prompts_N = _pairs(ours, theirs)
    if not len(prompts_N):
        return None
    parts_N = np.empty(len(prompts_N))
    for prompt in np.unique(prompts_N):
        of_prompt = prompts_N == prompt
        x, y = ours_N[of_prompt], theirs_N[of_prompt]
        lower, higher = _share_above(x, y), 1 - _share_above(y, x)
        parts_N[of_prompt] = lower + higher - lower.mean()
    return share_by_cluster(parts_N.tolist(), _clusters(prompts_N), confidence, 0)


def _share_above(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """For each of x the share of y above it, ties half."""
    ordered = np.sort(y)
    return 1 - (np.searchsorted(ordered, x, "left") + np.searchsorted(ordered, x, "right")) / (2 * len(y))


def _pairs(ours: dict[Key, Sample], theirs: dict[Key, Sample]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of samples with the same prompt and index where both have one, and their prompts' indices."""
    pairs = [
        (our.score, their.score, key[0])
        for key, our in ours.items()
        if (their := theirs.get(key)) and our.prompt == their.prompt
        if our.score is not None and their.score is not None
    ]
    ours_N, theirs_N, prompts_N = np.array(pairs, dtype=np.float64).reshape(-1, 3).T
    return ours_N, theirs_N, prompts_N.astype(np.int64)


def _clusters(prompts_N: np.ndarray) -> list[int] | None:
    return prompts_N.tolist() if len(set(prompts_N)) > 1 else None
