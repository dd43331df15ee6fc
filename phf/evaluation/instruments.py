"""Gathers what a model is measured with: scorers, segmenter and prompts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from phf.annotation.manifest import ScorerRecord
from phf.base.errors import ConfigError, PhfError
from phf.config import Config, ScenarioConfig, ScorerConfig, SegmenterConfig
from phf.documents.segments import Segmenter, segmenter
from phf.evaluation.prompts import HeldoutDocuments, load_prompts
from phf.evaluation.results import JudgeRecord, RunInfo
from phf.evaluation.sample_scores import ScoredSample, score_samples
from phf.inference.generate import Sample
from phf.model.model_folder import ModelFacts, ModelFolder, RunRecord
from scorers import load_scorer
from scorers.base import Scorer, ScorerError

log = logging.getLogger("phf")


@dataclass(frozen=True)
class Instruments:
    """The scorers, the segmenter and the prompts that a model is measured with.

    Attributes:
        source: The model.
        config: The section `evaluation` is used. For a model that does not name its own scorer, segmenter and
            store, those sections are used too.
    """

    source: ModelFolder
    config: Config

    @cached_property
    def scorer_config(self) -> ScorerConfig:
        """The main scorer: `evaluation.scorer` if given, else the one of training, else `scorer`."""
        config, facts = self.config, self.source.facts
        if config.evaluation.scorer is not None:
            return config.evaluation.scorer
        if facts is None:
            return config.scorer
        own = ScorerConfig(facts.scorer.name, facts.scorer.options)
        if self.source.run and (config.scorer.name, config.scorer.options) != (own.name, own.options):
            log.warning(
                "%s: scored by %s as in training, not by scorer.name; set evaluation.scorer.name to use "
                "another scorer",
                self.source.folder,
                own.name,
            )
        return own

    @cached_property
    def scorer(self) -> Scorer:
        """The main scorer, loaded.

        Raises:
            ConfigError: There is no scorer of this name, or it has no such options.
        """
        return _open(self.scorer_config)

    @cached_property
    def others(self) -> dict[str, Scorer]:
        """The scorers besides the main one, by the names of their score columns.

        Raises:
            ConfigError: There is no scorer of a name, or two scorers have the same column.
        """
        wanted = self.config.evaluation.scorers
        names = [self.scorer_config.key, *(one.key for one in wanted)]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    f"evaluation.scorers: two scorers keep their scores as {name}: set column for one of them"
                )
        return {one.key: _open(one) for one in wanted}

    @cached_property
    def segmenter_config(self) -> SegmenterConfig:
        """How the model's corpus was segmented; the section `segmenter` if the model does not say."""
        return self.source.facts.segmenter if self.source.facts else self.config.segmenter

    @cached_property
    def segment(self) -> Segmenter:
        """Cuts text in the same way as the corpus."""
        return segmenter(self.segmenter_config)

    @cached_property
    def scorer_differs(self) -> bool | None:
        """Whether samples and training corpus have different scorers; `None` if that is unknown."""
        trained_on = self.source.facts and self.source.facts.scorer
        if not trained_on or trained_on.fingerprint is None:
            return None
        if trained_on.fingerprint != self.scorer.fingerprint:
            log.warning(
                "%s was trained on scores of %s (%s), but its samples are scored by %s (%s): "
                "thresholds of one do not carry over to the other",
                self.source.folder,
                trained_on.name,
                trained_on.fingerprint,
                self.scorer.name,
                self.scorer.fingerprint,
            )
        return trained_on.fingerprint != self.scorer.fingerprint

    def selector(self, scenario: ScenarioConfig) -> Scorer:
        """Returns the scorer that selects the best of several samples in a scenario."""
        return _open(scenario.best_by) if scenario.best_by else self.scorer

    def score(
        self, name: str, samples: Sequence[Sample], scenario: ScenarioConfig, scorer: Scorer | None = None
    ) -> list[ScoredSample]:
        """Scores samples.

        Args:
            name: The name of the scenario, for error messages.
            samples: The samples.
            scenario: How they were drawn.
            scorer: The scorer to use; the main scorer if `None`.

        Raises:
            PhfError: The scorer fails.
        """
        try:
            return score_samples(samples, scenario, scorer or self.scorer, self.segment)
        except ScorerError as error:
            raise PhfError(f"scenario {name}: {error}") from error

    def prompts(self, scenarios: Mapping[str, ScenarioConfig]) -> dict[str, list[str]]:
        """Loads the prompts of scenarios.

        Raises:
            ConfigError: A scenario names a file, set or store that does not exist.
            PhfError: The prompts cannot be read.
        """
        prompts = {}
        for name, scenario in scenarios.items():
            try:
                prompts[name] = load_prompts(scenario, self.heldout_documents)
            except ConfigError as error:
                raise ConfigError(f"evaluation.scenarios.{name}: {error}") from error
        return prompts

    @property
    def heldout_documents(self) -> HeldoutDocuments:
        """The held-out documents of the model's store; of the configured store if the model names none."""
        facts, threshold = self.source.facts, self.config.evaluation.threshold
        if facts is None:
            return HeldoutDocuments(Path(self.config.store.path), self.config.scorer.key, threshold)
        return HeldoutDocuments(Path(facts.store or self.config.store.path), facts.scorer.key, threshold)

    # Records for the results.

    def scorer_record(self) -> ScorerRecord:
        """The main scorer, as the results record it."""
        return replace(ScorerRecord.of(self.scorer_config, self.scorer), name=self.scorer.name)

    def other_records(self) -> dict[str, JudgeRecord]:
        """The other scorers, as the results record them."""
        return {
            one.key: JudgeRecord(
                **vars(ScorerRecord.of(one, self.others[one.key])) | {"name": self.others[one.key].name},
                threshold=one.threshold,
            )
            for one in self.config.evaluation.scorers
        }

    def run_info(self, network: Any) -> RunInfo:
        """The model and the run that it comes from, as the results record them."""
        run, known = self.source.run, self.source.run or self.source.facts
        return RunInfo(
            run.name if run else self.source.folder.resolve().name,
            str(self.source.folder),
            known.objective if known else None,
            _uses_scores(known),
            known.tokens if known else None,
            run.wall_seconds if run else None,
            network.num_parameters(),
        )


def _uses_scores(known: RunRecord | ModelFacts | None) -> bool | None:
    if known is None:
        return None
    # Files of earlier versions do not say. Of their objectives, only `mle` used no scores.
    return known.objective != "mle" if known.uses_scores is None else known.uses_scores


def _open(wanted: ScorerConfig) -> Scorer:
    try:
        return load_scorer(wanted.name, **wanted.options)
    except ScorerError as error:
        raise ConfigError(f"the samples cannot be scored: {error}") from error
