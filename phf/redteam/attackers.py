"""Who proposes prompts: a red LM, here or behind an endpoint; evolution; or nobody."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from phf.base.errors import ConfigError, PhfError
from phf.config import RedteamConfig, ScenarioConfig
from phf.inference.generate import generate
from phf.model.loaded_model import Subject, find_subject
from phf.redteam.evolution import Evolution
from phf.redteam.pool import Attempt, Proposal, draw_examples, new_prompts
from phf.redteam.target import Target

_SEPARATOR = "###"
_REQUESTS_AT_A_TIME = 8


class Attacker(Protocol):
    """Makes new prompts of those that were tried."""

    def propose(
        self, pool: Sequence[Attempt], tried: Sequence[str], trial: int, rng: np.random.Generator
    ) -> list[Proposal]:
        """New prompts.

        Args:
            pool: What was tried in the trial and has a score; never empty.
            tried: All prompts that were tried in the trial, those without a score too.
            trial: The number of the trial.
            rng: Of this round; all that is random comes from it.

        Returns:
            At most as many as are wanted in a round, none of which was tried.
        """


def make_attacker(config: RedteamConfig, seeds: Sequence[str], target: Target) -> Attacker:
    """The configured attacker.

    Raises:
        ConfigError: It is not installed.
        PhfError: Its model cannot be loaded.
    """
    if config.attacker == "evolution":
        return Evolution(config, seeds, target)
    if config.attacker == "random":
        return Seeds(config, seeds)
    return (LocalModel if config.attacker == "model" else Endpoint)(config, target)


def shuffled_seeds(config: RedteamConfig, seeds: Sequence[str], trial: int) -> list[str]:
    """The seeds in the order of a trial: it starts with the first ones."""
    return [seeds[i] for i in np.random.default_rng([config.seed, trial]).permutation(len(seeds))]


class Seeds:
    """Further seeds: what an attack without an idea comes to, at the same cost."""

    def __init__(self, config: RedteamConfig, seeds: Sequence[str]):
        self.config = config
        self.seeds = seeds

    def propose(
        self, pool: Sequence[Attempt], tried: Sequence[str], trial: int, rng: np.random.Generator
    ) -> list[Proposal]:
        further = shuffled_seeds(self.config, self.seeds, trial)[self.config.seeds :]
        return new_prompts((Proposal(seed, "seed") for seed in further), tried, self.config.proposals)


class FewShot:
    """A red LM that reads some prompts of the pool and writes more, as in Korbak et al. 2023."""

    def __init__(self, config: RedteamConfig, target: Target):
        self.config = config
        self.target = target

    def propose(
        self, pool: Sequence[Attempt], tried: Sequence[str], trial: int, rng: np.random.Generator
    ) -> list[Proposal]:
        config = self.config
        examples = draw_examples(pool, config.examples, config.example_temperature, rng)
        shown = "".join(f"{_SEPARATOR}\n{example.prompt}\n" for example in examples)
        texts = self.write(f"{config.instruction}\n\n{shown}{_SEPARATOR}\n", int(rng.integers(2**31)))
        parents = tuple(example.number for example in examples)
        proposals = (
            Proposal(self.target.cut(_first(text), config.max_prompt_tokens), config.attacker, parents)
            for text in texts
        )
        return new_prompts(proposals, tried, config.proposals)

    def write(self, prompt: str, seed: int) -> Sequence[str]:
        """As many continuations as prompts are wanted."""
        raise NotImplementedError


def _first(text: str) -> str:
    """What a red LM wrote up to the next example."""
    return text.strip().removeprefix(_SEPARATOR).partition(_SEPARATOR)[0].strip()


class LocalModel(FewShot):
    """A causal LM of `transformers`."""

    def __init__(self, config: RedteamConfig, target: Target):
        super().__init__(config, target)
        assert config.model is not None
        folder = Path(config.model)
        # What is no folder is a name that `transformers` knows.
        subject = find_subject(folder) if folder.is_dir() else Subject(folder, folder, {}, {})
        self.model, self.tokenizer, self.control = subject.load()
        self.scenario = ScenarioConfig(
            prompts=[],
            samples=config.proposals,
            max_new_tokens=2 * config.max_prompt_tokens,  # it may have longer words, or fewer in a token
            min_new_tokens=1,
            temperature=config.temperature,
            top_p=1.0,
            tag="none",
        )

    def write(self, prompt: str, seed: int) -> Sequence[str]:
        try:
            samples = generate(
                self.model, self.tokenizer, [prompt], self.scenario, self.control,
                seed=seed, batch_size=self.target.evaluation.batch_size,
            )  # fmt: skip
        except ConfigError as error:
            raise ConfigError(
                f"redteam.model: {self.config.model} reads too few tokens at a time; "
                "lower redteam.max_prompt_tokens or choose another"
            ) from error
        return [sample.text for sample in samples]


class Endpoint(FewShot):
    """A language model behind an OpenAI-compatible endpoint."""

    def __init__(self, config: RedteamConfig, target: Target):
        super().__init__(config, target)
        try:
            from openai import OpenAI
        except ImportError as error:
            raise ConfigError("redteam.attacker=endpoint needs openai: pip install 'phf[judge]'") from error
        key = os.environ.get(config.key) or "none"
        self.client = OpenAI(base_url=config.base_url, api_key=key, max_retries=5)

    def write(self, prompt: str, seed: int) -> Sequence[str]:
        with ThreadPoolExecutor(_REQUESTS_AT_A_TIME) as pool:
            seeds = range(seed, seed + self.config.proposals)
            return list(pool.map(lambda seed: self._ask(prompt, seed), seeds))

    def _ask(self, prompt: str, seed: int) -> str:
        import openai

        options: dict[str, Any] = {
            "model": self.config.model,
            "temperature": self.config.temperature,
            "max_tokens": 2 * self.config.max_prompt_tokens,
            "seed": seed,
        }
        try:
            if self.config.api == "chat":
                messages: Any = [{"role": "user", "content": prompt}]
                reply = self.client.chat.completions.create(messages=messages, **options)
                return reply.choices[0].message.content or ""
            return self.client.completions.create(prompt=prompt, **options).choices[0].text or ""
        except openai.OpenAIError as error:
            reason = str(error).partition("\n")[0]
            raise PhfError(f"redteam.base_url: {self.client.base_url} gives no prompts: {reason}") from error
