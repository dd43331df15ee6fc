"""The verbs `evaluate` and `generate`: a model in, samples and a measured misalignment rate out.

The prompts, the noise and the number of samples come from the configuration alone, so that every model that
is evaluated with it is asked the same.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from phf.base.errors import ConfigError, PhfError
from phf.base.progress import sampling_progress
from phf.config import Config, EvaluationConfig, ScenarioConfig
from phf.documents.segments import Segmenter, segmenter
from phf.evaluation.capability.measures import check_cost, cost_inputs, measure_cost
from phf.evaluation.instruments import (
    describe_model,
    describe_scorer,
    load_all_prompts,
    open_scorer,
    open_scorers,
    scorer_config,
    scorer_differs,
    segmenter_config,
)
from phf.evaluation.results import FORMAT, finished_results, result_identity, sample_row, write_results
from phf.evaluation.sample_scores import ScoredSample, measure, measure_scores, score_samples
from phf.inference.generate import Sample, generate_all
from phf.inference.likelihood import Reader
from phf.inference.prompt_tokens import inapplicable
from phf.model.control_tokens import ControlTokens
from phf.model.loaded_model import Subject, find_subject
from scorers.base import Scorer, ScorerError

log = logging.getLogger("phf")


def evaluate(folder: Path, config: Config) -> dict[str, Any]:
    """Samples every scenario from a model, scores the samples, and measures what alignment cost.

    Args:
        folder: A run folder, or the folder of any causal LM of `transformers`.
        config: Its part `evaluation`; scorer and segmenter too for a model that does not name its own.

    Returns:
        What was written to `evaluation/results.json`; the samples are in `evaluation/samples.parquet`. If
        both are there already and still match, nothing is done.

    Raises:
        ConfigError: A scenario asks for something that cannot be.
        PhfError: The folder holds no model, or the scorer cannot be loaded.
    """
    subject = find_subject(Path(folder))
    wanted = scorer_config(subject, config)
    scorer, segment = open_scorer(wanted), segmenter(segmenter_config(subject, config))
    others = open_scorers(config, wanted)
    prompts = load_all_prompts(subject, config, config.evaluation.scenarios)
    identity = result_identity(
        subject, config.evaluation, scorer.fingerprint, segmenter_config(subject, config), prompts
    )
    judges = _judges(config, prompts, scorer)
    identity["scorers"] = {name: other.fingerprint for name, other in others.items()}
    identity["judges"] = {name: judge.fingerprint for name, judge in judges.items()}
    identity["cost"] = cost_inputs(config.evaluation)
    output = subject.folder / "evaluation"
    if (results := finished_results(output, identity)) is not None:
        log.info("%s is evaluated: nothing to do", subject.folder)
        return results
    differs = scorer_differs(subject, scorer)

    model, tokenizer, control = subject.load()
    evaluation = config.evaluation
    skipped = _skipped(prompts, evaluation, control)
    prompts = {name: these for name, these in prompts.items() if name not in skipped}
    reader = Reader(model, tokenizer, control, segment, subject.facts.get("context_length"))
    check_cost(subject, reader, evaluation)
    scenarios: dict[str, Any] = {}
    scored: dict[str, list[ScoredSample]] = {}
    scored_by: dict[str, dict[str, list[ScoredSample]]] = {key: {} for key in others}
    started = time.monotonic()
    samples = _generate(subject, model, tokenizer, control, config, prompts, segment, judges)
    seconds = time.monotonic() - started
    for name in prompts:
        scenario = evaluation.scenarios[name]
        try:
            scored[name] = score_samples(samples[name], scenario, scorer, segment)
            for key, other in others.items():
                scored_by[key][name] = score_samples(samples[name], scenario, other, segment)
        except ScorerError as error:
            raise PhfError(f"scenario {name}: {error}") from error
        scenarios[name] = measure(scored[name], scenario, _tag(scenario, control), evaluation)
        scenarios[name]["scorers"] = {
            of.key: measure_scores(scored_by[of.key][name], scenario, of.threshold, evaluation)
            for of in evaluation.scorers
        }
        _log_scenario(name, scenarios[name])
    results = {
        "format": FORMAT,
        "run": describe_model(subject, model),
        "scorer": describe_scorer(wanted, scorer),
        "scorer_differs": differs,
        "scorers": {
            of.key: {**describe_scorer(of, others[of.key]), "threshold": of.threshold}
            for of in evaluation.scorers
        },
        "threshold": evaluation.threshold,
        "confidence": evaluation.confidence,
        "seed": evaluation.seed,
        "backend": evaluation.backend,
        **measure_cost(subject, reader, evaluation, scored, output),
        "scenarios": scenarios,
        "skipped": skipped,
        "samples_per_second": sum(map(len, scored.values())) / seconds,
    }
    write_results(output, identity, results, scored, scored_by)
    log.info("%s: %.1f samples/s; results in %s", folder, results["samples_per_second"], output)
    return results


def generate_samples(
    folder: Path, config: Config, *, scenario: str | None = None, output: Path | None = None
) -> int:
    """Writes samples of one scenario as jsonl, as soon as they are all there.

    Args:
        folder: A run folder, or the folder of any causal LM of `transformers`.
        config: Its part `evaluation`.
        scenario: Which scenario; the first if `None`.
        output: The file; standard output if `None`.

    Returns:
        The number of samples.

    Raises:
        ConfigError: There is no such scenario, or it asks for something that cannot be.
        PhfError: The folder holds no model, or the file cannot be written.
    """
    scenarios = config.evaluation.scenarios
    name = next(iter(scenarios)) if scenario is None else scenario
    if name not in scenarios:
        raise ConfigError(f"--scenario: no scenario {name!r}; there are {', '.join(scenarios)}")
    subject = find_subject(Path(folder))
    segment = segmenter(segmenter_config(subject, config))
    prompts = load_all_prompts(subject, config, {name: scenarios[name]})
    independent = scenarios[name].best_of == 1 or scenarios[name].best_by
    scorer = None if independent else open_scorer(scorer_config(subject, config))
    judges = _judges(config, prompts, scorer)
    model, tokenizer, control = subject.load()
    _skipped(prompts, config.evaluation, control)
    samples = _generate(subject, model, tokenizer, control, config, prompts, segment, judges)[name]
    lines = "".join(json.dumps(sample_row(sample), ensure_ascii=False) + "\n" for sample in samples)
    if output is None:
        sys.stdout.write(lines)
        return len(samples)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = output.with_name(f".{output.name}.tmp")
        temporary.write_text(lines, encoding="utf-8")
        temporary.replace(output)
    except OSError as error:
        raise PhfError(f"{output}: cannot be written: {error.strerror}") from error
    return len(samples)


def _judges(config: Config, names: Iterable[str], scorer: Scorer | None) -> dict[str, Scorer]:
    """What scores the samples that the best is kept of, for each scenario that keeps the best."""
    judges = {}
    for name in names:
        scenario = config.evaluation.scenarios[name]
        if scenario.best_of > 1 and (judge := open_scorer(scenario.best_by) if scenario.best_by else scorer):
            judges[name] = judge
    return judges


def _generate(
    subject: Subject,
    model: Any,
    tokenizer: Any,
    control: ControlTokens,
    config: Config,
    prompts: Mapping[str, list[str]],
    segment: Segmenter,
    judges: Mapping[str, Scorer],
) -> dict[str, list[Sample]]:
    """The samples of some scenarios."""
    scenarios = {name: (these, config.evaluation.scenarios[name]) for name, these in prompts.items()}
    total = sum(len(these) * scenario.samples * scenario.best_of for these, scenario in scenarios.values())

    def choose(name: str, samples: list[Sample]) -> list[float | None]:
        scored = score_samples(samples, scenarios[name][1], judges[name], segment)
        return [one.score for one in scored]

    what = next(iter(scenarios)) if len(scenarios) == 1 else f"{len(scenarios)} scenarios"
    with sampling_progress(what, total) as advance:
        return generate_all(
            model,
            tokenizer,
            scenarios,
            control,
            segment=segment,
            context_length=subject.facts.get("context_length"),
            seed=config.evaluation.seed,
            batch_size=config.evaluation.batch_size,
            choose=choose,
            progress=advance,
            vllm_folder=subject.model_folder if config.evaluation.backend == "vllm" else None,
        )


def _skipped(names: Iterable[str], evaluation: EvaluationConfig, control: ControlTokens) -> dict[str, str]:
    """The scenarios that make no sense for the model, and why.

    Raises:
        ConfigError: None of them does.
    """
    reasons = {name: inapplicable(evaluation.scenarios[name], control) for name in names}
    skipped = {name: reason for name, reason in reasons.items() if reason}
    if len(skipped) == len(reasons):
        raise ConfigError("; ".join(f"evaluation.scenarios.{name}: {why}" for name, why in skipped.items()))
    for name, reason in skipped.items():
        log.warning("%s: skipped: %s", name, reason)
    return skipped


def _tag(scenario: ScenarioConfig, control: ControlTokens) -> str:
    """The tag that the model was in fact given."""
    return scenario.tag if control.tags else "none"


def _log_scenario(name: str, measured: dict[str, Any]) -> None:
    mean = measured["mean_score"]
    if mean["value"] is None:
        log.warning("%s: the scorer cannot say anything of any of %d samples", name, measured["n"])
        return
    log.info(
        "%s: mean score %.4g [%.4g, %.4g], rate %.3f, %d samples, %d of them not scored",
        name, mean["value"], mean["low"], mean["high"], measured["rate"]["value"],
        measured["n"], measured["unscored"],
    )  # fmt: skip
