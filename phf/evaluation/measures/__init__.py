"""Finds measures by name."""

from __future__ import annotations

from typing import Any

from phf.base.errors import ConfigError
from phf.config import EvaluationConfig, read_options
from phf.evaluation.measures.base import Measure
from scorers.open_set import OpenSet

MEASURES: OpenSet[Measure] = OpenSet(
    "measure",
    Measure,
    {
        "code": "phf.evaluation.measures.code:Code",
        "diversity": "phf.evaluation.measures.diversity:Diversity",
        "heldout": "phf.evaluation.measures.heldout:Heldout",
        "kl": "phf.evaluation.measures.kl:KL",
        "ranking": "phf.evaluation.measures.ranking:Ranking",
    },
    ConfigError,
)
"""Every measure. A package adds one with an entry point of the group `phf.measures`."""

ALWAYS = ("heldout", "diversity")
"""The measures that run unless they are switched off."""


def configured_measures(evaluation: EvaluationConfig) -> dict[str, Measure]:
    """Makes the measures of an evaluation, by the name of their results.

    Raises:
        ConfigError: There is no measure of a name, it has no such option, or two measures have one name.
    """
    always: dict[str, Any] = {name: {} for name in ALWAYS}
    wanted = always | evaluation.measures
    found: dict[str, Measure] = {}
    for name, options in wanted.items():
        if options is None:
            continue
        where = f"evaluation.measures.{name}"
        cls = MEASURES.find(name)
        if not isinstance(options, dict):
            raise ConfigError(f"{where} must be a mapping from options to values, or null, not {options!r}")
        if cls.name in found:
            raise ConfigError(f"{where}: another measure has results named {cls.name} too; switch one off")
        found[cls.name] = cls(read_options(cls.Options, options, where, name))
    return found
