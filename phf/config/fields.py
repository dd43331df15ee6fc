"""Adds facts to the fields of the schema: bounds, paths, and whether the field changes a result.

The sentence under a field is its documentation; `sentences` reads it from the source.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from phf.base.errors import ConfigError


@dataclass(frozen=True)
class Facts:
    """Facts about a field of the schema.

    Attributes:
        least: The value must be at least this.
        above: The value must be larger than this.
        most: The value must be at most this.
        below: The value must be smaller than this.
        path: Whether the value may be a path; a leading `~` is expanded.
        free: Whether the field changes no result, only where, how fast, or how often something is done or
            written.
        belongs_to: For a field of options: the field that names their owner. Naming another owner drops the
            options.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    path: bool = False
    free: bool = False
    belongs_to: str | None = None

    @property
    def bounds(self) -> str:
        """The bounds in words; empty if there are none."""
        has_low = self.least is not None or self.above is not None
        if has_low and (self.most is not None or self.below is not None):
            opening = f"[{self.least:g}" if self.least is not None else f"({self.above:g}"
            closing = f"{self.most:g}]" if self.most is not None else f"{self.below:g})"
            return f"must lie in {opening}, {closing}"
        if self.least is not None:
            return f"must be at least {self.least:g}"
        if self.above is not None:
            return f"must be above {self.above:g}"
        return ""

    def contain(self, value: float) -> bool:
        """Whether a number is within the bounds."""
        return not (
            (self.least is not None and not value >= self.least)
            or (self.above is not None and not value > self.above)
            or (self.most is not None and not value <= self.most)
            or (self.below is not None and not value < self.below)
        )


def option(default: Any = MISSING, *, factory: Any = MISSING, **facts: Any) -> Any:
    """Declares a field of the schema with `Facts`."""
    metadata = {"facts": Facts(**facts)}
    if factory is not MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def facts_of(one: Any) -> Facts:
    """Returns the facts of a field, which is given as an item of `dataclasses.fields`."""
    found: Facts = one.metadata.get("facts", Facts())
    return found


def finish(node: Any, where: str = "") -> None:
    """Expands the paths of a configuration, in place, and checks the bounds of its numbers.

    Args:
        node: An instance of a dataclass of the schema.
        where: The dotted key of the instance, for error messages.

    Raises:
        ConfigError: A number is out of its bounds.
    """
    for one in fields(node):
        key, value, facts = f"{where}{one.name}", getattr(node, one.name), facts_of(one)
        if facts.path and isinstance(value, str) and value.startswith("~/"):
            # A shell does not expand a `~` after `key=`.
            object.__setattr__(node, one.name, str(Path.home() / value[2:]))
        if isinstance(value, int | float) and not isinstance(value, bool) and not facts.contain(value):
            null = " or null" if one.default is None or "None" in str(one.type) else ""
            raise ConfigError(f"{key} {facts.bounds}{null}, not {value}")
        for inner, part in _sections(value):
            finish(part, f"{key}{inner}.")


def _sections(value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the sections in a value, each with the suffix that leads to it."""
    if is_dataclass(value):
        yield "", value
    elif isinstance(value, dict):
        yield from ((f".{name}", one) for name, one in value.items() if is_dataclass(one))
    elif isinstance(value, list):
        yield from ((f"[{i}]", one) for i, one in enumerate(value) if is_dataclass(one))


def decisive(node: Any) -> dict[str, Any]:
    """Returns the values of a section that affect a result, by dotted key: all but those of free fields."""
    flat: dict[str, Any] = {}
    for one in fields(node):
        if not facts_of(one).free:
            _flatten(getattr(node, one.name), one.name, flat)
    return flat


def _flatten(value: Any, key: str, flat: dict[str, Any]) -> None:
    if is_dataclass(value):
        flat.update({f"{key}.{inner}": found for inner, found in decisive(value).items()})
    elif isinstance(value, Mapping) and value:
        for name, inner in value.items():
            _flatten(inner, f"{key}.{name}", flat)
    elif isinstance(value, list) and any(map(is_dataclass, value)):
        for i, inner in enumerate(value):
            _flatten(inner, f"{key}[{i}]", flat)
    else:
        flat[key] = value


@cache
def sentences(cls: type) -> dict[str, str]:
    """Reads the sentence under each field of a dataclass, inherited fields included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not is_dataclass(base):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(body, ast.ClassDef)
        for one, after in pairwise(body.body):
            if isinstance(one, ast.AnnAssign) and isinstance(after, ast.Expr):
                assert isinstance(one.target, ast.Name)
                if isinstance(after.value, ast.Constant):
                    found[one.target.id] = " ".join(str(after.value.value).split())
    return found
