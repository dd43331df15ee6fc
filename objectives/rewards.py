"""Converts scores into rewards: minus the score, on a scale that suits exponential weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Scaling = Literal["raw", "zscore", "percentile"]


@dataclass(frozen=True)
class ScoreStatistics:
    """The distribution of a corpus's scores, with one score for each segment.

    Attributes:
        mean: Mean score.
        std: Standard deviation.
        quantiles: Scores at evenly spaced quantiles from 0 to 1, ascending.
    """

    mean: float
    std: float
    quantiles: tuple[float, ...]


class Reward:
    """Maps the score of each token (higher is worse) to its reward (higher is better).

    Args:
        scaling: `raw`: `-score`. `zscore`: minus the number of standard deviations above the mean.
            `percentile`: minus the share of the corpus that scores strictly lower, in [-1, 0].
        statistics: Statistics of the corpus scores; `raw` does not need them.

    Raises:
        ValueError: The statistics are needed and missing, or `zscore` gets a corpus whose scores are all the
            same.
    """

    def __init__(self, scaling: Scaling, statistics: ScoreStatistics | None):
        if statistics is None and scaling != "raw":
            raise ValueError(f"reward scaling {scaling!r} needs the statistics of the corpus")
        if statistics is not None and scaling == "zscore" and not statistics.std > 0:
            raise ValueError("reward scaling 'zscore' needs scores that differ; all are the same")
        self.scaling = scaling
        self.statistics = statistics
        self.quantiles = torch.tensor(statistics.quantiles if statistics else (), dtype=torch.float32)

    def __call__(self, score: Tensor) -> Tensor:
        if self.statistics is None or self.scaling == "raw":
            return -score
        if self.scaling == "zscore":
            return (self.statistics.mean - score) / self.statistics.std
        # Not a buffer of the module: a buffer would be cast to the type of the weights.
        self.quantiles = self.quantiles.to(score.device)
        lower = torch.searchsorted(self.quantiles, score.contiguous(), side="left")
        return -(lower / len(self.quantiles)).to(score.dtype)
