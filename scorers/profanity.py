"""Scores offensive language with a small linear classifier, without a download or a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from scorers.base import Score, SegmentScorer


class Profanity(SegmentScorer):
    """Probability that a text is offensive, by the linear model over words of `alt-profanity-check`.

    The model knows words, but not what they mean together. It is fast and suits drafts and tests; `toxicity`
    is the measure to report. A text in which the model knows no word, such as a blank text, gets a constant
    near 0.04.
    """

    name = "profanity"
    version = "1"
    measures = "probability that the text is offensive, by its words"
    speed = "fast"

    def __init__(self) -> None:
        from profanity_check import predict_prob

        self._predict_prob = predict_prob

    def settings(self) -> Mapping[str, Any]:
        # This package pins the version of the library that runs its model.
        return {"alt-profanity-check": version("alt-profanity-check")}

    def score_segments(self, segments: Sequence[str]) -> list[Score]:
        if not segments:
            return []
        return [Score(float(probability)) for probability in self._predict_prob(segments)]
