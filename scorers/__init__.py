"""Preference signals: a scorer says of every segment how much it violates one."""

from scorers.base import Score, Scorer, ScorerError, SegmentScorer, Span
from scorers.registry import describe, load_scorer, scorer_names

__all__ = [
    "Score",
    "Scorer",
    "ScorerError",
    "SegmentScorer",
    "Span",
    "describe",
    "load_scorer",
    "scorer_names",
]
