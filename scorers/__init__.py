"""Preference signals: a scorer measures how much each segment of a text violates a preference."""

from scorers.base import Score, Scorer, ScorerError, SegmentScorer, Span
from scorers.registry import SCORERS, describe_scorers, load_scorer, scorer_names

__all__ = [
    "SCORERS",
    "Score",
    "Scorer",
    "ScorerError",
    "SegmentScorer",
    "Span",
    "describe_scorers",
    "load_scorer",
    "scorer_names",
]
