"""Implements reward-weighted regression, which weights every token by its reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from transformers import PreTrainedModel

from objectives.engine import Needs
from objectives.rewards import Reward, Scaling
from objectives.token import TokenObjective


@dataclass
class RWROptions:
    """Options of `RWR`."""

    beta: float = 10.0
    """Temperature of the exponential weight. The larger it is, the closer the objective is to MLE."""
    max_weight: float = 1000.0
    """Largest weight of a token."""
    reward_scaling: Scaling = "raw"
    """How scores become rewards. `raw`: minus the score. `zscore`: minus the score's distance from the mean
    in standard deviations. `percentile`: minus the share of the corpus that scores lower, in [-1, 0]."""

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta must be above 0, not {self.beta}")


class RWR(TokenObjective):
    """Weights the loss of each token by its reward (Korbak et al. 2023, section 2).

    The loss of a token is `-w log p` with `w = min(exp(R / beta), max_weight)`.

    With raw rewards in [-1, 0] and the paper's beta of 10, every weight lies in [0.90, 1] and the objective
    is nearly MLE. `reward_scaling` spreads the weights.
    """

    name = "rwr"
    Options: ClassVar[type] = RWROptions
    options: RWROptions

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(statistics=options.reward_scaling != "raw")

    def __init__(self, model: PreTrainedModel, options: Any = None, **engine: Any):
        super().__init__(model, options, **engine)
        self.reward = Reward(self.options.reward_scaling, self.statistics)

    def weight(self, advantage: Tensor) -> Tensor:
        """Returns `min(exp(advantage / beta), max_weight)`."""
        return (advantage / self.options.beta).exp().clamp(max=self.options.max_weight)

    def token_loss(self, logp: Tensor, score: Tensor, value: Tensor) -> Tensor:
        return -self.weight(self.reward(score)) * logp
