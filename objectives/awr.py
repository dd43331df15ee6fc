"""Implements advantage-weighted regression: weights tokens by how much better they are than expected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from objectives.rwr import RWR, RWROptions


@dataclass
class AWROptions(RWROptions):
    """Options of `AWR`."""

    alpha: float = 0.5
    """Weight of the policy loss. The value loss has weight 1 - alpha."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], not {self.alpha}")


class AWR(RWR):
    """Weights the loss of each token by how much better it is than expected (Korbak et al. 2023, section 2).

    The loss of a token is `alpha (-w log p) + (1 - alpha) (R - V)^2` with
    `w = min(exp((R - V) / beta), max_weight)`. No gradient flows through the weight w.

    The value `V = -sigmoid(v . h)` is predicted from the hidden state h before the token. Its head v has no
    bias and starts at zero. V lies in [-1, 0], so it can only fit rewards in that range: those of raw scores
    in [0, 1], or percentiles.
    """

    name = "awr"
    Options = AWROptions
    options: AWROptions

    def __init__(self, model: PreTrainedModel, options: Any = None, **engine: Any):
        super().__init__(model, options, **engine)
        self.value_head = nn.Linear(model.config.get_text_config().hidden_size, 1, bias=False)
        nn.init.zeros_(self.value_head.weight)

    def value(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return -self.value_head(hidden.to(self.value_head.weight.dtype)).float().sigmoid()[..., 0]

    def token_loss(self, logp: Tensor, score: Tensor, value: Tensor) -> Tensor:
        alpha = self.options.alpha
        advantage = self.reward(score) - value
        policy = -self.weight(advantage.detach()) * logp
        return alpha * policy + (1 - alpha) * advantage.square()
