"""What several sections of the configuration check in the same way."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, cast

from phf.base.errors import ConfigError


def check(condition: bool, message: str) -> None:
    """Raises a `ConfigError` with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def home(path: str) -> str:
    """The path with the home folder for a leading `~`, which a shell leaves as it is after `key=`."""
    return str(Path.home() / path[2:]) if path.startswith("~/") else path


def parse_quantile(threshold: Any) -> float:
    """The share in a threshold such as `q0.05`.

    Raises:
        ConfigError: It is no quantile.
    """
    try:
        share = float(threshold[1:]) if isinstance(threshold, str) and threshold[:1] == "q" else -1.0
    except ValueError:
        share = -1.0
    check(
        0 <= share <= 1,
        f"objective.threshold must be a number or a quantile such as q0.05, not {threshold!r}",
    )
    return share


def parse_span(span: float | str) -> tuple[float, Literal["share", "steps", "tokens"]]:
    """A stretch of a run: `0.01` is a share of it, `500 steps` and `1e7 tokens` are what they say.

    Raises:
        ConfigError: It is none of these.
    """
    if isinstance(span, str):
        number, _, unit = span.strip().partition(" ")
        if unit in ("steps", "tokens") and re.fullmatch(r"\d[\d_]*(\.\d*)?([eE]\+?\d+)?", number):
            return float(number), cast("Literal['steps', 'tokens']", unit)
    elif 0 <= span <= 1:
        return span, "share"
    raise ConfigError(f"must be a share in [0, 1], or such as `500 steps` or `1e7 tokens`, not {span!r}")
