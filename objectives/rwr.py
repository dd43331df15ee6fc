"""Reward-weighted regression: learn every token, the better ones more."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from objectives.base import Objective
from objectives.rewards import Reward, Scaling, ScoreStatistics


class RWR(Objective):
    """`-w log p` with `w = min(exp(R / beta), max_weight)` (Korbak et al. 2023, section 2).

    With raw rewards in [-1, 0] and the paper's beta of 10, every weight lies in [0.90, 1] and the
    objective is nearly MLE; `reward_scaling` spreads them.

    Args:
        model: The language model.
        beta: Temperature; the larger, the closer to MLE.
        max_weight: Largest weight of a token.
        reward_scaling: See `objectives.rewards.Reward`.
        statistics: Of the corpus's scores; needed unless `reward_scaling` is `raw`.
        **engine: See `Objective`.
    """

    name = "rwr"

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        beta: float = 10.0,
        max_weight: float = 1000.0,
        reward_scaling: Scaling = "raw",
        statistics: ScoreStatistics | None = None,
        **engine: Any,
    ):
        super().__init__(model, **engine)
        if beta <= 0:
            raise ValueError(f"beta must be above 0, not {beta}")
        self.beta = beta
        self.max_weight = max_weight
        self.reward = Reward(reward_scaling, statistics)

    def weight(self, advantage: Tensor) -> Tensor:
        """`min(exp(advantage / beta), max_weight)`."""
        return (advantage / self.beta).exp().clamp(max=self.max_weight)

    def token_loss(self, logp: Tensor, score: Tensor, value: Tensor) -> Tensor:
        return -self.weight(self.reward(score)) * logp
