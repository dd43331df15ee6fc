"""Defines and loads the configuration: one schema for every verb of the command line."""

from phf.config.checks import parse_quantile
from phf.config.data import (
    AnnotationsConfig,
    DocumentsConfig,
    ExecutorConfig,
    ScorerConfig,
    SegmenterConfig,
    StoreConfig,
    TokenizerConfig,
)
from phf.config.evaluation import (
    DecoderConfig,
    EvaluationConfig,
    IndependentScorerConfig,
    InjectedTagConfig,
    ScenarioConfig,
)
from phf.config.fields import decisive, option
from phf.config.load import find_config, load_config, load_run_config, to_yaml
from phf.config.options import NoOptions, read_options
from phf.config.redteam import AttackerConfig, RedteamConfig, TamperConfig
from phf.config.schema import Config, RunConfig
from phf.config.training import ModelConfig, ObjectiveConfig, TrainConfig

__all__ = [
    "AnnotationsConfig",
    "AttackerConfig",
    "Config",
    "DecoderConfig",
    "DocumentsConfig",
    "EvaluationConfig",
    "ExecutorConfig",
    "IndependentScorerConfig",
    "InjectedTagConfig",
    "ModelConfig",
    "NoOptions",
    "ObjectiveConfig",
    "RedteamConfig",
    "RunConfig",
    "ScenarioConfig",
    "ScorerConfig",
    "SegmenterConfig",
    "StoreConfig",
    "TamperConfig",
    "TokenizerConfig",
    "TrainConfig",
    "decisive",
    "find_config",
    "load_config",
    "load_run_config",
    "option",
    "parse_quantile",
    "read_options",
    "to_yaml",
]
