"""What a model is measured with, and what results say of both: its scorer, its segmenter, the model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phf.base.errors import ConfigError
from phf.config import Config, ScenarioConfig, ScorerConfig, SegmenterConfig
from phf.evaluation.prompts import Heldout, load_prompts
from phf.model.loaded_model import Subject
from scorers import load_scorer
from scorers.base import Scorer, ScorerError

log = logging.getLogger("phf")


def scorer_config(subject: Subject, config: Config) -> ScorerConfig:
    """The scorer asked for; else the one the model was trained on; else that of the configuration."""
    if config.evaluation.scorer is not None:
        return config.evaluation.scorer
    trained_on = subject.facts.get("scorer")
    if not trained_on:
        return config.scorer
    own = ScorerConfig(trained_on["name"], trained_on.get("options") or {})
    if subject.run and (config.scorer.name, config.scorer.options) != (own.name, own.options):
        log.warning(
            "%s: scored by %s as in training, not by scorer.name; set evaluation.scorer.name for another one",
            subject.folder,
            own.name,
        )
    return own


def open_scorer(wanted: ScorerConfig) -> Scorer:
    """The scorer itself.

    Raises:
        ConfigError: There is none of this name, or not with these options.
    """
    try:
        return load_scorer(wanted.name, **wanted.options)
    except ScorerError as error:
        raise ConfigError(f"the samples cannot be scored: {error}") from error


def segmenter_config(subject: Subject, config: Config) -> SegmenterConfig:
    """How the corpus of the model was segmented; as configured, if the model does not say."""
    known = subject.facts.get("segmenter")
    return SegmenterConfig(**known) if known else config.segmenter


def heldout_documents(subject: Subject, config: Config) -> Heldout:
    """The held-out documents of the model; those of the configured store, if the model does not say."""
    scorer = subject.facts.get("scorer") or {}
    return Heldout(
        Path(subject.facts.get("store") or config.store.path),
        scorer.get("column") or scorer.get("name") or config.scorer.key,
        config.evaluation.threshold,
    )


def load_all_prompts(
    subject: Subject, config: Config, scenarios: Mapping[str, ScenarioConfig]
) -> dict[str, list[str]]:
    """The prompts of scenarios.

    Raises:
        ConfigError: There are none where a scenario says.
        PhfError: They cannot be read.
    """
    prompts = {}
    for name, scenario in scenarios.items():
        try:
            prompts[name] = load_prompts(scenario, heldout_documents(subject, config))
        except ConfigError as error:
            raise ConfigError(f"evaluation.scenarios.{name}: {error}") from error
    return prompts


def open_scorers(config: Config, main: ScorerConfig) -> dict[str, Scorer]:
    """The scorers besides the main one, by the names of their scores.

    Raises:
        ConfigError: There is none of a name, or two have the same one.
    """
    names = [main.key, *(wanted.key for wanted in config.evaluation.scorers)]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"evaluation.scorers: two keep their scores as {name}: give one of them a column"
            )
    return {wanted.key: open_scorer(wanted) for wanted in config.evaluation.scorers}


def scorer_differs(subject: Subject, scorer: Scorer) -> bool | None:
    """Whether samples are scored otherwise than the corpus was; `None` if that is not known."""
    trained_on = (subject.facts.get("scorer") or {}).get("fingerprint")
    if trained_on is None:
        return None
    if trained_on != scorer.fingerprint:
        log.warning(
            "%s was trained on scores of %s (%s), and its samples are scored by %s (%s): "
            "thresholds of one do not carry over to the other",
            subject.folder,
            subject.facts["scorer"]["name"],
            trained_on,
            scorer.name,
            scorer.fingerprint,
        )
    return bool(trained_on != scorer.fingerprint)


def describe_scorer(wanted: ScorerConfig, scorer: Scorer) -> dict[str, Any]:
    """The scorer, as in results."""
    return {
        "name": scorer.name,
        "version": scorer.version,
        "fingerprint": scorer.fingerprint,
        "measures": scorer.measures,
        "options": wanted.options,
    }


def describe_model(subject: Subject, model: Any) -> dict[str, Any]:
    """The model and the run it comes from, as in results."""
    run, facts = subject.run, subject.facts
    return {
        "name": run.get("name", subject.folder.resolve().name),
        "folder": str(subject.folder),
        "objective": run.get("objective", facts.get("objective")),
        "tokens": run.get("tokens", facts.get("tokens")),
        "wall_seconds": run.get("wall_seconds"),
        "parameters": model.num_parameters(),
    }
