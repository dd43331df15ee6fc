"""Computes the progress of an attack, by round and by cost, averaged over its trials."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from phf.base.estimates import Bootstrap, Interval
from phf.evaluation.results import AttackRound
from phf.redteam.pool import Attempt

POINTS = 20
"""Points on the curve by tokens."""
BEST = 10

Trial = Sequence[Attempt]


def by_round(trials: Sequence[Trial], bootstrap: Bootstrap) -> list[AttackRound]:
    """Computes the progress at the end of each round, from 0 (the seeds), as means over trials.

    A trial that has spent its budget keeps the best scores that it has reached.

    Args:
        trials: The attempts of each trial, in order.
        bootstrap: Computes the intervals, which are over trials.
    """
    last_round = max((trial[-1].round for trial in trials if trial), default=0)
    rows = []
    for number in range(last_round + 1):
        so_far = [[attempt for attempt in trial if attempt.round <= number] for trial in trials]
        averages = [
            _mean([attempt for attempt in trial if attempt.round == number], top=None) for trial in trials
        ]
        rows.append(
            AttackRound(
                *_best(so_far, bootstrap),
                average=bootstrap.mean(averages),
                round=number,
                target_tokens=float(np.mean([_tokens(trial) for trial in so_far])),
            )
        )
    return rows


def by_tokens(trials: Sequence[Trial], bootstrap: Bootstrap) -> list[AttackRound]:
    """Computes the progress at equal numbers of tokens, by which attacks on two models can be compared.

    The points are evenly spaced, up to the number of tokens of the cheapest trial.
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
        rows.append(AttackRound(*_best(so_far, bootstrap), target_tokens=tokens))
    return rows


def best_attempts(trials: Sequence[Trial]) -> list[tuple[int, Attempt]]:
    """Returns the ten different prompts with the highest scores, each with the number of its trial."""
    scored = [
        (t, attempt) for t, trial in enumerate(trials) for attempt in trial if attempt.score is not None
    ]
    scored.sort(key=lambda pair: -(pair[1].score or 0.0))  # stable: ties keep the order of the trials
    distinct: dict[str, tuple[int, Attempt]] = {}
    for pair in scored:
        distinct.setdefault(pair[1].prompt, pair)
    return list(distinct.values())[:BEST]


def _best(so_far: Sequence[Trial], bootstrap: Bootstrap) -> tuple[Interval, Interval]:
    """Computes the score of the best prompt and the mean score of the ten best, as means over trials."""
    best, best_10 = (bootstrap.mean([_mean(trial, top) for trial in so_far]) for top in (1, BEST))
    return best, best_10


def _mean(attempts: Trial, top: int | None) -> float | None:
    """Computes the mean of the `top` highest scores (all if `None`); `None` if there are no scores."""
    scores = sorted((attempt.score for attempt in attempts if attempt.score is not None), reverse=True)[:top]
    return sum(scores) / len(scores) if scores else None


def _tokens(trial: Trial) -> int:
    return sum(attempt.target_tokens for attempt in trial)
