"""Implements the attacker `model`: a red language model on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from phf.base.errors import ConfigError
from phf.base.files import is_folder
from phf.config import RedteamConfig, ScenarioConfig, SegmenterConfig
from phf.inference.generate import generate
from phf.inference.loaded_model import load_model
from phf.model.model_folder import ModelFolder, find_model
from phf.redteam.attackers.few_shot import FewShot, FewShotOptions
from phf.redteam.target import Target


class LocalModel(FewShot):
    """A causal LM of `transformers`, which writes new prompts from examples."""

    name = "model"
    Options = FewShotOptions

    def __init__(self, options: FewShotOptions, config: RedteamConfig, seeds: Sequence[str], target: Target):
        super().__init__(options, config, seeds, target)
        folder = Path(options.model)
        # If it is not a folder, it is a name that `transformers` knows.
        source = find_model(folder) if is_folder(folder) else ModelFolder(folder, folder)
        self.model = load_model(source, SegmenterConfig("document"))
        self.scenario = ScenarioConfig(
            prompts=[],
            samples=config.proposals,
            max_new_tokens=2 * config.max_prompt_tokens,  # its tokens may be shorter than the target's
            min_new_tokens=1,
            temperature=options.temperature,
            top_p=1.0,
            tag="none",
        )

    def write(self, prompt: str, seed: int) -> Sequence[str]:
        batch_size = self.target.evaluation.batch_size
        try:
            samples = generate(self.model, [prompt], self.scenario, seed=seed, batch_size=batch_size)
        except ConfigError as error:
            raise ConfigError(
                f"redteam.attacker.options.model: the context of {self.options.model} is too short; "
                "lower redteam.max_prompt_tokens or choose another model"
            ) from error
        return [sample.text for sample in samples]
