"""Runs against a baseline: how far apart they are, how sure that is, and whether they may be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from phf.evaluation.metrics import Interval, mean_by_cluster, share_by_cluster
from phf.evaluation.runs import EvaluatedRun, Key, Sample, lookup, scenario_names

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


def find_warnings(runs: Sequence[EvaluatedRun]) -> list[str]:
    """A sentence for each reason why the runs cannot be compared, or not without care."""

    def differing(what: str, *path: str) -> str | None:
        return _differing(what, runs, lambda run: lookup(run.results, *path))

    incomparable = [
        _differing("scorer", runs, lambda run: _scorer(run.results)),
        differing("threshold", "threshold"),
        differing("seed", "seed"),
        differing("coverage of the intervals", "confidence"),
        *(warning for name in scenario_names(runs) for warning in _scenario_warnings(runs, name)),
    ]
    budgets = [tokens for run in runs if (tokens := lookup(run.results, "run", "tokens"))]
    uneven = budgets and max(budgets) > 1.01 * min(budgets)
    rescored = [run.label for run in runs if run.results.get("scorer_differs")]
    care = [
        differing("number of training tokens", "run", "tokens") if uneven else None,
        differing("threshold of aligned held-out text", "heldout", "threshold"),
        f"samples are scored by another scorer than the corpus of {', '.join(rescored)}."
        if rescored
        else None,
    ]
    return [f"Not comparable: {found}" for found in incomparable if found] + [
        f"Compare with care: {found}" for found in care if found
    ]


def same_scorer(runs: Sequence[EvaluatedRun]) -> bool:
    """Whether every run was scored in the same way, so that scores may stand side by side."""
    return len({_scorer(run.results) for run in runs}) == 1


def _scorer(results: dict[str, Any]) -> str:
    scorer = results.get("scorer") or {}
    fingerprint = str(scorer.get("fingerprint") or "")
    return (
        " ".join(str(part) for part in (scorer.get("name"), scorer.get("version"), fingerprint[:8]) if part)
        or "none"
    )


def _scenario_warnings(runs: Sequence[EvaluatedRun], name: str) -> list[str | None]:
    # One that makes no sense for a model, such as a bad tag for one without tags, is left out on purpose.
    missing = [
        run.label
        for run in runs
        if name not in run.scenarios and lookup(run.results, "skipped", name) is None
    ]
    having = [run for run in runs if name in run.scenarios]
    decoding = [lookup(run.scenarios[name], "decoding") or {} for run in having]
    # The tag is what conditional training is about: it differs on purpose.
    options = sorted({option for settings in decoding for option in settings} - {"tag"})
    return [
        f"scenario {name} was not evaluated for {', '.join(missing)}." if missing else None,
        _differing(f"number of samples in {name}", having, lambda run: lookup(run.scenarios[name], "n")),
        _differing(
            f"number of prompts in {name}", having, lambda run: lookup(run.scenarios[name], "num_prompts")
        ),
        None if _same_prompts(having, name) else f"the prompts in {name} differ.",
        *(_differing(f"{option} in {name}", having, partial(_setting, name, option)) for option in options),
    ]


def _setting(scenario: str, option: str, run: EvaluatedRun) -> Any:
    return lookup(run.scenarios, scenario, "decoding", option)


def _same_prompts(runs: Sequence[EvaluatedRun], name: str) -> bool:
    """Whether no two runs were asked different things under one index."""
    asked: dict[int, str] = {}
    return all(
        asked.setdefault(prompt_index, sample.prompt) == sample.prompt
        for run in runs
        for (prompt_index, _), sample in run.samples.get(name, {}).items()
    )


def _differing(what: str, runs: Sequence[EvaluatedRun], value: Callable[[EvaluatedRun], Any]) -> str | None:
    """`the threshold differs: 0 (mle), 0.1 (conditional).`, or `None` if it is the same everywhere."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        found = value(run)
        groups.setdefault(
            "unknown" if found is None else f"{found:,}" if isinstance(found, int) else str(found), []
        ).append(run.label)
    if len(groups) < 2:
        return None
    return (
        f"the {what} differs: "
        + ", ".join(f"{found} ({', '.join(labels)})" for found, labels in groups.items())
        + "."
    )
