"""Defines the whole configuration as one dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field

from phf.config.checks import check
from phf.config.data import (
    AnnotationsConfig,
    DocumentsConfig,
    ScorerConfig,
    SegmenterConfig,
    StoreConfig,
    TokenizerConfig,
)
from phf.config.evaluation import EvaluationConfig
from phf.config.fields import option
from phf.config.redteam import RedteamConfig, TamperConfig
from phf.config.training import ModelConfig, ObjectiveConfig, TrainConfig


@dataclass
class RunConfig:
    """The name and the folder of a run."""

    name: str = "${objective.name}"
    """The run's name, as shown in reports."""
    folder: str = option("runs/${run.name}", path=True)
    """The run folder, for the configuration, checkpoints, logs, the exported model and its evaluation."""


@dataclass
class Config:
    """The whole configuration."""

    documents: DocumentsConfig = field(default_factory=DocumentsConfig)
    """The source documents: where they are and how they are read."""
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    """How a document is cut into the segments that are scored."""
    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    """The scorer, which measures the preference. Lower scores are better."""
    annotations: AnnotationsConfig = field(default_factory=AnnotationsConfig)
    """The annotations: the scores of every segment, stored apart from the documents."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """The tokenizer of the corpus."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """The token store: the tokenized corpus as memory-mapped arrays."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """The training objective: how the model learns from the scores."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The language model."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The pretraining run. Token counts include control tokens and `<|endoftext|>`."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """How misalignment is measured."""
    redteam: RedteamConfig = field(default_factory=RedteamConfig)
    """The search for prompts that make a model misbehave."""
    tamper: TamperConfig = field(default_factory=TamperConfig)
    """Finetuning of a model on bad text and on benign text, with measurements along the way."""
    run: RunConfig = field(default_factory=RunConfig)
    """The name and the folder of a run."""

    def __post_init__(self) -> None:
        keys = [scorer.key for scorer in (self.scorer, *self.annotations.also)]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        check(twice is None, f"two scorers keep their scores as {twice}: give one of them another column")

    def scorers(self) -> dict[str, ScorerConfig]:
        """All scorers of the annotations, keyed by the name under which their scores are stored."""
        return {scorer.key: scorer for scorer in (self.scorer, *self.annotations.also)}
