"""Scorers by name: built-ins, and others as `package.module:Class`. Nothing is imported before use."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
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
        ScorerError: There is no such scorer, it has no such option, the option's value is wrong, or something
            that it needs is missing.
    """
    cls = scorer_class(name)
    parameters = cls.signature().parameters.values()
    known = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    unknown = [option for option in options if option not in known]
    if unknown and not any(p.kind == p.VAR_KEYWORD for p in parameters):
        nearest = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        there = f"it has {', '.join(known)}" if known else "it has none"
        raise ScorerError(f"scorer {name} has no option {unknown[0]!r}; {there}{hint}")
    try:
        return cls(**options)
    except ImportError as error:
        raise ScorerError(_missing(name, error)) from error
    except (TypeError, ValueError, OSError) as error:
        raise ScorerError(f"scorer {name} cannot be built: {_first_line(error)}") from error


def scorer_class(name: str) -> type[Scorer]:
    """The class of a scorer.

    Raises:
        ScorerError: There is no such scorer, or it cannot be imported.
    """
    module_name, _, class_name = BUILT_IN.get(name, name).partition(":")
    if not module_name or not class_name:
        nearest = difflib.get_close_matches(name, BUILT_IN, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"there is {', '.join(BUILT_IN)}."
        raise ScorerError(f"no scorer {name!r}; {hint} One of your own is given as package.module:Class")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ScorerError(_missing(name, error)) from error
    except Exception as error:  # the module is somebody else's
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise ScorerError(f"scorer {name}: {module_name} cannot be imported: {reason}") from error
    cls = getattr(module, class_name, None)
    if cls is None:
        raise ScorerError(f"scorer {name}: {module_name} has no {class_name}")
    if not (inspect.isclass(cls) and issubclass(cls, Scorer)):
        raise ScorerError(f"scorer {name}: {class_name} does not inherit from scorers.Scorer")
    return cls


def _missing(name: str, error: ImportError) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"scorer {name} needs {error.name}, which is not installed (or not on PYTHONPATH)"
    return f"scorer {name} cannot be imported: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def scorer_names() -> list[str]:
    """Names of the built-in scorers."""
    return sorted(BUILT_IN)


def describe() -> list[Description]:
    """What there is to choose from."""
    described = []
    for name in scorer_names():
        cls = scorer_class(name)
        low, high = cls.range
        bounds = f"[{low:g}, inf)" if math.isinf(high) else f"[{low:g}, {high:g}]"
        granularity = "segment" if issubclass(cls, SegmentScorer) else "document"
        described.append(Description(name, cls.measures, bounds, granularity))
    return described
