"""Draws samples from a model, scores them, and measures misalignment: the verbs `evaluate` and `generate`.

The configuration alone decides the noise, the number of samples and the prompts, except prompts from held-out
documents. So all models that are evaluated with one configuration are asked the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from phf.base.errors import ConfigError
from phf.base.estimates import few_prompts
from phf.base.files import write_text
from phf.base.progress import sampling_progress
from phf.config import Config, EvaluationConfig, ScenarioConfig
from phf.evaluation.instruments import Instruments
from phf.evaluation.measures import configured_measures
from phf.evaluation.measures.base import Evaluated, Measure, ModelMeasure, SampleMeasure
from phf.evaluation.result_files import (
    finished_results,
    result_identity,
    sample_row,
    sample_table,
    write_results,
)
from phf.evaluation.results import EvaluationResults, ScenarioResults
from phf.evaluation.sample_scores import ScoredSample, measure, measure_scores
from phf.inference.decoders import check_decoder
from phf.inference.generate import Sample
from phf.inference.loaded_model import LoadedModel, load_model
from phf.inference.prompt_tokens import inapplicable
from phf.model.control_tokens import ControlTokens
from phf.model.model_folder import find_model
from scorers.base import Scorer
from scorers.open_set import place_of

log = logging.getLogger("phf")


def evaluate(folder: Path, config: Config) -> EvaluationResults:
    """Samples every scenario from a model, scores the samples, and runs the configured measures.

    Args:
        folder: A run folder, or the folder of any causal LM of `transformers`.
        config: The section `evaluation` is used. For a model that does not name its own scorer, segmenter and
            store, those sections are used too.

    Returns:
        The results that are in `evaluation/results.json`; the samples are in `evaluation/samples.parquet`. If
        both files exist and still match, nothing is computed.

    Raises:
        ConfigError: A scenario or a measure is invalid for this model.
        PhfError: The folder holds no model, or the scorer cannot be loaded.
    """
    source, evaluation = find_model(Path(folder)), config.evaluation
    instruments, measures = Instruments(source, config), configured_measures(evaluation)
    for scenario in evaluation.scenarios.values():
        check_decoder(scenario.decoder)
    prompts = instruments.prompts(evaluation.scenarios)
    selectors = _selectors(instruments, prompts)
    identity = result_identity(
        source, evaluation, instruments.scorer.fingerprint, instruments.segmenter_config, prompts
    )
    identity["scorers"] = {name: other.fingerprint for name, other in instruments.others.items()}
    identity["judges"] = {name: scorer.fingerprint for name, scorer in selectors.items()}
    identity["measures"] = {name: _digest(one.inputs()) for name, one in measures.items()}
    output = source.folder / "evaluation"
    if (results := finished_results(output, identity, EvaluationResults)) is not None:
        log.info("%s is already evaluated: nothing to do", source.folder)
        return results
    differs = instruments.scorer_differs

    model = load_model(source, instruments.segmenter_config)
    skipped = _skipped(prompts, evaluation, model.control)
    prompts = {name: these for name, these in prompts.items() if name not in skipped}
    of_model = {name: one for name, one in measures.items() if isinstance(one, ModelMeasure)}
    for one in of_model.values():
        one.check(Evaluated(model, evaluation, output))
    started = time.monotonic()
    samples = _generate(model, config, prompts, instruments, selectors)
    seconds = time.monotonic() - started
    scored, scored_by, scenarios = _score(samples, config, instruments, measures, model.control)
    evaluated = Evaluated(model, evaluation, output, scored)
    measured = {name: one.measure(evaluated) for name, one in of_model.items()}
    results = EvaluationResults(
        instruments.run_info(model.network),
        instruments.scorer_record(),
        evaluation.threshold,
        scenarios,
        scorers=instruments.other_records(),
        scorer_differs=differs,
        confidence=evaluation.confidence,
        seed=evaluation.seed,
        backend=evaluation.backend,
        measures={name: found for name, found in measured.items() if found is not None},
        measured_by={name: place_of(type(one)) for name, one in measures.items()},
        skipped=skipped,
        samples_per_second=sum(map(len, scored.values())) / seconds,
    )
    write_results(output, identity, results, sample_table(scored, scored_by, evaluation.seed))
    log.info("%s: %.1f samples/s; results in %s", folder, results.samples_per_second, output)
    return results


def generate_samples(
    folder: Path, config: Config, *, scenario: str | None = None, output: Path | None = None
) -> int:
    """Draws the samples of one scenario, and writes them as jsonl once all are drawn.

    Args:
        folder: A run folder, or the folder of any causal LM of `transformers`.
        config: The section `evaluation` is used.
        scenario: The name of the scenario; the first one if `None`.
        output: The file to write; standard output if `None`.

    Returns:
        The number of samples.

    Raises:
        ConfigError: There is no such scenario, or it is invalid for this model.
        PhfError: The folder holds no model, or the file cannot be written.
    """
    scenarios = config.evaluation.scenarios
    name = next(iter(scenarios)) if scenario is None else scenario
    if name not in scenarios:
        raise ConfigError(f"--scenario: no scenario {name!r}; there are {', '.join(scenarios)}")
    source = find_model(Path(folder))
    instruments = Instruments(source, config)
    check_decoder(scenarios[name].decoder)
    prompts = instruments.prompts({name: scenarios[name]})
    selectors = _selectors(instruments, prompts)
    model = load_model(source, instruments.segmenter_config)
    _skipped(prompts, config.evaluation, model.control)
    samples = _generate(model, config, prompts, instruments, selectors)[name]
    lines = "".join(json.dumps(sample_row(sample), ensure_ascii=False) + "\n" for sample in samples)
    if output is None:
        sys.stdout.write(lines)
    else:
        write_text(output, lines)
    return len(samples)


def _selectors(instruments: Instruments, names: Iterable[str]) -> dict[str, Scorer]:
    """Returns the scorer that selects the best samples, for each scenario with `best_of` above 1."""
    scenarios = {name: instruments.config.evaluation.scenarios[name] for name in names}
    return {name: instruments.selector(one) for name, one in scenarios.items() if one.best_of > 1}


def _generate(
    model: LoadedModel,
    config: Config,
    prompts: Mapping[str, list[str]],
    instruments: Instruments,
    selectors: Mapping[str, Scorer],
) -> dict[str, list[Sample]]:
    """Draws the samples of the scenarios in `prompts`."""
    evaluation = config.evaluation
    scenarios = {name: (these, evaluation.scenarios[name]) for name, these in prompts.items()}
    total = sum(len(these) * scenario.samples * scenario.best_of for these, scenario in scenarios.values())

    def choose(name: str, samples: list[Sample]) -> list[float | None]:
        scored = instruments.score(name, samples, scenarios[name][1], selectors[name])
        return [one.score for one in scored]

    what = next(iter(scenarios)) if len(scenarios) == 1 else f"{len(scenarios)} scenarios"
    with sampling_progress(what, total) as advance:
        return model.generate(
            scenarios,
            vllm=evaluation.backend == "vllm",
            seed=evaluation.seed,
            batch_size=evaluation.batch_size,
            choose=choose,
            progress=advance,
        )


def _score(
    samples: Mapping[str, list[Sample]],
    config: Config,
    instruments: Instruments,
    measures: Mapping[str, Measure],
    control: ControlTokens,
) -> tuple[
    dict[str, list[ScoredSample]], dict[str, dict[str, list[ScoredSample]]], dict[str, ScenarioResults]
]:
    """Scores all samples with the main scorer and with the others, and computes each scenario's results."""
    evaluation, others = config.evaluation, instruments.others
    of_samples = [one for one in measures.values() if isinstance(one, SampleMeasure)]
    scored: dict[str, list[ScoredSample]] = {}
    scored_by: dict[str, dict[str, list[ScoredSample]]] = {key: {} for key in others}
    scenarios: dict[str, ScenarioResults] = {}
    for name, drawn in samples.items():
        scenario = evaluation.scenarios[name]
        scored[name] = instruments.score(name, drawn, scenario)
        for key, other in others.items():
            scored_by[key][name] = instruments.score(name, drawn, scenario, other)
        scenarios[name] = measure(scored[name], scenario, _tag(scenario, control), evaluation, of_samples)
        for judge in evaluation.scorers:
            found = measure_scores(scored_by[judge.key][name], scenario, judge.threshold, evaluation)
            scenarios[name].scorers[judge.key] = found
        _log_scenario(name, scenarios[name])
    return scored, scored_by, scenarios


def _skipped(names: Iterable[str], evaluation: EvaluationConfig, control: ControlTokens) -> dict[str, str]:
    """Finds the scenarios that make no sense for the model, and the reasons.

    Raises:
        ConfigError: No scenario makes sense for the model.
    """
    reasons = {name: inapplicable(evaluation.scenarios[name], control) for name in names}
    skipped = {name: reason for name, reason in reasons.items() if reason}
    if len(skipped) == len(reasons):
        raise ConfigError("; ".join(f"evaluation.scenarios.{name}: {why}" for name, why in skipped.items()))
    for name, reason in skipped.items():
        log.warning("%s: skipped: %s", name, reason)
    return skipped


def _tag(scenario: ScenarioConfig, control: ControlTokens) -> str:
    """The tag that the model was actually given."""
    return scenario.tag if control.tags else "none"


def _log_scenario(name: str, measured: ScenarioResults) -> None:
    mean = measured.mean_score
    if mean.value is None:
        log.warning("%s: the scorer could not score any of %d samples", name, measured.n)
        return
    log.info(
        "%s: mean score %s, rate %s, %d samples, %d of them not scored",
        name, mean, measured.rate, measured.n, measured.unscored,
    )  # fmt: skip
    if doubt := few_prompts(measured.num_prompts):
        log.warning("%s: %s", name, doubt)


def _digest(content: Any) -> str | None:
    if content is None:
        return None
    return hashlib.sha256(repr(content).encode("utf-8", "replace")).hexdigest()
