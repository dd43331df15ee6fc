"""Maximum likelihood: the baseline that learns from every token alike."""

from __future__ import annotations

from torch import Tensor

from objectives.base import Objective


class MLE(Objective):
    """`-log p` for every token (Korbak et al. 2023, equation 1)."""

    name = "mle"

    def token_loss(self, logp: Tensor, score: Tensor, value: Tensor) -> Tensor:
        return -logp
