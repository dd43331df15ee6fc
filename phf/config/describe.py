"""Explains the configuration: each key with its type, default and sentence, as text or as commented YAML."""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, get_args, get_type_hints

from omegaconf import OmegaConf

from phf.base.errors import ConfigError
from phf.config.fields import facts_of, sentences
from phf.config.schema import Config
from phf.config.upgrade import renamed

_WIDTH = 100


@dataclass(frozen=True)
class Key:
    """A key of the configuration.

    Attributes:
        name: The dotted key. `NAME` stands for a name that the user chooses.
        kind: The type in plain words.
        default: The default as YAML; empty for a section.
        bounds: The bounds in words; empty if there are none.
        sentence: The sentence under the field.
        section: The dataclass of a section; `None` for a value.
    """

    name: str
    kind: str
    default: str
    bounds: str
    sentence: str
    section: type | None = None


def describe(cls: type, prefix: str = "") -> Iterator[Key]:
    """Yields the keys of a dataclass of the schema. A section is followed by the keys in it."""
    hints, words = get_type_hints(cls), sentences(cls)
    for one in fields(cls):
        hint = hints[one.name]
        section, suffix = _section(hint)
        name = f"{prefix}{one.name}"
        default = "" if section else _default(one)
        yield Key(name, _type(hint), default, facts_of(one).bounds, words.get(one.name, ""), section)
        if section is not None:
            yield from describe(section, f"{name}{suffix}.")


def help_text(key: str) -> str:
    """Explains a key of the configuration. A section is explained with its keys; an empty key lists sections.

    Raises:
        ConfigError: There is no such key.
    """
    known = {entry.name: entry for entry in describe(Config)}
    if not key:
        sections = [entry for name, entry in known.items() if "." not in name]
        return "\n".join(f"{entry.name:14}{entry.sentence}" for entry in sections)
    if now := renamed(key):
        raise ConfigError(f"{key} is {now} now")
    wanted = _generic(key, known)
    if wanted is None:
        nearest = difflib.get_close_matches(key, known, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else "; `phf help` lists the sections"
        raise ConfigError(f"no key {key}{hint}")
    entry = known[wanted]
    lines = [
        _head(entry),
        *textwrap.wrap(entry.sentence, _WIDTH, initial_indent="  ", subsequent_indent="  "),
    ]
    inside = [other for name, other in known.items() if name.startswith((f"{wanted}.", f"{wanted}["))]
    for other in inside:
        lines += ["", _head(other)]
        lines += textwrap.wrap(other.sentence, _WIDTH, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(lines)


def commented_yaml(config: Config) -> str:
    """Returns the configuration as YAML with a sentence above each key; `load_config` reads it back."""
    return "".join(_commented(config, ""))


def _commented(node: Any, indent: str) -> Iterator[str]:
    cls: type = type(node)
    words = sentences(cls)
    plain = OmegaConf.to_container(OmegaConf.structured(node), resolve=True)
    assert isinstance(plain, dict)
    for one in fields(node):
        value = getattr(node, one.name)
        for line in textwrap.wrap(words.get(one.name, ""), _WIDTH - len(indent)):
            yield f"{indent}# {line}\n"
        if is_dataclass(value):
            yield f"{indent}{one.name}:\n"
            yield from _commented(value, f"{indent}  ")
        elif isinstance(value, dict) and value and all(map(is_dataclass, value.values())):
            yield f"{indent}{one.name}:\n"
            for name, inner in value.items():
                yield textwrap.indent(
                    OmegaConf.to_yaml({name: None}).replace("null", "").rstrip(), f"{indent}  "
                )
                yield "\n"
                yield from _commented(inner, f"{indent}    ")
        else:
            yield textwrap.indent(OmegaConf.to_yaml({one.name: plain[one.name]}), indent)


def _generic(key: str, known: dict[str, Key]) -> str | None:
    """Finds the schema's key for a key that may contain names chosen by the user; `None` if there is none."""
    parts = re.sub(r"\[\d+\]", "[i]", key).split(".")
    for length in range(len(parts), 0, -1):
        for name in _with_names(parts[:length]):
            # Keys inside a mapping, such as the options of a plug-in, are explained with the mapping.
            if name in known and (length == len(parts) or known[name].kind == "mapping"):
                return name
            if length == len(parts) and any(other.startswith(f"{name}.") for other in known):
                return name.removesuffix(".NAME")
    return None


def _with_names(parts: list[str]) -> list[str]:
    """Returns the key itself, and then the key with `NAME` in place of one of its parts, for each part."""
    return [".".join(parts), *(".".join([*parts[:i], "NAME", *parts[i + 1 :]]) for i in range(len(parts)))]


def _head(key: Key) -> str:
    details = [key.kind, *([f"default {key.default}"] if key.default else []), key.bounds]
    return key.name if key.section else f"{key.name}: {', '.join(filter(None, details))}"


def _section(hint: Any) -> tuple[type | None, str]:
    """Returns the dataclass that a field holds, if any, and the suffix that stands for a name or an index."""
    if isinstance(hint, type) and is_dataclass(hint):
        return hint, ""
    arguments = get_args(hint)
    held = [argument for argument in arguments if isinstance(argument, type) and is_dataclass(argument)]
    suffix = {dict: ".NAME", list: "[i]"}.get(getattr(hint, "__origin__", None), "")  # type: ignore[arg-type]
    return (held[0], suffix) if held else (None, "")


def _type(hint: Any) -> str:
    if hint is Any:
        return "any"
    if hint is type(None):
        return "null"
    if isinstance(hint, type):
        return {
            "dict": "mapping",
            "str": "text",
            "int": "integer",
            "float": "number",
            "bool": "true or false",
        }.get(hint.__name__, hint.__name__)
    arguments = get_args(hint)
    origin = str(getattr(hint, "__origin__", ""))
    if "Literal" in origin:
        return " | ".join(str(argument) for argument in arguments)
    if origin == "<class 'list'>":
        return f"list of {_type(arguments[0])}"
    if origin == "<class 'dict'>":
        return "mapping"
    return " | ".join(_type(argument) for argument in arguments)


def _default(one: Field[Any]) -> str:
    value = one.default_factory() if one.default_factory is not MISSING else one.default
    if value is MISSING:
        return "none, it must be given"
    return " ".join(OmegaConf.to_yaml({"x": value}).partition(":")[2].split()) or "null"
