"""From the configuration and a token store to an objective, with thresholds as numbers."""

from __future__ import annotations

import inspect
from typing import Any, Literal

from transformers import PreTrainedModel

from objectives import OBJECTIVES, Objective, Optimization, ScoreStatistics
from phf.base.errors import ConfigError
from phf.config import Config, SegmenterConfig
from phf.store.store import TokenStore, resolve_threshold

_OPTIONS = (
    "drop_rate", "tag_loss", "tag_texts", "times", "alpha", "beta", "max_weight", "reward_scaling",
)  # fmt: skip


def objective_class(config: Config) -> type[Objective]:
    """The class of the configured objective.

    Raises:
        ConfigError: There is no such objective, or it has no use for an option that is set.
    """
    name = config.objective.name
    if name not in OBJECTIVES:
        raise ConfigError(f"objective.name: no objective {name!r}; there are {', '.join(OBJECTIVES)}")
    accepted = _parameters(OBJECTIVES[name])
    for option in _OPTIONS:
        if getattr(config.objective, option) is not None and option not in accepted:
            raise ConfigError(f"objective.{option}: {name} has no such option; leave it out")
    if accepted["threshold"].default is inspect.Parameter.empty and config.objective.threshold is None:
        raise ConfigError(f"objective.threshold: {name} needs one, a number or a quantile such as q0.5")
    if len(config.objective.thresholds) > 1 and "further_thresholds" not in accepted:
        raise ConfigError(f"objective.threshold: {name} needs one, not a list")
    return OBJECTIVES[name]


def thresholds(config: Config, store: TokenStore) -> list[float]:
    """The configured thresholds as numbers."""
    counted_in: Literal["tokens", "segments", "documents"] = config.objective.quantile_of
    if objective_class(config).threshold_of == "documents":
        counted_in = "documents"
    wanted = config.objective.thresholds
    return [resolve_threshold(store, config.scorer.key, threshold, counted_in) for threshold in wanted]


def build_objective(
    config: Config, store: TokenStore, model: PreTrainedModel, optimization: Optimization | None
) -> Objective:
    """The Lightning module of a run.

    Raises:
        ConfigError: An option is missing, unknown to the objective, or out of its range.
        PhfError: The store lacks the scores that the objective needs.
    """
    cls = objective_class(config)
    options: dict[str, Any] = {
        option: getattr(config.objective, option)
        for option in _OPTIONS
        if getattr(config.objective, option) is not None
    }
    ascending = thresholds(config, store)
    if len(ascending) > 1:
        options["further_thresholds"] = ascending[1:]
    if config.objective.reward_scaling not in (None, "raw"):
        options["statistics"] = score_statistics(store, config.scorer.key)
    try:
        return cls(
            model,
            optimization=optimization,
            head=config.model.head,
            threshold=ascending[0] if ascending else None,
            seed=config.train.seed,
            **options,
        )
    except ValueError as error:
        raise ConfigError(f"objective: {error}") from error


def score_statistics(store: TokenStore, scorer: str) -> ScoreStatistics:
    """Mean, deviation and quantiles of the training segments' scores.

    Raises:
        ConfigError: The store has none.
    """
    known = store.manifest["scores"].get(scorer, {})
    quantiles = known.get("quantiles", {}).get("segments")
    if not quantiles:
        raise ConfigError(f"objective.reward_scaling: no segment of {store.path} has a score of {scorer}")
    return ScoreStatistics(known["mean"], known["std"], tuple(quantiles.values()))


def corpus_segmenter(config: Config, store: TokenStore) -> SegmenterConfig:
    """How the corpus was segmented; documents that came with scores do not tell."""
    known = store.manifest["segmenter"]
    if store.manifest["documents"]["format"] == "scored":
        return config.segmenter
    return SegmenterConfig(known["name"], known.get("max_chars"))


def _parameters(cls: type[Objective]) -> dict[str, inspect.Parameter]:
    """Keyword options of an objective and of those it inherits from, by name; its own win."""
    inits = [vars(base)["__init__"] for base in reversed(cls.__mro__) if "__init__" in vars(base)]
    return {name: option for init in inits for name, option in inspect.signature(init).parameters.items()}
