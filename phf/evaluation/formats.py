"""Numbers as a report shows them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from phf.evaluation.runs import lookup

DASH = "\u2013"
"""Stands for what is not known."""
MINUS = "\u2212"


@dataclass(frozen=True)
class Cell:
    """A value as it is shown, and what is said beside it in smaller type (an interval)."""

    value: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.value} {self.detail}" if self.detail else self.value


def _decimals(value: float) -> int:
    """Decimals that leave three significant figures."""
    return 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))


def number(value: Any, decimals: int | None = None) -> str:
    """Three significant figures, or the given number of decimals; a dash for what is not known."""
    if value is None or not math.isfinite(value):
        return DASH
    decimals = _decimals(value) if decimals is None else decimals
    text = f"{value:.2e}" if decimals > 6 else f"{value:,.{decimals}f}"
    return text.replace("-", MINUS)


def integer(value: Any) -> str:
    """A count with its thousands apart."""
    return DASH if value is None else f"{value:,}"


def amount(value: Any) -> str:
    """A large count in thousands, millions or billions."""
    if value is None:
        return DASH
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def duration(seconds: Any) -> str:
    """Seconds as `4 min 05 s` or `2 h 07 min`."""
    if seconds is None:
        return DASH
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def change(ratio: float | None) -> str:
    """A ratio as the change it stands for: 0.54 is -46 %."""
    if ratio is None:
        return DASH
    return f"{100 * (ratio - 1):+.0f} %".replace("-", MINUS)


def interval(measured: Any, percent: bool = False, signed: bool = False) -> Cell:
    """A measurement with its interval, to the figures of the measurement."""
    value, low, high = (
        lookup(measured, key) if isinstance(measured, dict) else None for key in ("value", "low", "high")
    )
    if value is None and isinstance(measured, int | float):
        value = measured
    if value is None:
        return Cell(DASH)
    scale, unit = (100.0, " %") if percent else (1.0, "")
    decimals = 1 if percent else _decimals(value)
    detail = (
        f"[{number(scale * low, decimals)}, {number(scale * high, decimals)}]"
        if low is not None and high is not None
        else ""
    )
    sign = "+" if signed and value > 0 else ""
    return Cell(sign + number(scale * value, decimals) + unit, detail)
