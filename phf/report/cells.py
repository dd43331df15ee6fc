"""Numbers as a report shows them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from phf.report.read_runs import lookup

DASH = "\u2013"
"""Stands for what is not known."""
MINUS = "\u2212"


Bounds = tuple[Any, Any, Any]
"""A value and its interval."""


@dataclass(frozen=True)
class Cell:
    """A value as it is shown, what stands beside it in smaller type (an interval), and both as numbers."""

    value: str
    detail: str = ""
    numbers: Bounds | None = None

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


def scalar(measured: Any) -> Any:
    """The number itself, of a measurement with an interval or of one without."""
    return lookup(measured, "value") if isinstance(measured, dict) else measured


def integer(value: Any) -> Cell:
    """A count with its thousands apart."""
    value = scalar(value)
    return Cell(DASH) if value is None else Cell(f"{value:,.0f}", numbers=(value, None, None))


def amount(value: Any) -> Cell:
    """A large count in thousands, millions or billions."""
    value = scalar(value)
    if value is None:
        return Cell(DASH)
    unit, size = next(((u, s) for u, s in (("B", 1e9), ("M", 1e6), ("k", 1e3)) if value >= s), ("", 1))
    return Cell(f"{value / size:.3g}{unit}", numbers=(value, None, None))


def duration(seconds: Any) -> Cell:
    """Seconds as `4 min 05 s` or `2 h 07 min`."""
    exact = scalar(seconds)
    if exact is None:
        return Cell(DASH)
    seconds = round(exact)
    if seconds < 60:
        text = f"{seconds} s"
    elif seconds < 3600:
        text = f"{seconds // 60} min {seconds % 60:02d} s"
    else:
        text = f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return Cell(text, numbers=(exact, None, None))


def change(ratio: float | None) -> str:
    """A ratio as the change it stands for: 0.54 is -46 %."""
    if ratio is None:
        return DASH
    return f"{100 * (ratio - 1):+.0f} %".replace("-", MINUS)


def interval(measured: Any, percent: bool = False, decimals: int | None = None) -> Cell:
    """A measurement with its interval, to the figures of the measurement."""
    value = scalar(measured)
    if value is None:
        return Cell(DASH)
    low, high = (lookup(measured, key) if isinstance(measured, dict) else None for key in ("low", "high"))
    if percent:
        # An interval over seeds does not know that a share lies between nothing and all.
        low, high = (None if bound is None else min(max(bound, 0.0), 1.0) for bound in (low, high))
    scale, unit = (100.0, " %") if percent else (1.0, "")
    decimals = 1 if percent else _decimals(value) if decimals is None else decimals
    detail = (
        f"[{number(scale * low, decimals)}, {number(scale * high, decimals)}]"
        if low is not None and high is not None
        else ""
    )
    return Cell(number(scale * value, decimals) + unit, detail, (value, low, high))
