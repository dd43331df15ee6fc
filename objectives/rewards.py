"""Rewards from scores: minus the score, on a scale that the exponential weights can tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Scaling = Literal["raw", "zscore", "percentile"]


@dataclass(frozen=True)
class ScoreStatistics:
    """How the scores of a corpus are spread, counted in segments.

    Attributes:
        mean: Mean score.
        std: Standard deviation.
        quantiles: Scores at evenly spaced quantiles from 0 to 1, ascending.
    """

    mean: float
    std: float
    quantiles: tuple[float, ...]


def reward(score: Tensor, scaling: Scaling, statistics: ScoreStatistics | None) -> Tensor:
    """The reward of each token; higher is better.

    Args:
        score: Scores, higher is worse.
        scaling: `raw`: `-score`. `zscore`: minus the number of standard deviations above the mean.
            `percentile`: minus the share of the corpus that scores strictly lower, in [-1, 0].
        statistics: Of the corpus; needed unless `raw`.

    Raises:
        ValueError: Statistics are needed and missing, or every score of the corpus is the same.
    """
    if scaling == "raw":
        return -score
    if statistics is None:
        raise ValueError(f"reward scaling {scaling!r} needs the statistics of the corpus")
    if scaling == "zscore":
        if not statistics.std > 0:
            raise ValueError("reward scaling 'zscore' needs scores that differ; all are the same")
        return (statistics.mean - score) / statistics.std
    quantiles = torch.tensor(statistics.quantiles, dtype=score.dtype, device=score.device)
    lower = torch.searchsorted(quantiles, score.contiguous(), side="left")
    return -(lower / len(quantiles)).to(score.dtype)
