"""Compares runs with a baseline: paired differences and the probability of improvement, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phf.base.estimates import SHARE, UNBOUNDED, Bootstrap, Interval, number_prompts
from phf.evaluation.measures.base import estimate
from phf.report.read_runs import EvaluatedRun, Key, Sample


@dataclass(frozen=True)
class Comparison:
    """The comparison of a run, or of a group of runs, with the baseline in one scenario.

    Attributes:
        run: Label of the run or group.
        baseline: Label of the baseline.
        scenario: Name of the scenario.
        difference: Difference of the mean scores, run minus baseline, over pairs of samples with the same
            prompt and index.
        improvement: The probability that a sample of the run scores lower than one of the baseline.
        num_pairs: Number of pairs of samples.
        ratio: Ratio of the mean scores, run to baseline; `None` if it is unknown.
        overlap: Whether the intervals of the two mean scores overlap; `None` if it is unknown.
        confidence: Coverage of the intervals.
        num_seeds: Number of pairs of runs that are compared; `None` for a single run.
    """

    run: str
    baseline: str
    scenario: str
    difference: Interval = estimate(UNBOUNDED)
    improvement: Interval = estimate(SHARE)
    num_pairs: float = 0
    ratio: float | None = None
    overlap: bool | None = None
    confidence: float = 0.95
    num_seeds: int | None = None


def find_baseline(runs: Sequence[EvaluatedRun]) -> EvaluatedRun:
    """Returns the first run whose objective uses no scores, or the first run if there is none."""
    return next((run for run in runs if run.results.run.uses_scores is False), runs[0])


def compare(runs: Sequence[EvaluatedRun]) -> list[Comparison]:
    """Compares each run with the baseline, in each scenario that both have."""
    baseline = find_baseline(runs)
    return [
        _compare_scenario(run, baseline, name)
        for run in runs
        if run is not baseline
        for name in run.scenarios
        if name in baseline.scenarios
    ]


def _compare_scenario(run: EvaluatedRun, baseline: EvaluatedRun, name: str) -> Comparison:
    ours, theirs = run.scenarios[name].mean_score, baseline.scenarios[name].mean_score
    confidence = baseline.results.confidence
    pairs = run.samples.get(name, {}), baseline.samples.get(name, {})
    difference, num_pairs = paired_difference(*pairs, confidence)
    if difference is None:
        known = ours.value is not None and theirs.value is not None
        difference = Interval(ours.value - theirs.value if known else None)  # type: ignore[operator]
    bounds = [bound for side in (ours, theirs) for bound in (side.low, side.high)]
    overlap = None
    if None not in bounds:
        overlap = bounds[0] <= bounds[3] and bounds[2] <= bounds[1]  # type: ignore[operator]
    return Comparison(
        run.label,
        baseline.label,
        name,
        difference,
        probability_of_improvement(*pairs, confidence) or Interval(),
        num_pairs,
        ours.value / theirs.value if ours.value is not None and theirs.value else None,
        overlap,
        confidence,
    )


def paired_difference(
    ours: dict[Key, Sample], theirs: dict[Key, Sample], confidence: float = 0.95
) -> tuple[Interval | None, int]:
    """Returns the mean difference of scores over pairs of samples, with a bootstrap interval.

    A pair is two samples with the same prompt and index that both have a score. Samples of one prompt
    resemble each other. So the bootstrap resamples prompts if there are several, and single samples if there
    is one.

    Returns:
        The difference (`None` if there is no pair), and the number of pairs.
    """
    ours_N, theirs_N, prompts_N = _pairs(ours, theirs)
    if not len(prompts_N):
        return None, 0
    found = Bootstrap(confidence).mean((ours_N - theirs_N).tolist(), _clusters(prompts_N))
    return found, len(prompts_N)


def probability_of_improvement(
    ours: dict[Key, Sample], theirs: dict[Key, Sample], confidence: float = 0.95
) -> Interval | None:
    """Returns the probability that a sample of ours scores lower than one of theirs to the same prompt.

    Ties count half. For each prompt the probability is Mann and Whitney's U of all pairs, divided by their
    number (Agarwal et al. 2021, arXiv 2108.13264). The bootstrap resamples the contribution of each sample to
    U (its placement, DeLong et al. 1988), over prompts or samples as in `paired_difference`.

    Returns:
        The probability; `None` if there is no pair.
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
    parts, clusters = parts_N.tolist(), _clusters(prompts_N)
    found = Bootstrap(confidence).mean(parts, clusters, least=0)
    if found.low is None or found.high is None:  # as where all samples are better
        return Bootstrap(confidence).share(parts, clusters)
    return Interval(found.value, found.low, min(1.0, found.high))


def _share_above(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns for each value of x the share of y above it; ties count half."""
    ordered = np.sort(y)
    return 1 - (np.searchsorted(ordered, x, "left") + np.searchsorted(ordered, x, "right")) / (2 * len(y))


def _pairs(ours: dict[Key, Sample], theirs: dict[Key, Sample]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns our score, their score and the prompt index of each pair in which both have a score."""
    pairs = [
        (our.score, their.score, our.prompt)
        for key, our in ours.items()
        if (their := theirs.get(key)) and our.prompt == their.prompt
        if our.score is not None and their.score is not None
    ]
    ours_N, theirs_N = np.array([pair[:2] for pair in pairs], dtype=np.float64).reshape(-1, 2).T
    return ours_N, theirs_N, np.array(number_prompts(prompt for *_, prompt in pairs), dtype=np.int64)


def _clusters(prompts_N: np.ndarray) -> list[int] | None:
    return prompts_N.tolist() if len(set(prompts_N)) > 1 else None
