"""Everything there is to configure, as one schema."""

from __future__ import annotations

from dataclasses import dataclass, field

from phf.config.checks import check, home
from phf.config.data import (
    AnnotationsConfig,
    DocumentsConfig,
    ScorerConfig,
    SegmenterConfig,
    StoreConfig,
    TokenizerConfig,
)
from phf.config.evaluation import EvaluationConfig
from phf.config.redteam import RedteamConfig, TamperConfig
from phf.config.training import ModelConfig, ObjectiveConfig, TrainConfig


@dataclass
class RunConfig:
    """Where a run is kept."""

    name: str = "${objective.name}"
    """The run's name, as shown in reports."""
    folder: str = "runs/${run.name}"
    """Configuration, checkpoints, logs, the exported model and its evaluation."""

    def __post_init__(self) -> None:
        self.folder = home(self.folder)


@dataclass
class Config:
    """Everything there is to configure."""

    documents: DocumentsConfig = field(default_factory=DocumentsConfig)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    annotations: AnnotationsConfig = field(default_factory=AnnotationsConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    redteam: RedteamConfig = field(default_factory=RedteamConfig)
    tamper: TamperConfig = field(default_factory=TamperConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        keys = [scorer.key for scorer in (self.scorer, *self.annotations.also)]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        check(twice is None, f"two scorers keep their scores as {twice}: give one of them another column")

    def scorers(self) -> dict[str, ScorerConfig]:
        """All that annotate, by the name of their scores."""
        return {scorer.key: scorer for scorer in (self.scorer, *self.annotations.also)}
