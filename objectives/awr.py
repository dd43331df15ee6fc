"""Advantage-weighted regression: learn the tokens that are better than the model expected."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from objectives.rwr import RWR


class AWR(RWR):
    """`alpha (-w log p) + (1 - alpha) (R - V)^2` with `w = min(exp((R - V) / beta), max_weight)`.

    `V = -sigmoid(w . h)` is predicted from the hidden state before the token, by a head without bias
    that starts at zero; no gradient flows through the weight (Korbak et al. 2023, section 2). V lies in
    [-1, 0], and so fits rewards that do: raw scores in [0, 1], or percentiles.

    Args:
        model: The language model.
        alpha: Weight of the policy loss; the value loss has the rest.
        **options: See `RWR`.
    """

    name = "awr"

    def __init__(self, model: PreTrainedModel, *, alpha: float = 0.5, **options: Any):
        super().__init__(model, **options)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], not {alpha}")
        self.alpha = alpha
        self.value_head = nn.Linear(model.config.get_text_config().hidden_size, 1, bias=False)
        nn.init.zeros_(self.value_head.weight)

    def value(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return -self.value_head(hidden.to(self.value_head.weight.dtype)).float().sigmoid()[..., 0]

    def token_loss(self, logp: Tensor, score: Tensor, value: Tensor) -> Tensor:
        advantage = self.reward(score) - value
        policy = -self.weight(advantage.detach()) * logp
        return self.alpha * policy + (1 - self.alpha) * advantage.square()
