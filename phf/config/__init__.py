"""The configuration: one schema for every verb of the command line."""

from phf.config.checks import parse_quantile
from phf.config.cost import CodeConfig, KLConfig, RankingConfig
from phf.config.data import (
    AnnotationsConfig,
    DocumentsConfig,
    ExecutorConfig,
    ScorerConfig,
    SegmenterConfig,
    StoreConfig,
    TokenizerConfig,
)
from phf.config.evaluation import EvaluationConfig, InjectedTagConfig, ScenarioConfig
from phf.config.load import find_config, load_config, to_yaml
from phf.config.redteam import RedteamConfig, TamperConfig
from phf.config.schema import Config, RunConfig
from phf.config.training import ModelConfig, ObjectiveConfig, TrainConfig

__all__ = [
    "AnnotationsConfig",
    "CodeConfig",
    "Config",
    "DocumentsConfig",
    "EvaluationConfig",
    "ExecutorConfig",
    "InjectedTagConfig",
    "KLConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "RankingConfig",
    "RedteamConfig",
    "RunConfig",
    "ScenarioConfig",
    "ScorerConfig",
    "SegmenterConfig",
    "StoreConfig",
    "TamperConfig",
    "TokenizerConfig",
    "TrainConfig",
    "find_config",
    "load_config",
    "parse_quantile",
    "to_yaml",
]
