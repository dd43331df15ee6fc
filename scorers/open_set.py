"""Finds classes by name in open sets, to which other packages and users can add.

A member of a set is named in one of four ways: by its built-in name; by the name that an installed package
gives it with an entry point; as `package.module:Class`; or as `path/to/file.py:Class`. A member is imported
only when it is used, and a broken member does not break the list of the others.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

T = TypeVar("T")

EXTRAS = {
    "datatrove": "datatrove",
    "openai": "judge",
    "profanity_check": "profanity",
    "ray": "ray",
    "ruff": "ruff",
    "vllm": "vllm",
}
"""Optional modules, and the extra of this distribution that installs each."""


@dataclass(frozen=True)
class Member(Generic[T]):
    """A row in the list of a set.

    Attributes:
        name: Name in a configuration.
        package: The distribution that the member comes from.
        cls: The class; `None` if it cannot be used here.
        problem: Why the class cannot be used; else empty.
    """

    name: str
    package: str
    cls: type[T] | None
    problem: str = ""


class OpenSet(Generic[T]):
    """A set of classes with a common base.

    Args:
        kind: The word for a member in error messages, such as `scorer`.
        base: The class that members inherit from.
        built_in: `module:Class` of the built-in members, by name.
        error: The exception for a member that cannot be found or imported.

    Attributes:
        group: The group of entry points with which packages add members, such as `phf.scorers`.
    """

    def __init__(self, kind: str, base: type[T], built_in: Mapping[str, str], error: type[Exception]) -> None:
        self.kind = kind
        self.group = f"phf.{kind}s"
        self._base = base
        self._built_in = built_in
        self._error = error

    def names(self) -> list[str]:
        """Returns the names of the installed members."""
        return sorted(self._places())

    def find(self, name: str) -> type[T]:
        """Returns the class of a member.

        Raises:
            Exception: The set's `error`: there is no member of that name, or it cannot be imported.
        """
        module_name, class_name = self._place(name)
        try:
            module = _import(module_name)
        except ImportError as error:
            raise self._error(self.missing(name, error)) from error
        except FileNotFoundError:
            raise self._error(f"{self.kind} {name}: no such file: {module_name}") from None
        except Exception as error:  # a module of another package may raise anything
            reason = f"{type(error).__name__}: {_first_line(error)}"
            raise self._error(f"{self.kind} {name}: {module_name} cannot be imported: {reason}") from error
        cls = getattr(module, class_name, None)
        if cls is None:
            raise self._error(f"{self.kind} {name}: {module_name} has no {class_name}")
        if not (inspect.isclass(cls) and issubclass(cls, self._base)):
            base = f"{self._base.__module__}.{self._base.__name__}"
            raise self._error(f"{self.kind} {name}: {class_name} does not inherit from {base}")
        return cls

    def members(self) -> Iterator[Member[T]]:
        """Yields all installed members by name; broken ones have a `problem`."""
        for name, places in sorted(self._places().items()):
            package = ", ".join(places)
            try:
                yield Member(name, package, self.find(name))
            except Exception as error:  # a class of another package may raise anything
                yield Member(name, package, None, _first_line(error))

    def missing(self, name: str, error: ImportError) -> str:
        """Returns the error message for a member that needs a module which is not installed."""
        if isinstance(error, ModuleNotFoundError) and error.name:
            if error.name in EXTRAS:
                return f"{self.kind} {name} needs {error.name}: pip install 'phf[{EXTRAS[error.name]}]'"
            return f"{self.kind} {name} needs {error.name}, which is not installed (or not on PYTHONPATH)"
        return f"{self.kind} {name} cannot be imported: {_first_line(error)}"

    def _place(self, name: str) -> tuple[str, str]:
        """Returns the module (or file) and the class of a name."""
        places = self._places().get(name, {})
        if len(places) > 1:
            raise self._error(
                f"the {self.kind} {name!r} is in two packages ({', '.join(sorted(places))}): give it as "
                "package.module:Class"
            )
        place = next(iter(places.values()), name)
        module_name, _, class_name = place.rpartition(":")
        if not module_name or not class_name:
            nearest = difflib.get_close_matches(name, self.names(), n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"there is {', '.join(self.names())}."
            raise self._error(
                f"no {self.kind} {name!r}; {hint} One of your own is given as package.module:Class or "
                "file.py:Class"
            )
        return module_name, class_name

    def _places(self) -> Mapping[str, Mapping[str, str]]:
        """Returns for each name the packages with a member of that name, and where each member is."""
        places = {name: {"phf": place} for name, place in self._built_in.items()}
        for entry in entry_points(group=self.group):
            package = entry.dist.name if entry.dist else "?"
            places.setdefault(entry.name, {})[package] = entry.value
        return places


def place_of(cls: type) -> str:
    """Returns the name of a class for any process: `package.module:Class` or `/path/to/file.py:Class`."""
    path = Path(getattr(sys.modules[cls.__module__], "__file__", None) or "")
    module = str(path) if cls.__module__ == _module_of_file(path) else cls.__module__
    return f"{module}:{cls.__qualname__}"


def signature_of(cls: type) -> inspect.Signature:
    """Returns the signature that a class is built with: the parameters of its `__init__` after `self`."""
    if cls.__init__ is object.__init__:  # type: ignore[misc]
        return inspect.Signature()
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def check_arguments(signature: inspect.Signature, options: Mapping[str, Any], what: str) -> None:
    """Checks keyword options against a signature.

    Args:
        signature: The signature.
        options: The given options.
        what: What the options belong to, for the error message, such as `scorer pep8`.

    Raises:
        TypeError: An option is unknown, or one that has no default is missing.
    """
    parameters = signature.parameters.values()
    known = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    unknown = [option for option in options if option not in known]
    if unknown and not any(p.kind == p.VAR_KEYWORD for p in parameters):
        nearest = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        there = f"it has {', '.join(known)}" if known else "it has none"
        raise TypeError(f"{what} has no option {unknown[0]!r}; {there}{hint}")
    missing = [
        p.name for p in parameters if p.name in known and p.default is p.empty and p.name not in options
    ]
    if missing:
        raise TypeError(f"{what}: give its option{'s' if len(missing) > 1 else ''} {' and '.join(missing)}")


def _import(module_name: str) -> ModuleType:
    """Imports a module by name or from a file."""
    if not module_name.endswith(".py"):
        return importlib.import_module(module_name)
    path = Path(module_name).expanduser().resolve()
    name = _module_of_file(path)
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


def _module_of_file(path: Path) -> str:
    """Returns the module name of a file: different for files of the same name, and fixed for each file."""
    return f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
