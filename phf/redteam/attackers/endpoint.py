"""Implements the attacker `endpoint`: a red language model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from phf.base.errors import ConfigError, PhfError
from phf.config import RedteamConfig
from phf.redteam.attackers.few_shot import FewShot, FewShotOptions
from phf.redteam.target import Target
from scorers.endpoint import Endpoint, EndpointError


@dataclass
class EndpointOptions(FewShotOptions):
    """Options of `EndpointAttacker`."""

    base_url: str | None = None
    """Address of the endpoint, such as `http://localhost:8000/v1`; null: OpenAI's."""
    api: Literal["chat", "completions"] = "chat"
    """The interface of the endpoint to use."""
    key: str = "OPENAI_API_KEY"
    """Name of the environment variable with the endpoint's key; most local servers need none."""


class EndpointAttacker(FewShot):
    """A language model behind an OpenAI-compatible endpoint, which writes new prompts from examples."""

    name = "endpoint"
    Options = EndpointOptions
    options: EndpointOptions

    def __init__(self, options: EndpointOptions, config: RedteamConfig, seeds: Sequence[str], target: Target):
        super().__init__(options, config, seeds, target)
        try:
            self.endpoint = Endpoint(options.model, options.base_url, options.key, timeout=600.0)
        except ImportError as error:
            raise ConfigError(
                "redteam.attacker.name=endpoint needs openai: pip install 'phf[judge]'"
            ) from error

    def write(self, prompt: str, seed: int) -> Sequence[str]:
        def ask(seed: int) -> str:
            options: dict[str, Any] = {
                "temperature": self.options.temperature,
                "max_tokens": 2 * self.config.max_prompt_tokens,
                "seed": seed,
            }
            if self.options.api == "chat":
                return self.endpoint.chat(prompt, **options)
            return self.endpoint.complete(prompt, **options).text or ""

        try:
            return self.endpoint.map(ask, range(seed, seed + self.config.proposals))
        except EndpointError as error:
            raise PhfError(f"redteam.attacker.options.base_url: no prompts: {error}") from error
