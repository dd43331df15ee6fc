"""Pretraining language models with human feedback (Korbak et al. 2023, arXiv 2302.08582).

The names below are the library's public interface. Each is imported when it is first used, so that
`import phf` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from phf.base.version import __version__

if TYPE_CHECKING:
    from phf.annotation.annotate import annotate
    from phf.annotation.annotations import Annotations
    from phf.base.errors import ConfigError, PhfError
    from phf.config import Config, ScenarioConfig, load_config
    from phf.evaluation.evaluate import evaluate
    from phf.inference.generate import generate
    from phf.inference.loaded_model import LoadedModel, load_model
    from phf.inference.tag_rule import follow_tags
    from phf.redteam.attack import attack
    from phf.redteam.tamper import tamper
    from phf.report.report import compare_runs, write_report
    from phf.store.store import TokenStore
    from phf.store.tokenize import tokenize
    from phf.training.export import export_checkpoint
    from phf.training.run import pretrain
    from scorers import Scorer, load_scorer

_WHERE = {
    "Annotations": "phf.annotation.annotations",
    "Config": "phf.config",
    "ConfigError": "phf.base.errors",
    "LoadedModel": "phf.inference.loaded_model",
    "PhfError": "phf.base.errors",
    "ScenarioConfig": "phf.config",
    "Scorer": "scorers",
    "TokenStore": "phf.store.store",
    "annotate": "phf.annotation.annotate",
    "attack": "phf.redteam.attack",
    "compare_runs": "phf.report.report",
    "evaluate": "phf.evaluation.evaluate",
    "export_checkpoint": "phf.training.export",
    "follow_tags": "phf.inference.tag_rule",
    "generate": "phf.inference.generate",
    "load_config": "phf.config",
    "load_model": "phf.inference.loaded_model",
    "load_scorer": "scorers",
    "pretrain": "phf.training.run",
    "tamper": "phf.redteam.tamper",
    "tokenize": "phf.store.tokenize",
    "write_report": "phf.report.report",
}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'phf' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
