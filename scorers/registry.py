"""Scorers by name: built-ins, and others as `package.module:Class`. Nothing is imported before use."""

from __future__ import annotations

import difflib
import importlib
import inspect
from dataclasses import dataclass
from typing import Any

from scorers.base import Scorer, ScorerError, SegmentScorer

BUILT_IN = {"pep8": "scorers.code:Pep8"}
"""Where each built-in scorer is."""


@dataclass(frozen=True)
class Description:
    """A line of `phf scorers`.

    Attributes:
        name: As in a configuration.
        measures: What a score means, with its unit.
        range: Smallest and largest score.
        granularity: `segment` if each segment is scored on its own, `document` if it is seen in its place.
    """

    name: str
    measures: str
    range: str
    granularity: str


def load_scorer(name: str, **options: Any) -> Scorer:
    """Builds a scorer.

    Args:
        name: A built-in scorer, or `package.module:Class`.
        **options: Its keyword options.

    Raises:
        ScorerError: There is no such scorer, or it has no such option, or the option's value is wrong.
    """
    cls = scorer_class(name)
    accepted = [p for p in inspect.signature(cls).parameters.values() if p.kind != p.VAR_KEYWORD]
    names = [parameter.name for parameter in accepted]
    for option in options:
        if option not in names and len(accepted) == len(inspect.signature(cls).parameters):
            there = f"its options are {', '.join(names)}" if names else "it has none"
            raise ScorerError(f"scorer {name} has no option {option!r}; {there}")
    try:
        return cls(**options)
    except (TypeError, ValueError) as error:
        raise ScorerError(f"scorer {name}: {str(error).partition(chr(10))[0]}") from error


def scorer_class(name: str) -> type[Scorer]:
    """The class of a scorer.

    Raises:
        ScorerError: There is no such scorer, or it cannot be imported.
    """
    place = BUILT_IN.get(name, name)
    module_name, _, class_name = place.partition(":")
    if not class_name:
        nearest = difflib.get_close_matches(name, BUILT_IN, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(BUILT_IN)}"
        raise ScorerError(f"no scorer {name!r}; {hint} One of your own is given as package.module:Class")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ScorerError(f"scorer {name} cannot be imported: {error}") from error
    if not (inspect.isclass(cls) and issubclass(cls, Scorer)):
        raise ScorerError(f"{name} is not a scorer: it does not inherit from scorers.Scorer")
    return cls


def scorer_names() -> list[str]:
    """Names of the built-in scorers."""
    return sorted(BUILT_IN)


def describe() -> list[Description]:
    """What there is to choose from."""
    described = []
    for name in scorer_names():
        cls = scorer_class(name)
        low, high = cls.range
        granularity = "segment" if issubclass(cls, SegmentScorer) else "document"
        described.append(Description(name, cls.measures, f"[{low:g}, {high:g}]", granularity))
    return described
