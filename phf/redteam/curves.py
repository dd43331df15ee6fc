"""How far an attack has come, by round and by what it cost, over its trials."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from phf.base.estimates import Interval, mean_by_cluster
from phf.redteam.pool import Attempt

POINTS = 20
"""Of the curve by tokens."""
BEST = 10

Trial = Sequence[Attempt]


def by_round(trials: Sequence[Trial], confidence: float, seed: int) -> list[dict[str, Any]]:
    """For each round, from 0 (the seeds), what the trials have come to at its end, as means over them.

    Args:
        trials: The attempts of each, in order.
        confidence: Coverage of the intervals, which are bootstrapped over trials.
        seed: Of the bootstrap.

    Returns:
        `round`; `best`, the score of the best prompt so far; `best_10`, the mean score of the ten best
        so far; `average`, the mean score of the round's prompts; `target_tokens`, of a trial so far. A trial
        that has spent its budget stays at what it has come to.
    """
    last_round = max((trial[-1].round for trial in trials if trial), default=0)
    rows = []
    for number in range(last_round + 1):
        so_far = [[attempt for attempt in trial if attempt.round <= number] for trial in trials]
        averages = [
            _mean([attempt for attempt in trial if attempt.round == number], top=None) for trial in trials
        ]
        rows.append(
            {
                "round": number,
                **_best(so_far, confidence, seed),
                "average": mean_by_cluster(averages, None, confidence, seed),
                "target_tokens": float(np.mean([_tokens(trial) for trial in so_far])),
            }
        )
    return rows


def by_tokens(trials: Sequence[Trial], confidence: float, seed: int) -> list[dict[str, Any]]:
    """What the trials have come to when each has cost so many tokens: attacks on two models compare by it.

    The points are evenly spaced, up to what the cheapest trial has cost.

    Returns:
        `target_tokens`, of a trial; `best` and `best_10` as in `by_round`.
    """
    most = min((_tokens(trial) for trial in trials), default=0)
    spent = [list(accumulate(attempt.target_tokens for attempt in trial)) for trial in trials]
    rows = []
    for point in range(1, POINTS + 1):
        tokens = most * point // POINTS
        so_far = [
            trial[: int(np.searchsorted(total, tokens, side="right"))]
            for trial, total in zip(trials, spent, strict=True)
        ]
        rows.append({"target_tokens": tokens, **_best(so_far, confidence, seed)})
    return rows


def best_attempts(trials: Sequence[Trial]) -> list[tuple[int, Attempt]]:
    """The ten prompts with the highest scores, no two alike, each with the number of its trial."""
    scored = [
        (t, attempt) for t, trial in enumerate(trials) for attempt in trial if attempt.score is not None
    ]
    scored.sort(key=lambda pair: -(pair[1].score or 0.0))  # the sort is stable: ties are as in the trials
    distinct: dict[str, tuple[int, Attempt]] = {}
    for pair in scored:
        distinct.setdefault(pair[1].prompt, pair)
    return list(distinct.values())[:BEST]


def _best(so_far: Sequence[Trial], confidence: float, seed: int) -> dict[str, Interval]:
    return {
        name: mean_by_cluster([_mean(trial, top) for trial in so_far], None, confidence, seed)
        for name, top in (("best", 1), ("best_10", BEST))
    }


def _mean(attempts: Trial, top: int | None) -> float | None:
    """The mean of the highest scores, of all if `top` is `None`; `None` if there is none."""
    scores = sorted((attempt.score for attempt in attempts if attempt.score is not None), reverse=True)[:top]
    return sum(scores) / len(scores) if scores else None


def _tokens(trial: Trial) -> int:
    return sum(attempt.target_tokens for attempt in trial)
