"""The model under attack: what it writes, how bad that is, and the tokens it takes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

from phf.base.errors import ConfigError, PhfError
from phf.config import Config, EvaluationConfig, ScenarioConfig
from phf.documents.segments import segmenter
from phf.evaluation.instruments import open_scorer, scorer_config, scorer_differs, segmenter_config
from phf.evaluation.results import result_identity
from phf.evaluation.sample_scores import ScoredSample, score_samples
from phf.inference.decoders import find_decoder
from phf.inference.generate import Sample, generate, prompt_room
from phf.inference.prompt_tokens import encode_prompt, inapplicable
from phf.model.loaded_model import Subject
from scorers.base import Scorer, ScorerError


class Target:
    """A model with the scenario that says how it is asked, and the scorer that judges what it writes.

    Args:
        subject: Where it is.
        config: Its part `evaluation`; scorer and segmenter too for a model that does not name its own.
        section: The section of the configuration that names the scenario; for errors.
        scenario: The scenario; the first if `None`.

    Raises:
        ConfigError: There is no such scenario or scorer.
    """

    def __init__(self, subject: Subject, config: Config, section: str, scenario: str | None):
        scenarios = config.evaluation.scenarios
        self.name = next(iter(scenarios)) if scenario is None else scenario
        if self.name not in scenarios:
            there = ", ".join(scenarios)
            raise ConfigError(f"{section}.scenario: no scenario {scenario!r}; there are {there}")
        self.subject = subject
        self.section = section
        self.evaluation = config.evaluation
        self.scenario = scenarios[self.name]
        self.scorer_config = scorer_config(subject, config)
        self.scorer = open_scorer(self.scorer_config)
        best_by = self.scenario.best_by
        self.best_by = open_scorer(best_by) if best_by else self.scorer
        self.segmenter_config = segmenter_config(subject, config)
        self.segment = segmenter(self.segmenter_config)
        self.model: Any = None

    def identity(self, prompts: Sequence[str], section: Any) -> dict[str, Any]:
        """All that decides what comes of an attack.

        Args:
            prompts: The prompts it starts from.
            section: Its section of the configuration.
        """
        decisive = EvaluationConfig(
            scenarios={self.name: self.scenario},
            threshold=self.evaluation.threshold,
            confidence=self.evaluation.confidence,
            seed=self.evaluation.seed,
        )
        identity = result_identity(
            self.subject, decisive, self.scorer.fingerprint, self.segmenter_config, {self.name: prompts}
        )
        return {**identity, "best_by": self.best_by.fingerprint, "attack": asdict(section)}

    def load(self) -> None:
        """Loads the model.

        Raises:
            ConfigError: The scenario makes no sense for it.
            PhfError: It is no causal LM with a tokenizer.
        """
        self.model, self.tokenizer, self.control = self.subject.load()
        if reason := inapplicable(self.scenario, self.control):
            raise ConfigError(
                f"evaluation.scenarios.{self.name}: {reason}; name another as {self.section}.scenario"
            )

    @cached_property
    def scorer_differs(self) -> bool | None:
        """Whether it is scored otherwise than its corpus was; `None` if that is not known."""
        return scorer_differs(self.subject, self.scorer)

    @property
    def tag(self) -> str:
        """The tag that the model is in fact given."""
        return self.scenario.tag if self.control.tags else "none"

    def room(self, scenario: ScenarioConfig) -> int:
        """Most tokens of a prompt, besides the tags before and in it.

        Raises:
            ConfigError: `max_new_tokens` leaves no room for one.
        """
        limits = (
            self.subject.facts.get("context_length"),
            getattr(self.model.config, "max_position_embeddings", None),
        )
        try:
            room = prompt_room(scenario, *limits, tag_length=self.control.tag_length)
            if not scenario.inject:
                return room
            # A token at least is the prompt's.
            tag, _ = encode_prompt(self.tokenizer, "", scenario.inject, self.control, room - 1)
            return room - len(tag)
        except ConfigError as error:
            raise ConfigError(f"evaluation.scenarios.{self.name}.{error}") from error

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, each segment on its own as in the corpus."""
        return encode_prompt(self.tokenizer, text, None, self.control, sys.maxsize, self.segment)[0]

    def cut(self, text: str, max_tokens: int) -> str:
        """The text without its beginning, if it has too many tokens."""
        ids = self.encode(text)
        return text if len(ids) <= max_tokens else str(self.tokenizer.decode(ids[-max_tokens:]))

    def write(
        self,
        prompts: Sequence[str],
        scenario: ScenarioConfig,
        seed: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[Sample]:
        """Continuations of prompts.

        Args:
            prompts: The prompts.
            scenario: How to decode.
            seed: Decides the samples.
            progress: Called with the number of samples that have just been finished.

        Raises:
            ConfigError: They cannot be decoded so.
            PhfError: The scorer fails that the best samples are kept by.
        """

        def choose(_: str, samples: list[Sample]) -> list[float | None]:
            return [one.score for one in self.judge(samples, scenario, self.best_by)]

        try:
            return generate(
                self.model,
                self.tokenizer,
                prompts,
                scenario,
                self.control,
                segment=self.segment,
                context_length=self.subject.facts.get("context_length"),
                seed=seed,
                batch_size=self.evaluation.batch_size,
                choose=choose,
                progress=progress,
            )
        except ConfigError as error:
            raise ConfigError(f"evaluation.scenarios.{self.name}.{error}") from error

    def cost(self, prompt: str, samples: Sequence[Sample], scenario: ScenarioConfig) -> int:
        """Tokens that the model read and wrote for the samples of a prompt, tags not counted.

        Each context of guidance, each beam and each text that `best_of` draws counts like a sample.
        """
        read = min(len(self.encode(prompt)), self.room(scenario)) * len(samples)
        written = sum(sample.num_tokens for sample in samples)
        return (read + written) * scenario.best_of * find_decoder(scenario, self.control).width

    def judge(
        self, samples: Sequence[Sample], scenario: ScenarioConfig, scorer: Scorer | None = None
    ) -> list[ScoredSample]:
        """Their scores, by the target's scorer if no other is given.

        Raises:
            PhfError: The scorer fails.
        """
        try:
            return score_samples(samples, scenario, scorer or self.scorer, self.segment)
        except ScorerError as error:
            raise PhfError(f"scenario {self.name}: {error}") from error
