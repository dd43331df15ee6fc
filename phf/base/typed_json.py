"""Writes dataclasses as JSON, and reads and checks them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from phf.base.errors import PhfError

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Converts a dataclass, or a container of dataclasses, to JSON's own types."""
    return _adapter(type(value)).dump_python(value, mode="json", fallback=str, warnings=False)


def from_json(cls: type[T], content: Any, where: object, hint: str) -> T:
    """Builds a dataclass from JSON's own types; unknown keys are ignored.

    Args:
        cls: The dataclass.
        content: Values of JSON's own types.
        where: The source of the content, for the error message.
        hint: What the user should do, for the error message.

    Raises:
        PhfError: A field is missing or has the wrong type.
    """
    try:
        return _adapter(cls).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "its content"
        raise PhfError(f"{where}: {key}: {first['msg']}; {hint}") from error


def read_json(path: Path, cls: type[T], hint: str) -> T:
    """Reads a dataclass from a JSON file; see `from_json`.

    Raises:
        PhfError: The file cannot be read, or its content does not fit the dataclass.
    """
    try:
        # NaN and infinity are not JSON. Earlier versions wrote them; they are read as `None`, for unknown.
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except OSError as error:
        raise PhfError(f"{path}: cannot be read: {error.strerror}; {hint}") from error
    except ValueError as error:
        raise PhfError(f"{path}: not JSON: {str(error).partition(chr(10))[0]}; {hint}") from error
    return from_json(cls, content, path, hint)


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def _adapter(cls: type[T]) -> TypeAdapter[T]:
    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]
