"""Runs against a baseline: how far apart they are, how sure that is, and whether they may be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from phf.evaluation.runs import EvaluatedRun, Key, Sample, lookup, scenario_names

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
_RESAMPLE_CHUNK = 1_000_000
"""Draws held in memory at a time."""


def find_baseline(runs: Sequence[EvaluatedRun]) -> EvaluatedRun:
    """The first run with the MLE objective, or the first run if there is none."""
    return next((run for run in runs if run.objective == "mle"), runs[0])


def compare(runs: Sequence[EvaluatedRun]) -> list[dict[str, Any]]:
    """Compares each run with the baseline, in each scenario that both have.

    Returns:
        One record for each, with `run`, `baseline` and `scenario`; `difference` of the mean scores (run minus
        baseline) with its interval, `num_pairs` it comes from, `ratio` of the mean scores as measured, and
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
    difference, num_pairs = paired_difference(run.samples.get(name, {}), baseline.samples.get(name, {}))
    if difference is None and value is not None and reference is not None:
        difference = {"value": value - reference, "low": None, "high": None}
    bounds = [lookup(side, bound) for side in (ours, theirs) for bound in ("low", "high")]
    overlap = None if None in bounds else bounds[0] <= bounds[3] and bounds[2] <= bounds[1]
    return {
        "run": run.label,
        "baseline": baseline.label,
        "scenario": name,
        "difference": difference,
        "confidence": CONFIDENCE,
        "num_pairs": num_pairs,
        "ratio": value / reference if value is not None and reference else None,
        "overlap": overlap,
    }


def paired_difference(
    ours: dict[Key, Sample], theirs: dict[Key, Sample], seed: int = 0
) -> tuple[dict[str, float | None] | None, int]:
    """The mean difference of score over samples with the same prompt and index, with a bootstrap interval.

    Samples of one prompt resemble each other, so prompts are drawn where there are several of them, and
    single samples where there is one. A pair counts if both of its samples have a score.

    Returns:
        `value`, `low` and `high` (`None` without a pair), and the number of pairs.
    """
    differences, prompts = [], []
    for key, our in ours.items():
        their = theirs.get(key)
        if their is None or our.prompt != their.prompt or our.score is None or their.score is None:
            continue
        differences.append(our.score - their.score)
        prompts.append(key[0])
    if not differences:
        return None, 0
    scores = np.asarray(differences, dtype=np.float64)
    _, unit = np.unique(prompts, return_inverse=True)
    if unit.max() == 0:
        unit = np.arange(len(scores))
    sums, counts = np.bincount(unit, weights=scores), np.bincount(unit)
    low, high = np.quantile(_resample_means(sums, counts, seed), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"value": float(scores.mean()), "low": float(low), "high": float(high)}, len(scores)


def _resample_means(sums: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Means of `NUM_RESAMPLES` draws, with replacement, of units with these sums over these many samples."""
    generator = np.random.default_rng(seed)
    chunk = max(1, _RESAMPLE_CHUNK // len(sums))
    means = []
    for start in range(0, NUM_RESAMPLES, chunk):
        drawn = generator.integers(len(sums), size=(min(chunk, NUM_RESAMPLES - start), len(sums)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(means)


def find_warnings(runs: Sequence[EvaluatedRun]) -> list[str]:
    """A sentence for each reason why the runs cannot be compared, or not without care."""
    scorer = _differing("scorer", runs, lambda run: _scorer(run.results))
    measurement = [
        _differing("threshold", runs, lambda run: lookup(run.results, "threshold")),
        _differing("seed", runs, lambda run: lookup(run.results, "seed")),
        *(warning for name in scenario_names(runs) for warning in _scenario_warnings(runs, name)),
    ]
    budgets = [tokens for run in runs if (tokens := lookup(run.results, "run", "tokens"))]
    warnings = [f"Not comparable: {found}" for found in [scorer, *measurement] if found]
    if budgets and max(budgets) > 1.01 * min(budgets):
        found = _differing(
            "number of training tokens", runs, lambda run: lookup(run.results, "run", "tokens")
        )
        warnings.append(f"Compare with care: {found}")
    return warnings


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
    missing = [run.label for run in runs if name not in run.scenarios]
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
