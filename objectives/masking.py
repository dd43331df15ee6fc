"""Implements masking: bad segments are read as context, and not learned."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from objectives.engine import Needs
from objectives.token import TokenObjective


class Masking(TokenObjective):
    """`-log p` for scores up to the threshold, 0 above it: filtering by segment (arXiv 2601.21571).

    The loss is divided by the number of all tokens. Otherwise a batch with few good tokens would give each of
    them a larger weight.
    """

    name = "masking"
    threshold: float

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(threshold="segments")

    def token_loss(self, logp: Tensor, score: Tensor, value: Tensor) -> Tensor:
        return (-logp).where(score <= self.threshold, 0.0)
