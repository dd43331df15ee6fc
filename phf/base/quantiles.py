"""Computes weighted quantiles of scores, for annotations, stores and thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def smallest_reaching(
    scores: NDArray[np.floating[Any]], shares: Sequence[float], weights: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Returns for each share the smallest score that this share of the weight does not exceed.

    Args:
        scores: float [N], with N at least 1.
        shares: Each in [0, 1].
        weights: int64 [N], above 0; `None` counts each score once.

    Returns:
        float64 [len(shares)].
    """
    order = np.argsort(scores)
    reached = np.arange(1, len(scores) + 1) if weights is None else np.cumsum(weights[order])
    # Weights are divided, instead of shares multiplied: 7 / 100 is exactly 0.07, but 0.07 * 100 is above 7.
    return scores[order][np.searchsorted(reached / reached[-1], shares)].astype(np.float64)
