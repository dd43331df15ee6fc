"""Finds and builds scorers by name: built-in ones, those of other packages, and the user's own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scorers.base import Scorer, ScorerError, SegmentScorer
from scorers.open_set import OpenSet, check_arguments, signature_of

SCORERS: OpenSet[Scorer] = OpenSet(
    "scorer",
    Scorer,  # type: ignore[type-abstract]
    {
        "compiles": "scorers.ruff:Compiles",
        "composite": "scorers.composite:Composite",
        "judge": "scorers.language_models:Judge",
        "pep8": "scorers.code:Pep8",
        "perplexity": "scorers.language_models:Perplexity",
        "pii": "scorers.pii:Pii",
        "profanity": "scorers.profanity:Profanity",
        "reward-model": "scorers.classifiers:RewardModel",
        "ruff": "scorers.ruff:Ruff",
        "toxicity": "scorers.classifiers:Toxicity",
        "words": "scorers.words:Words",
    },
    ScorerError,
)
"""Every scorer. A package adds one with an entry point of the group `phf.scorers`."""


@dataclass(frozen=True)
class Description:
    """A row of `phf scorers`.

    Attributes:
        name: Name in a configuration.
        package: The package that the scorer comes from.
        measures: What a score means, with its unit.
        range: Smallest and largest score.
        granularity: `segment` if each segment is scored on its own, `document` if it is scored in its
            context.
        speed: See `Scorer.speed`.
        problem: Why the scorer cannot be used here; the fields above may then be empty.
    """

    name: str
    package: str
    measures: str = ""
    range: str = ""
    granularity: str = ""
    speed: str = ""
    problem: str = ""


def load_scorer(name: str, **options: Any) -> Scorer:
    """Builds a scorer.

    Args:
        name: A name listed by `phf scorers`, `package.module:Class`, or `path/to/file.py:Class`.
        **options: The scorer's keyword options.

    Raises:
        ScorerError: There is no such scorer, it has no such option, an option's value is wrong or missing, or
            something that it needs is not installed.
    """
    cls = SCORERS.find(name)
    signature = signature_of(cls)
    try:
        check_arguments(signature, options, f"scorer {name}")
    except TypeError as error:
        raise ScorerError(str(error)) from None
    try:
        scorer = cls(**options)
    except ImportError as error:
        raise ScorerError(SCORERS.missing(name, error)) from error
    except (TypeError, ValueError, OSError) as error:
        raise ScorerError(f"scorer {name} cannot be built: {str(error).partition(chr(10))[0]}") from error
    built_from = signature.bind(**options)
    built_from.apply_defaults()
    object.__setattr__(scorer, "built_from", built_from.arguments)  # the scorer may be a frozen dataclass
    return scorer


def scorer_names() -> list[str]:
    """Returns the names of the installed scorers."""
    return SCORERS.names()


def describe_scorers() -> Iterator[Description]:
    """Describes all available scorers; a broken scorer is listed with its problem."""
    for member in SCORERS.members():
        try:
            yield _description(member.name, member.package, member.cls, member.problem)
        except Exception as error:  # a class of another package may raise anything
            problem = str(error).partition("\n")[0]
            yield Description(member.name, member.package, problem=problem)


def _description(name: str, package: str, cls: type[Scorer] | None, problem: str) -> Description:
    if cls is None:
        return Description(name, package, problem=problem)
    low, high = cls.range
    return Description(
        name,
        package,
        cls.measures,
        f"[{low:g}, inf)" if math.isinf(high) else f"[{low:g}, {high:g}]",
        "segment" if issubclass(cls, SegmentScorer) else "document",
        cls.speed,
    )
