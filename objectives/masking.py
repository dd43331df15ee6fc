"""Masking: bad segments are read, as context of the others, and not learned."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from objectives.base import Objective


class Masking(Objective):
    """`-log p` up to the threshold, nothing above it: filtering by the segment (arXiv 2601.21571).

    The loss is divided by the number of all tokens, so that a batch with few good ones does not weigh more.

    Args:
        model: The language model.
        threshold: A token of a segment with at most this score is learned.
        **engine: See `Objective`.
    """

    name = "masking"
    threshold: float

    def __init__(self, model: PreTrainedModel, *, threshold: float, **engine: Any):
        super().__init__(model, threshold=threshold, **engine)

    def token_loss(self, logp: Tensor, score: Tensor, value: Tensor) -> Tensor:
        return (-logp).where(score <= self.threshold, 0.0)
