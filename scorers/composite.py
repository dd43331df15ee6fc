"""Combines several scorers into one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scorers.base import Score, Scorer, ScorerError, Span
from scorers.registry import load_scorer


class Composite(Scorer):
    """Combines several scorers: the weighted sum of their scores, or the largest.

    Scores of different scorers have different units. With `quantiles`, a score is replaced by the share of a
    corpus that scores less. This share is in [0, 1] for any scorer, and 0 stays 0. A segment that one of the
    scorers cannot score has no score.

    Args:
        scorers: For each scorer by name: `options`, `weight` (default 1), and `quantiles`, the manifest of
            its annotations of a corpus (`annotations/NAME/manifest.json`). If a scorer is used twice,
            `scorer` is its name in the registry.
        combine: `sum` or `max` of weight times score.
    """

    name = "composite"
    version = "2"
    measures = "several scores as one"
    range = (0.0, float("inf"))

    def __init__(self, scorers: Mapping[str, Any], combine: Literal["sum", "max"] = "sum"):
        if combine not in ("sum", "max"):
            raise ScorerError(f"scorer composite: combine must be sum or max, not {combine!r}")
        if not isinstance(scorers, Mapping) or not scorers:
            raise ScorerError("scorer composite: scorers must name at least one, such as {pep8: {weight: 2}}")
        self.combine = combine
        self._parts = {name: _Part(name, dict(part or {})) for name, part in scorers.items()}
        devices = {part.device for part in self._parts.values()} - {"cpu"}
        self.device = "cuda" if "cuda" in devices else next(iter(devices), "cpu")

    def settings(self) -> Mapping[str, Any]:
        parts = {name: part.settings() for name, part in self._parts.items()}
        return {"combine": self.combine, "scorers": parts}

    def score(self, documents: Sequence[Sequence[str]]) -> list[list[Score]]:
        by_part = [part.score(documents) for part in self._parts.values()]
        return [
            [self._combine(scores) for scores in zip(*document, strict=True)]
            for document in zip(*by_part, strict=True)
        ]

    def _combine(self, scores: Sequence[Score]) -> Score:
        spans = tuple(
            Span(span.start, span.end, f"{name}: {span.label}")
            for name, score in zip(self._parts, scores, strict=True)
            for span in score.spans
        )
        values = [score.value for score in scores]
        if any(value is None for value in values):
            return Score(None, spans)
        weighted = [
            part.weight * value for part, value in zip(self._parts.values(), values, strict=True) if value
        ]
        total = sum(weighted) if self.combine == "sum" else max(weighted, default=0.0)
        return Score(float(total), spans)


class _Part:
    """One of the scorers, with its weight and the quantiles that its scores are compared with."""

    def __init__(self, name: str, part: dict[str, Any]):
        options = part.pop("options", None) or {}
        weight, quantiles = part.pop("weight", 1.0), part.pop("quantiles", None)
        self._scorer = load_scorer(part.pop("scorer", name), **options)
        if part:
            raise ScorerError(
                f"scorer composite: {name} has no key {next(iter(part))!r}; "
                "there are scorer, options, weight, quantiles"
            )
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight >= 0:
            raise ScorerError(f"scorer composite: the weight of {name} must be 0 or more, not {weight!r}")
        self.device = self._scorer.device
        self.weight = float(weight)
        self._grid = None if quantiles is None else _read_quantiles(name, str(quantiles))

    def settings(self) -> Mapping[str, Any]:
        return {
            "fingerprint": self._scorer.fingerprint,
            "weight": self.weight,
            "quantiles": None if self._grid is None else self._grid.tolist(),
        }

    def score(self, documents: Sequence[Sequence[str]]) -> list[list[Score]]:
        scored = self._scorer.score(documents)
        if self._grid is None:
            return scored
        return [[Score(self._rank(score.value), score.spans) for score in document] for document in scored]

    def _rank(self, value: float | None) -> float | None:
        if value is None:
            return None
        assert self._grid is not None
        return float(np.searchsorted(self._grid, value)) / len(self._grid)


def _read_quantiles(name: str, path: str) -> np.ndarray:
    try:
        quantiles = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))["quantiles"]
        grid = np.sort(np.array(list(quantiles.values()), dtype=float))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ScorerError(
            f"scorer composite: the quantiles of {name}: {path} is not a manifest of finished annotations"
        ) from error
    if not len(grid):
        raise ScorerError(f"scorer composite: the quantiles of {name}: {path} has no scores yet")
    return grid
