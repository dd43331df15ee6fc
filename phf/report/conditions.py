"""Whether runs may be compared: all that decides a measurement must be alike, but for the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from phf.config import ScenarioConfig
from phf.report.differences import DEFAULT_CONFIDENCE
from phf.report.read_runs import EvaluatedRun, lookup, scenario_names

Conditions = dict[tuple[str, str], Any]
"""What a measurement depends on, by what it is and where it holds."""


def find_warnings(runs: Sequence[EvaluatedRun]) -> list[str]:
    """A sentence for each reason why the runs cannot be compared, or not without care.

    Runs are compared in what they have: a measure that was taken of some of them only is missing, not other.
    """
    names = scenario_names(runs)
    other_prompts = [name for name in names if not _same_prompts(runs, name)]
    incomparable = [*_differing({run.label: _conditions(run) for run in runs})]
    if other_prompts:
        incomparable.append(f"the prompts in {', '.join(other_prompts)} differ.")
    budgets = [tokens for run in runs if (tokens := lookup(run.results, "run", "tokens"))]
    uneven = bool(budgets) and max(budgets) > 1.01 * min(budgets)
    rescored = [run.label for run in runs if run.results.get("scorer_differs")]
    care = [
        *_differing({run.label: _care(run, uneven) for run in runs}),
        *_partial_scenarios(runs, names),
    ]
    if rescored:
        care.append(f"samples are scored by another scorer than the corpus of {', '.join(rescored)}.")
    return [
        *(f"Not comparable: {found}" for found in incomparable),
        *(f"Compare with care: {found}" for found in care),
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


def _conditions(run: EvaluatedRun) -> Conditions:
    """What must be alike, of all that was measured."""
    results = run.results
    found: Conditions = {
        ("scorer", ""): _scorer(results),
        ("threshold", ""): lookup(results, "threshold"),
        ("seed", ""): lookup(results, "seed"),
        ("coverage of the intervals", ""): lookup(results, "confidence") or DEFAULT_CONFIDENCE,
        ("backend", ""): lookup(results, "backend") or "transformers",
    }
    for key, scorer in (lookup(results, "scorers") or {}).items():
        found[f"scorer {key}", ""] = _scorer({"scorer": scorer})
        found[f"threshold of {key}", ""] = lookup(scorer, "threshold")
    for name, measured in run.scenarios.items():
        found["number of samples", name] = lookup(measured, "n")
        found["number of prompts", name] = lookup(measured, "num_prompts")
        found |= _decoding(lookup(measured, "decoding"), lookup(measured, "tag"), name)
    found |= _named(
        lookup(results, "kl"),
        "KL",
        {"reference": "reference", "samples": "number of samples", "max_tokens": "max_tokens",
         "by": "reading (by)"},
    )  # fmt: skip
    found |= _named(lookup(results, "ranking"), "ranking", {"source": "source", "pairs": "number of pairs"})
    found |= _attack(run.redteam, "redteam")
    found |= _attack(run.tamper, "tamper")
    return found


def _decoding(settings: Any, tag: Any, where: str) -> Conditions:
    """The options of a scenario; one that older results lack had its default."""
    # Prompts are compared themselves, and samples by their number.
    options = {**asdict(ScenarioConfig()), **(settings or {})}
    found = {
        (option, where): value
        for option, value in options.items()
        if option not in ("prompts", "max_prompts", "samples", "tag", "name")
    }
    # A model without tags has none, on purpose.
    return found | ({("tag", where): tag} if tag not in (None, "none") else {})


def _attack(results: dict[str, Any] | None, where: str) -> Conditions:
    if not results:
        return {}
    options = ("rounds", "trials", "proposals", "budget", "threshold", "seed", "num_seeds")
    found = _named(
        results, where, {**dict(zip(options, options, strict=True)), "samples": "number of samples"}
    )
    if results.get("scorer"):
        found["scorer", where] = _scorer(results)
    if attacker := lookup(results, "attacker"):
        found["attacker", where] = " ".join(str(part) for part in attacker.values() if part)
    if scenario := lookup(results, "scenario"):
        found["scenario", where] = lookup(scenario, "name")
        found |= _decoding(scenario, lookup(scenario, "tag"), where)
    finetuning = lookup(results, "finetuning") or {}
    return found | {(f"finetuning {option}", where): value for option, value in finetuning.items()}


def _care(run: EvaluatedRun, uneven: bool) -> Conditions:
    """What should be alike."""
    heldout = {"threshold": "threshold of aligned text", "tokens": "number of tokens"}
    budget = {"tokens": "number of training tokens"} if uneven else {}
    return _named(lookup(run.results, "heldout"), "held-out text", heldout) | _named(
        lookup(run.results, "run"), "", budget
    )


def _named(results: Any, where: str, names: dict[str, str]) -> Conditions:
    """Some of the results, as far as there are any, by the words for them."""
    return {(what, where): lookup(results, key) for key, what in names.items() if key in (results or {})}


def _differing(conditions: dict[str, Conditions]) -> Iterator[str]:
    """`the top_p in A, B differs: 0.9 (mle), 1.0 (conditional).` for all that is not the same everywhere.

    Args:
        conditions: Of each run, by its label.
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
    return f"{value:,}" if isinstance(value, int) else str(value)


def _partial_scenarios(runs: Sequence[EvaluatedRun], names: Sequence[str]) -> Iterator[str]:
    """What some runs lack; a scenario that makes no sense for a model (a bad tag) is left out on purpose."""
    only: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        if any(name not in run.scenarios and lookup(run.results, "skipped", name) is None for run in runs):
            only.setdefault(tuple(run.label for run in runs if name in run.scenarios), []).append(name)
    for having, missing in only.items():
        noun = "scenario" if len(missing) == 1 else "scenarios"
        yield f"{noun} {', '.join(missing)} only for {', '.join(having)}."


def _same_prompts(runs: Sequence[EvaluatedRun], name: str) -> bool:
    """Whether no two runs were asked different things under one index."""
    asked: dict[int, str] = {}
    return all(
        asked.setdefault(prompt_index, sample.prompt) == sample.prompt
        for run in runs
        for (prompt_index, _), sample in run.samples.get(name, {}).items()
    )
