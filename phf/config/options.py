"""Reads the options of a plug-in: turns a mapping into an instance of the plug-in's own dataclass."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from phf.base.errors import ConfigError
from phf.config.fields import finish

T = TypeVar("T")


@dataclass
class NoOptions:
    """The options of a plug-in that has none."""


def read_options(cls: type[T], options: Mapping[str, Any], where: str, owner: str = "it") -> T:
    """Reads options strictly: every key must be a field of the dataclass, and every value must have its type.

    Args:
        cls: The dataclass.
        options: The configured options.
        where: The dotted key of the options, such as `objective.options`, for error messages.
        owner: The name of the plug-in, such as `mle`, for error messages.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type or is out of its bounds.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(cls), dict(options))
        found: T = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except ConfigKeyError as error:
        raise ConfigError(f"{where}: {unknown_key(error, owner)}") from error
    except MissingMandatoryValue as error:
        raise ConfigError(f"{where}.{error.full_key}: must be given") from error
    except OmegaConfBaseException as error:
        key = f"{where}.{error.full_key}" if error.full_key else where
        raise ConfigError(f"{key}: {first_line(error)}") from error
    except ValueError as error:
        raise ConfigError(f"{where}.{error}") from error
    finish(found, f"{where}.")
    return found


def unknown_key(error: ConfigKeyError, owner: str = "it") -> str:
    """Describes an unknown key, and suggests the nearest key of its section."""
    known = [field.name for field in fields(error.object_type)] if is_dataclass(error.object_type) else []
    nearest = difflib.get_close_matches(str(error.key), known, n=1, cutoff=0.5)
    section = str(error.full_key).rpartition(".")[0]
    dot = "." if section else ""
    hint = f"; did you mean {section}{dot}{nearest[0]}?" if nearest else ""
    if not hint and known:
        hint = f"; there is {', '.join(known)}"
    elif not known and is_dataclass(error.object_type):
        hint = f"; {owner} has no options"
    return f"no key {error.full_key}{hint}"


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message."""
    return str(error).strip().partition("\n")[0]
