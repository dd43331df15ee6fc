"""Unlikelihood: learn the good tokens, unlearn the bad ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from objectives.base import Objective

_LEAST = 1e-6
"""Smallest `1 - p`. Closer to 1 float32 cannot tell the log-probability from 0."""


class Unlikelihood(Objective):
    """`-log p` up to the threshold, `-alpha log(1 - p)` above it (Welleck et al. 2020, arXiv 1908.04319).

    Args:
        model: The language model.
        threshold: A token of a segment with at most this score is learned; 0 is a threshold like any other.
        alpha: Weight of the unlikelihood term.
        **engine: See `Objective`.
    """

    name = "unlikelihood"
    threshold: float

    def __init__(self, model: PreTrainedModel, *, threshold: float, alpha: float = 1.0, **engine: Any):
        super().__init__(model, **engine)
        self.threshold = threshold
        self.alpha = alpha

    def token_loss(self, logp: Tensor, score: Tensor, value: Tensor) -> Tensor:
        # expm1 keeps the digits of 1 - p where p is close to 1.
        one_minus_p = (-logp.expm1()).clamp(min=_LEAST)
        return (-logp).where(score <= self.threshold, -self.alpha * one_minus_p.log())
