"""Quantiles of scores: in annotations, in a store, and as thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def smallest_reaching(
    scores: NDArray[np.floating[Any]], shares: Sequence[float], weights: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """For each share the smallest score that so much of the weight does not exceed, float64 [len(shares)].

    Args:
        scores: Numbers [N], at least one.
        shares: Each in [0, 1].
        weights: int64 [N], above 0; each score counts once if `None`.
    """
    order = np.argsort(scores)
    reached = np.arange(1, len(scores) + 1) if weights is None else np.cumsum(weights[order])
    # Divided, not multiplied: 7 of 100 is exactly 0.07, and 0.07 * 100 is more than 7.
    return scores[order][np.searchsorted(reached / reached[-1], shares)].astype(np.float64)
