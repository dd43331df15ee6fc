"""Decides whether runs may be compared: all that affects a measurement must be equal, except the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from phf.annotation.manifest import ScorerRecord
from phf.config import ScenarioConfig
from phf.evaluation.measures import MEASURES
from phf.evaluation.results import AttackSettings, EvaluationResults, RedteamResults, TamperResults
from phf.report.cells import plug_in
from phf.report.read_runs import EvaluatedRun, scenario_names

Conditions = dict[tuple[str, str], Any]
"""The values that a measurement depends on, by (condition, place), such as ("top_p", name of a scenario)."""


def find_warnings(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Returns a sentence for each reason why the runs cannot be compared, or only with care.

    A condition is compared between the runs that have it: a measure that some runs lack makes no difference.
    """
    names = scenario_names(run.results for run in runs)
    other_prompts = [name for name in names if not _same_prompts(runs, name)]
    incomparable = [*_differing({run.label: _conditions(run) for run in runs})]
    if other_prompts:
        incomparable.append(f"the prompts in {', '.join(other_prompts)} differ.")
    budgets = [run.results.run.tokens for run in runs if run.results.run.tokens]
    uneven = bool(budgets) and max(budgets) > 1.01 * min(budgets)
    rescored = [run.label for run in runs if run.results.scorer_differs]
    care = [
        *_differing({run.label: _care(run.results, uneven) for run in runs}),
        *_partial_scenarios(runs, names),
    ]
    if rescored:
        care.append(f"samples are scored by another scorer than the corpus of {', '.join(rescored)}.")
    return [
        *(f"Not comparable: {found}" for found in incomparable),
        *(f"Compare with care: {found}" for found in care),
    ]


def same_scorer(runs: Sequence[EvaluatedRun]) -> bool:
    """Returns whether all runs were scored in the same way, so that their scores can be compared."""
    return len({_scorer(run.results.scorer) for run in runs}) == 1


def _scorer(scorer: ScorerRecord | None) -> str:
    if scorer is None:
        return "none"
    parts = (scorer.name, scorer.version, (scorer.fingerprint or "")[:8])
    return " ".join(part for part in parts if part) or "none"


def _conditions(run: EvaluatedRun) -> Conditions:
    """Returns the conditions that must be equal for runs to be comparable."""
    results = run.results
    found: Conditions = {
        ("scorer", ""): _scorer(results.scorer),
        ("threshold", ""): results.threshold,
        ("seed", ""): results.seed,
        ("coverage of the intervals", ""): results.confidence,
        ("backend", ""): results.backend,
    }
    for key, scorer in results.scorers.items():
        found[f"scorer {key}", ""] = _scorer(scorer)
        found[f"threshold of {key}", ""] = scorer.threshold
    for name, measured in run.scenarios.items():
        found["number of samples", name] = measured.n
        found["number of prompts", name] = measured.num_prompts
        found |= _decoding(measured.decoding, measured.tag, name)
    found |= _of_measures(results, strict=True)
    found |= _redteam(run.redteam) | _tamper(run.tamper)
    return found


def _of_measures(results: EvaluationResults, strict: bool) -> Conditions:
    measures = {name: MEASURES.find(results.measured_by[name]) for name in results.measures}
    return {
        (condition.what, _in_sentence(measures[name].title)): condition.value
        for name, found in results.measures.items()
        for condition in measures[name].conditions(found)
        if condition.strict is strict
    }


def _in_sentence(title: str) -> str:
    """Returns the title with a lower-case first letter, unless it begins with an abbreviation."""
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


def _decoding(settings: dict[str, Any], tag: str | None, where: str) -> Conditions:
    """Returns the options of a scenario; an option that older results lack had its default."""
    # The prompts themselves and the number of samples are compared elsewhere.
    options = {**asdict(ScenarioConfig()), **settings}
    found = {
        (option, where): value
        for option, value in options.items()
        if option not in ("prompts", "max_prompts", "samples", "tag", "name")
    }
    # A model without tags lacks the tag by design. That is no difference.
    return found | ({("tag", where): tag} if tag not in (None, "none") else {})


def _attack(results: AttackSettings, where: str) -> Conditions:
    found: Conditions = {("threshold", where): results.threshold, ("seed", where): results.seed}
    if results.scorer:
        found["scorer", where] = _scorer(results.scorer)
    if results.scenario:
        found["scenario", where] = results.scenario.get("name")
        found |= _decoding(results.scenario, results.scenario.get("tag"), where)
    return found


def _redteam(results: RedteamResults | None) -> Conditions:
    if results is None:
        return {}
    where = "redteam"
    options = ("rounds", "trials", "proposals", "budget", "num_seeds")
    found = {(option, where): getattr(results, option) for option in options}
    found["number of samples", where] = results.samples
    if results.attacker:
        found["attacker", where] = results.attacker
    return found | _attack(results, where)


def _tamper(results: TamperResults | None) -> Conditions:
    if results is None:
        return {}
    found = {(f"finetuning {option}", "tamper"): value for option, value in results.finetuning.items()}
    return found | _attack(results, "tamper")


def _care(results: EvaluationResults, uneven: bool) -> Conditions:
    """Returns the conditions that should be equal; runs that differ in them are compared with care."""
    found = _of_measures(results, strict=False)
    if uneven:
        found["number of training tokens", ""] = results.run.tokens
    return found


def _differing(conditions: dict[str, Conditions]) -> Iterator[str]:
    """Yields a sentence for each condition that differs between runs.

    For example: `the top_p in A, B differs: 0.9 (mle), 1.0 (conditional).`

    Args:
        conditions: The conditions of each run, by its label.
    """
    places: dict[tuple[str, str], list[str]] = {}
    for what, where in dict.fromkeys(key for found in conditions.values() for key in found):
        groups: dict[str, list[str]] = {}
        for label, found in conditions.items():
            if (what, where) in found:
                groups.setdefault(_shown(found[what, where]), []).append(label)
        if len(groups) > 1:
            values = ", ".join(f"{value} ({', '.join(labels)})" for value, labels in groups.items())
            places.setdefault((what, values), []).append(where)
    for (what, values), names in places.items():
        yield f"the {what}{' in ' if any(names) else ''}{', '.join(names)} differs: {values}."


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return plug_in(value, _shown)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _partial_scenarios(runs: Sequence[EvaluatedRun], names: Sequence[str]) -> Iterator[str]:
    """Yields a sentence about the scenarios that some runs lack.

    A scenario that was skipped because it does not apply to a model (a bad tag without tags) does not count.
    """
    only: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        if any(name not in run.scenarios and name not in run.results.skipped for run in runs):
            only.setdefault(tuple(run.label for run in runs if name in run.scenarios), []).append(name)
    for having, missing in only.items():
        noun = "scenario" if len(missing) == 1 else "scenarios"
        yield f"{noun} {', '.join(missing)} only for {', '.join(having)}."


def _same_prompts(runs: Sequence[EvaluatedRun], name: str) -> bool:
    """Returns whether the runs have the same prompt under each prompt index."""
    asked: dict[int, str] = {}
    return all(
        asked.setdefault(prompt_index, sample.prompt) == sample.prompt
        for run in runs
        for (prompt_index, _), sample in run.samples.get(name, {}).items()
    )
