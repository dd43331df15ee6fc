"""Formats the numbers of a report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from phf.base.estimates import Interval

DASH = "\u2013"
"""Shown in place of an unknown value."""
MINUS = "\u2212"


@dataclass(frozen=True)
class Cell:
    """A cell of a table: the value, a detail in smaller type (such as an interval), and both as numbers."""

    value: str
    detail: str = ""
    numbers: Interval | None = None

    def __str__(self) -> str:
        return f"{self.value} {self.detail}" if self.detail else self.value


def _decimals(value: float) -> int:
    """Returns how many decimals show three significant figures."""
    return 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))


def number(value: float | None, decimals: int | None = None) -> str:
    """Formats a number with three significant figures or the given decimals; an unknown number is a dash."""
    if value is None or not math.isfinite(value):
        return DASH
    decimals = _decimals(value) if decimals is None else decimals
    text = f"{value:.2e}" if decimals > 6 else f"{value:,.{decimals}f}"
    return text.replace("-", MINUS)


def integer(value: float | None) -> Cell:
    """Formats a count with thousands separators."""
    return Cell(DASH) if value is None else Cell(f"{value:,.0f}", numbers=Interval(value))


def amount(value: float | None) -> Cell:
    """Formats a large count in thousands, millions or billions."""
    if value is None:
        return Cell(DASH)
    unit, size = next(((u, s) for u, s in (("B", 1e9), ("M", 1e6), ("k", 1e3)) if value >= s), ("", 1))
    return Cell(f"{value / size:.3g}{unit}", numbers=Interval(value))


def duration(exact: float | None) -> Cell:
    """Formats seconds as `4 min 05 s` or `2 h 07 min`."""
    if exact is None:
        return Cell(DASH)
    seconds = round(exact)
    if seconds < 60:
        text = f"{seconds} s"
    elif seconds < 3600:
        text = f"{seconds // 60} min {seconds % 60:02d} s"
    else:
        text = f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return Cell(text, numbers=Interval(exact))


def plug_in(settings: Mapping[str, Any], show: Callable[[Any], str] = str) -> str:
    """Formats the settings of a component with a name and options, such as `guidance weight=2`.

    Args:
        settings: The settings by key.
        show: Formats one value.
    """
    known = {key: value for key, value in settings.items() if value not in ({}, None)}
    options = known.pop("options", {})
    return " ".join([*map(show, known.values()), *(f"{key}={show(value)}" for key, value in options.items())])


def change(ratio: float | None) -> str:
    """Formats a ratio as a relative change: 0.54 becomes -46 %."""
    if ratio is None:
        return DASH
    return f"{100 * (ratio - 1):+.0f} %".replace("-", MINUS)


def interval(measured: Interval | float | None, percent: bool = False, decimals: int | None = None) -> Cell:
    """Formats a measurement and its interval with the same number of decimals."""
    measured = measured if isinstance(measured, Interval) else Interval(measured)
    value, low, high = measured.value, measured.low, measured.high
    if value is None or not math.isfinite(value):
        return Cell(DASH)
    scale, unit = (100.0, " %") if percent else (1.0, "")
    decimals = 1 if percent else _decimals(value) if decimals is None else decimals
    detail = (
        f"[{number(scale * low, decimals)}, {number(scale * high, decimals)}]"
        if low is not None and high is not None
        else ""
    )
    return Cell(number(scale * value, decimals) + unit, detail, measured)
