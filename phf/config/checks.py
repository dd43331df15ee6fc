"""Checks values, and parses small formats, that several sections of the configuration share."""

from __future__ import annotations

import math
import re
from typing import Any, Literal, cast

from phf.base.errors import ConfigError


def check(condition: bool, message: str) -> None:
    """Raises a `ConfigError` with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def parse_quantile(threshold: Any, where: str = "objective.threshold") -> float:
    """Returns the share in a quantile threshold: 0.05 for `q0.05`.

    Args:
        threshold: The threshold.
        where: Its dotted key, for the error message.

    Raises:
        ConfigError: The threshold is not a quantile.
    """
    try:
        share = float(threshold[1:]) if isinstance(threshold, str) and threshold[:1] == "q" else -1.0
    except ValueError:
        share = -1.0
    check(
        0 <= share <= 1,
        f"{where} must be a number or a quantile such as q0.05, not {threshold!r}",
    )
    return share


def check_threshold(threshold: Any, where: str) -> None:
    """Raises a `ConfigError` unless a threshold is a finite number or a quantile."""
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not math.isfinite(threshold):
        parse_quantile(threshold, where)


def check_finite(number: float, where: str) -> None:
    """Raises a `ConfigError` unless a number is finite."""
    check(math.isfinite(number), f"{where} must be a finite number, not {number}")


def parse_span(span: float | str) -> tuple[float, Literal["share", "steps", "tokens"]]:
    """Parses a length of a run: `0.01` is a share of the run, `500 steps` and `1e7 tokens` are absolute.

    Raises:
        ConfigError: The span has none of these forms.
    """
    if isinstance(span, str):
        number, _, unit = span.strip().partition(" ")
        if unit in ("steps", "tokens") and re.fullmatch(r"\d[\d_]*(\.\d*)?([eE]\+?\d+)?", number):
            return float(number), cast("Literal['steps', 'tokens']", unit)
    elif 0 <= span <= 1:
        return span, "share"
    raise ConfigError(f"must be a share in [0, 1], or such as `500 steps` or `1e7 tokens`, not {span!r}")
