"""From the configuration and a token store to an objective, with thresholds as numbers."""

from __future__ import annotations

import inspect
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedModel

from objectives import OBJECTIVES, Objective, Optimization, ScoreStatistics
from phf.config import Config
from phf.data.store import TokenStore, resolve_threshold
from phf.errors import ConfigError

_OPTIONS = ("drop_rate", "alpha", "beta", "max_weight", "reward_scaling")


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
    if "threshold" in accepted and config.objective.threshold is None:
        raise ConfigError(f"objective.threshold: {name} needs one, a number or a quantile such as q0.5")
    return OBJECTIVES[name]


def threshold(config: Config, store: TokenStore) -> float | None:
    """The configured threshold as a number; `None` if there is none, or no scores to hold it against."""
    wanted = config.objective.threshold
    if wanted is None or (isinstance(wanted, float | int) and config.scorer.name not in store.scorers):
        return None if wanted is None else float(wanted)
    counted_in: Literal["tokens", "segments", "documents"] = config.objective.quantile_of
    if objective_class(config).threshold_of == "documents":
        counted_in = "documents"
    return resolve_threshold(store, config.scorer.name, wanted, counted_in)


def build_objective(
    config: Config, store: TokenStore, model: PreTrainedModel, optimization: Optimization
) -> Objective:
    """The Lightning module of a run.

    Raises:
        ConfigError: An option is missing, unknown to the objective, or out of its range.
        PhfError: The store lacks the scores that the objective needs.
    """
    cls = objective_class(config)
    accepted = _parameters(cls)
    options: dict[str, Any] = {
        option: getattr(config.objective, option)
        for option in _OPTIONS
        if getattr(config.objective, option) is not None
    }
    limit = threshold(config, store)
    if "threshold" in accepted:
        options["threshold"] = limit
    if config.objective.reward_scaling not in (None, "raw"):
        options["statistics"] = score_statistics(store, config.scorer.name)
    try:
        return cls(
            model,
            optimization=optimization,
            head=config.model.head,
            bucket_threshold=limit,
            seed=config.train.seed,
            **options,
        )
    except ValueError as error:
        raise ConfigError(f"objective: {error}") from error


def score_statistics(store: TokenStore, scorer: str) -> ScoreStatistics:
    """Mean, deviation and quantiles of the training segments' scores."""
    scores = np.asarray(store.split("train").scores(scorer))
    scores = scores[~np.isnan(scores)].astype(np.float64)
    if not len(scores):
        raise ConfigError(f"objective.reward_scaling: no segment of {store.path} has a score of {scorer}")
    quantiles = np.quantile(scores, np.linspace(0, 1, 1001), method="inverted_cdf")
    return ScoreStatistics(float(scores.mean()), float(scores.std()), tuple(quantiles.tolist()))


def _parameters(cls: type[Objective]) -> set[str]:
    """Names of the keyword options of an objective and of those it inherits from."""
    inits = [vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base)]
    return {name for init in inits for name in inspect.signature(init).parameters}
