"""Implements maximum likelihood, the baseline that learns every token alike."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from objectives.engine import Needs
from objectives.token import TokenObjective


class MLE(TokenObjective):
    """Maximum likelihood: `-log p` for every token (Korbak et al. 2023, equation 1)."""

    name = "mle"

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(scores=False)

    def token_loss(self, logp: Tensor, score: Tensor, value: Tensor) -> Tensor:
        return -logp
