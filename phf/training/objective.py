"""Builds the objective of a run: its class by name, its options, and its thresholds as numbers."""

from __future__ import annotations

from typing import Any, Literal

from transformers import PreTrainedModel

from objectives.engine import Needs, Objective
from objectives.optimization import Optimization
from objectives.rewards import ScoreStatistics
from phf.base.errors import ConfigError
from phf.config import Config, ObjectiveConfig, SegmenterConfig, read_options
from phf.store.store import TokenStore, resolve_threshold
from scorers.open_set import OpenSet

OBJECTIVES: OpenSet[Objective] = OpenSet(
    "objective",
    Objective,
    {
        "awr": "objectives.awr:AWR",
        "conditional": "objectives.conditional:Conditional",
        "filtering": "objectives.filtering:Filtering",
        "masking": "objectives.masking:Masking",
        "mle": "objectives.mle:MLE",
        "rwr": "objectives.rwr:RWR",
        "unlikelihood": "objectives.unlikelihood:Unlikelihood",
        "upsampling": "objectives.upsampling:Upsampling",
    },
    ConfigError,
)
"""All objectives. A package adds one with an entry point of the group `phf.objectives`."""


def check_objective(config: ObjectiveConfig) -> tuple[type[Objective], Any, Needs]:
    """Returns the class of the configured objective, its options, and what it needs.

    Raises:
        ConfigError: There is no such objective or option, an option is out of its bounds, the threshold is
            missing, or the threshold is a list where it must be a number.
    """
    cls = OBJECTIVES.find(config.name)
    options: Any = read_options(cls.Options, config.options, "objective.options", config.name)
    needs = cls.needs(options)
    if needs.threshold and config.threshold is None:
        raise ConfigError(
            f"objective.threshold: {config.name} needs one, a number or a quantile such as q0.5"
        )
    if len(config.thresholds) > 1 and not needs.levels:
        raise ConfigError(f"objective.threshold: {config.name} takes a single threshold, not a list")
    return cls, options, needs


def thresholds(config: Config, store: TokenStore) -> tuple[float, ...]:
    """Returns the configured thresholds as numbers."""
    _, _, needs = check_objective(config.objective)
    counted_in: Literal["tokens", "segments", "documents"] = config.objective.quantile_of
    if needs.threshold == "documents":
        counted_in = "documents"
    return tuple(
        resolve_threshold(store, config.scorer.key, threshold, counted_in)
        for threshold in config.objective.thresholds
    )


def build_objective(
    config: Config, store: TokenStore, model: PreTrainedModel, optimization: Optimization | None
) -> Objective:
    """Builds the Lightning module of a run.

    Raises:
        ConfigError: An option is missing, unknown to the objective, or out of its bounds.
        PhfError: The store lacks the scores that the objective needs.
    """
    cls, options, needs = check_objective(config.objective)
    statistics = score_statistics(store, config.scorer.key) if needs.statistics else None
    try:
        return cls(
            model,
            options,
            thresholds=thresholds(config, store),
            statistics=statistics,
            optimization=optimization,
            head=config.model.head,
            seed=config.train.seed,
        )
    except ValueError as error:
        raise ConfigError(f"objective: {error}") from error


def score_statistics(store: TokenStore, scorer: str) -> ScoreStatistics:
    """Returns mean, standard deviation and quantiles of the training segments' scores.

    Raises:
        ConfigError: No segment of the store has a score.
    """
    known = store.manifest.scores.get(scorer)
    quantiles = known.quantiles.get("segments") if known else None
    if known is None or known.mean is None or known.std is None or not quantiles:
        raise ConfigError(f"objective: no segment of {store.path} has a score of {scorer}")
    return ScoreStatistics(known.mean, known.std, tuple(quantiles.values()))


def corpus_segmenter(config: Config, store: TokenStore) -> SegmenterConfig:
    """Returns how the corpus was segmented.

    The store does not know this for documents that came with scores: then it is the configured segmenter.
    """
    known = store.manifest.segmenter
    if not store.manifest.annotations:
        return config.segmenter
    return SegmenterConfig(known["name"], known.get("max_chars"))
