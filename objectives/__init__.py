"""Pretraining objectives, from maximum likelihood (MLE) to advantage-weighted regression (AWR).

Modules are imported on first use: what only needs a view does not wait for Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from objectives.view import BAD_TAG, GOOD_TAG, Tags, View

if TYPE_CHECKING:
    from objectives.awr import AWR
    from objectives.base import Batch, Objective
    from objectives.conditional import Conditional
    from objectives.filtering import Filtering
    from objectives.masking import Masking
    from objectives.mle import MLE
    from objectives.optimization import Optimization
    from objectives.rewards import ScoreStatistics
    from objectives.rwr import RWR
    from objectives.unlikelihood import Unlikelihood
    from objectives.upsampling import Upsampling

    OBJECTIVES: dict[str, type[Objective]]
    """Every objective, by the name it has in configurations."""

_OBJECTIVES = {
    "mle": "MLE",
    "filtering": "Filtering",
    "masking": "Masking",
    "upsampling": "Upsampling",
    "conditional": "Conditional",
    "unlikelihood": "Unlikelihood",
    "rwr": "RWR",
    "awr": "AWR",
}
"""The class of each objective; its module has the name that it has in configurations."""

_MODULES = {cls: module for module, cls in _OBJECTIVES.items()} | {
    "Batch": "base",
    "Objective": "base",
    "Optimization": "optimization",
    "ScoreStatistics": "rewards",
}


def __getattr__(name: str) -> Any:
    if name == "OBJECTIVES":
        found = {objective: __getattr__(cls) for objective, cls in _OBJECTIVES.items()}
    elif name in _MODULES:
        found = getattr(import_module(f"objectives.{_MODULES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


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
    "Masking",
    "Objective",
    "Optimization",
    "ScoreStatistics",
    "Tags",
    "Unlikelihood",
    "Upsampling",
    "View",
]
