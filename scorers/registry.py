"""Scorers by name: built-ins, those of other packages, and one's own. Nothing is imported before use."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from scorers.base import Scorer, ScorerError, SegmentScorer

GROUP = "phf.scorers"
"""The entry points with which a package offers scorers: name = "package.module:Class"."""

_BUILT_IN = {
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
}

# The extra of this package with which a module is installed that only some scorers need.
_EXTRAS = {"openai": "judge", "profanity_check": "profanity", "ruff": "ruff"}


@dataclass(frozen=True)
class Description:
    """A line of `phf scorers`.

    Attributes:
        name: As in a configuration.
        package: Where it comes from.
        measures: What a score means, with its unit.
        range: Smallest and largest score.
        granularity: `segment` if each segment is scored on its own, `document` if it is seen in its place.
        speed: See `Scorer.speed`.
        problem: Why it cannot be used here; the fields above may be empty then.
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
        name: A name of `phf scorers`, `package.module:Class`, or `path/to/file.py:Class`.
        **options: Its keyword options.

    Raises:
        ScorerError: There is no such scorer, it has no such option, an option's value is wrong or missing, or
            something that it needs is not installed.
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
    missing = [
        p.name for p in parameters if p.name in known and p.default is p.empty and p.name not in options
    ]
    if missing:
        raise ScorerError(
            f"scorer {name}: give its option{'s' if len(missing) > 1 else ''} {' and '.join(missing)}"
        )
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
    places = _places().get(name, {})
    if len(places) > 1:
        raise ScorerError(
            f"two packages have a scorer {name!r} ({', '.join(places)}): give it as package.module:Class"
        )
    place = next(iter(places.values()), name)
    module_name, _, class_name = place.rpartition(":")
    if not module_name or not class_name:
        nearest = difflib.get_close_matches(name, scorer_names(), n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"there is {', '.join(scorer_names())}."
        raise ScorerError(
            f"no scorer {name!r}; {hint} One of your own is given as package.module:Class or file.py:Class"
        )
    try:
        module = _import(module_name)
    except ImportError as error:
        raise ScorerError(_missing(name, error)) from error
    except FileNotFoundError:
        raise ScorerError(f"scorer {name}: no such file: {module_name}") from None
    except Exception as error:  # the module is somebody else's
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise ScorerError(f"scorer {name}: {module_name} cannot be imported: {reason}") from error
    cls = getattr(module, class_name, None)
    if cls is None:
        raise ScorerError(f"scorer {name}: {module_name} has no {class_name}")
    if not (inspect.isclass(cls) and issubclass(cls, Scorer)):
        raise ScorerError(f"scorer {name}: {class_name} does not inherit from scorers.Scorer")
    return cls


def _import(module_name: str) -> ModuleType:
    """A module by its name, or from a file."""
    if not module_name.endswith(".py"):
        return importlib.import_module(module_name)
    path = Path(module_name).expanduser().resolve()
    # Two files of one name are two modules; one file is imported once.
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _missing(name: str, error: ImportError) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        if error.name in _EXTRAS:
            return f"scorer {name} needs {error.name}: pip install 'phf[{_EXTRAS[error.name]}]'"
        return f"scorer {name} needs {error.name}, which is not installed (or not on PYTHONPATH)"
    return f"scorer {name} cannot be imported: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _places() -> Mapping[str, Mapping[str, str]]:
    """For each name the packages that have a scorer of it, and where."""
    places = {name: {"phf": place} for name, place in _BUILT_IN.items()}
    for entry in entry_points(group=GROUP):
        package = entry.dist.name if entry.dist else "?"
        places.setdefault(entry.name, {})[package] = entry.value
    return places


def scorer_names() -> list[str]:
    """Names of the scorers that are installed."""
    return sorted(_places())


def describe() -> list[Description]:
    """What there is to choose from; a scorer that is broken is told, and does not break the list."""
    described = []
    for name, places in sorted(_places().items()):
        package = ", ".join(places)
        try:
            cls = scorer_class(name)
            low, high = cls.range
            described.append(
                Description(
                    name,
                    package,
                    cls.measures,
                    f"[{low:g}, inf)" if math.isinf(high) else f"[{low:g}, {high:g}]",
                    "segment" if issubclass(cls, SegmentScorer) else "document",
                    cls.speed,
                )
            )
        except Exception as error:  # the class is somebody else's
            described.append(Description(name, package, problem=_first_line(error)))
    return described
