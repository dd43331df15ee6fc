"""Conditional training: the model learns what good and bad text look like, and is asked for the good."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from objectives.mle import MLE
from objectives.view import Tags, View


class Conditional(MLE):
    """MLE over text with a control token before each segment (Korbak et al. 2023, section 2).

    Args:
        model: The language model; its vocabulary has the two control tokens.
        threshold: A segment with at most this score is tagged as good.
        drop_rate: Share of the segments that get no tag.
        **engine: See `Objective`.
    """

    name = "conditional"
    threshold: float

    def __init__(self, model: PreTrainedModel, *, threshold: float, drop_rate: float = 0.01, **engine: Any):
        super().__init__(model, threshold=threshold, **engine)
        self.drop_rate = drop_rate
        if not 0 <= drop_rate <= 1:
            raise ValueError(f"drop_rate must lie in [0, 1], not {drop_rate}")

    def view(self) -> View:
        return View(tags=Tags(self.threshold, self.drop_rate))
