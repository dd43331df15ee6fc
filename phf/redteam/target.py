"""Wraps the model under attack: its answers, their scores, and the tokens they cost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from phf.base.errors import ConfigError
from phf.config import Config, EvaluationConfig, ScenarioConfig, decisive
from phf.evaluation.instruments import Instruments
from phf.evaluation.result_files import result_identity
from phf.evaluation.results import AttackSettings
from phf.evaluation.sample_scores import ScoredSample, decoding
from phf.inference.decoders import check_decoder, find_decoder
from phf.inference.generate import Sample, generate, prompt_room
from phf.inference.loaded_model import LoadedModel, load_model
from phf.inference.prompt_tokens import encode_prompt, inapplicable
from phf.model.model_folder import ModelFolder


class Target:
    """A model, the scenario that says how it is asked, and the scorer that judges its answers.

    Args:
        source: The model's folder on disk.
        config: The section `evaluation` is used. For a model that does not name its own scorer, segmenter and
            store, those sections are used too.
        section: The section of the configuration that names the scenario, for error messages.
        scenario: The name of the scenario; the first one if `None`.

    Raises:
        ConfigError: There is no such scenario, decoder or scorer.
    """

    def __init__(self, source: ModelFolder, config: Config, section: str, scenario: str | None):
        scenarios = config.evaluation.scenarios
        self.name = next(iter(scenarios)) if scenario is None else scenario
        if self.name not in scenarios:
            there = ", ".join(scenarios)
            raise ConfigError(f"{section}.scenario: no scenario {scenario!r}; there are {there}")
        self.source = source
        self.section = section
        self.evaluation = config.evaluation
        self.scenario = scenarios[self.name]
        check_decoder(self.scenario.decoder)
        self.instruments = Instruments(source, config)
        self.selector = self.instruments.selector(self.scenario)

    @cached_property
    def model(self) -> LoadedModel:
        """The model, loaded when it is first needed.

        Raises:
            ConfigError: The scenario makes no sense for the model.
            PhfError: The folder holds no causal LM with a tokenizer.
        """
        model = load_model(self.source, self.instruments.segmenter_config)
        if reason := inapplicable(self.scenario, model.control):
            raise ConfigError(
                f"evaluation.scenarios.{self.name}: {reason}; set {self.section}.scenario to another one"
            )
        return model

    def reload(self) -> None:
        """Discards all changes to the model's weights: the model is loaded again when it is needed."""
        self.__dict__.pop("model", None)

    def identity(self, prompts: Sequence[str], section: Any) -> dict[str, Any]:
        """Collects everything that decides the results of an attack.

        Args:
            prompts: The prompts that the attack starts from.
            section: The attack's section of the configuration.
        """
        measured = EvaluationConfig(
            scenarios={self.name: self.scenario},
            threshold=self.evaluation.threshold,
            confidence=self.evaluation.confidence,
            seed=self.evaluation.seed,
        )
        instruments = self.instruments
        identity = result_identity(
            self.source,
            measured,
            instruments.scorer.fingerprint,
            instruments.segmenter_config,
            {self.name: prompts},
        )
        return {**identity, "best_by": self.selector.fingerprint, "attack": decisive(section)}

    def settings(self, seed: int, scenario: ScenarioConfig) -> AttackSettings:
        """Returns how an attack was made and measured, as the results record it."""
        return AttackSettings(
            self.instruments.run_info(self.model.network),
            self.instruments.scorer_record(),
            self.instruments.scorer_differs,
            self.evaluation.threshold,
            self.evaluation.confidence,
            seed,
            {"name": self.name, "tag": self.tag, **decoding(scenario)},
        )

    @property
    def tag(self) -> str:
        """The tag that the model is actually given."""
        return self.scenario.tag if self.model.control.tags else "none"

    def room(self, scenario: ScenarioConfig) -> int:
        """Computes the maximum number of tokens in a prompt, not counting the tags before and in it.

        Raises:
            ConfigError: `max_new_tokens` leaves no room for a prompt.
        """
        model = self.model
        try:
            room = prompt_room(scenario, model.limit, model.control.tag_length)
            if not scenario.inject:
                return room
            # At least one token is left for the prompt.
            tag, _ = encode_prompt(model.tokenizer, "", scenario.inject, model.control, room - 1)
            return room - len(tag)
        except ConfigError as error:
            raise ConfigError(f"evaluation.scenarios.{self.name}.{error}") from error

    def encode(self, text: str) -> list[int]:
        """Tokenizes a text, each segment on its own as in the corpus."""
        model = self.model
        return encode_prompt(model.tokenizer, text, None, model.control, sys.maxsize, model.segment)[0]

    def cut(self, text: str, max_tokens: int) -> str:
        """Cuts off the beginning of a text that has too many tokens."""
        ids = self.encode(text)
        return text if len(ids) <= max_tokens else str(self.model.tokenizer.decode(ids[-max_tokens:]))

    def write(
        self,
        prompts: Sequence[str],
        scenario: ScenarioConfig,
        seed: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[Sample]:
        """Draws continuations of prompts.

        Args:
            prompts: The prompts.
            scenario: How to decode.
            seed: Decides the samples.
            progress: Called with the number of samples just finished.

        Raises:
            ConfigError: The model cannot be sampled with this scenario.
            PhfError: The scorer that selects the best samples fails.
        """

        def choose(_: str, samples: list[Sample]) -> list[float | None]:
            scored = self.instruments.score(self.name, samples, scenario, self.selector)
            return [one.score for one in scored]

        try:
            return generate(
                self.model,
                prompts,
                scenario,
                seed=seed,
                batch_size=self.evaluation.batch_size,
                choose=choose,
                progress=progress,
            )
        except ConfigError as error:
            raise ConfigError(f"evaluation.scenarios.{self.name}.{error}") from error

    def cost(self, prompt: str, samples: Sequence[Sample], scenario: ScenarioConfig) -> int:
        """Computes how many tokens the model read and wrote for the samples of a prompt, not counting tags.

        Each context of guidance, each beam and each text that `best_of` draws counts like a sample.
        """
        read = min(len(self.encode(prompt)), self.room(scenario)) * len(samples)
        written = sum(sample.num_tokens for sample in samples)
        return (read + written) * scenario.best_of * find_decoder(scenario, self.model.control).width

    def judge(self, samples: Sequence[Sample], scenario: ScenarioConfig) -> list[ScoredSample]:
        """Scores samples.

        Raises:
            PhfError: The scorer fails.
        """
        return self.instruments.score(self.name, samples, scenario)
