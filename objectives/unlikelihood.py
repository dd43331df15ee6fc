"""Implements unlikelihood training: learns the good tokens and unlearns the bad ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from objectives.engine import Needs
from objectives.token import TokenObjective

_NEAREST_TO_ZERO = -1e-6
"""Upper limit of the log-probability of bad tokens. The loss is infinite at 0, and float32 resolves
log-probabilities near 0 only to about 1e-7."""


@dataclass
class UnlikelihoodOptions:
    """Options of `Unlikelihood`."""

    alpha: float = 1.0
    """Weight of the unlikelihood term."""


class Unlikelihood(TokenObjective):
    """Unlikelihood training (Welleck et al. 2020, arXiv 1908.04319).

    The loss of a token is `-log p` for a score up to the threshold, and `-alpha log(1 - p)` above it.
    """

    name = "unlikelihood"
    Options = UnlikelihoodOptions
    options: UnlikelihoodOptions
    threshold: float

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(threshold="segments")

    def token_loss(self, logp: Tensor, score: Tensor, value: Tensor) -> Tensor:
        logp_bad = logp.clamp(max=_NEAREST_TO_ZERO)
        # log(1 - p), by the form that is accurate for this p (Maechler 2012, "log1mexp").
        log_1mp = (-logp_bad.expm1()).log().where(logp_bad > -0.7, (-logp_bad.exp()).log1p())
        return (-logp).where(score <= self.threshold, -self.options.alpha * log_1mp)
