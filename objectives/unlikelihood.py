"""Unlikelihood: learn the good tokens, unlearn the bad ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from objectives.base import Objective

_NEAREST_TO_ZERO = -1e-6
"""Largest log-probability told from 0: float32 knows it to about 1e-7, and the loss is infinite at 0."""


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
        super().__init__(model, threshold=threshold, **engine)
        self.alpha = alpha

    def token_loss(self, logp: Tensor, score: Tensor, value: Tensor) -> Tensor:
        logp_bad = logp.clamp(max=_NEAREST_TO_ZERO)
        # log(1 - p), by whichever of the two forms keeps its digits (Maechler 2012, "log1mexp").
        log_1mp = (-logp_bad.expm1()).log().where(logp_bad > -0.7, (-logp_bad.exp()).log1p())
        return (-logp).where(score <= self.threshold, -self.alpha * log_1mp)
