"""Pretraining objectives: MLE, filtering, conditional training, unlikelihood, RWR and AWR."""

from objectives.awr import AWR
from objectives.base import Batch, Objective
from objectives.conditional import Conditional
from objectives.filtering import Filtering
from objectives.mle import MLE
from objectives.optimization import Optimization
from objectives.rewards import ScoreStatistics
from objectives.rwr import RWR
from objectives.unlikelihood import Unlikelihood
from objectives.view import BAD_TAG, GOOD_TAG, Tags, View

OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective for objective in (MLE, Filtering, Conditional, Unlikelihood, RWR, AWR)
}
"""Every objective, by the name it has in configurations."""

__all__ = [
    "AWR",
    "BAD_TAG",
    "GOOD_TAG",
    "MLE",
    "OBJECTIVES",
    "RWR",
    "Batch",
    "Conditional",
    "Filtering",
    "Objective",
    "Optimization",
    "ScoreStatistics",
    "Tags",
    "Unlikelihood",
    "View",
]
