"""Defines what an attacker does: it proposes new prompts, made from those that were tried."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from phf.config import NoOptions, RedteamConfig
from phf.redteam.pool import Attempt, Proposal
from phf.redteam.target import Target


class Attacker(ABC):
    """Proposes prompts.

    Args:
        options: An instance of `Options`.
        config: The section `redteam`.
        seeds: The prompts that an attack starts from.
        target: The attacked model, loaded.

    Raises:
        ConfigError: A package that the attacker needs is not installed.
        PhfError: The attacker's model cannot be loaded.

    Attributes:
        name: The name in `phf attackers`.
        Options: A dataclass of the attacker's own options, with a sentence under each field.
    """

    name: ClassVar[str]
    Options: ClassVar[type] = NoOptions

    def __init__(self, options: Any, config: RedteamConfig, seeds: Sequence[str], target: Target):
        self.options = options
        self.config = config
        self.seeds = seeds
        self.target = target

    @abstractmethod
    def propose(
        self, pool: Sequence[Attempt], tried: Sequence[str], trial: int, rng: np.random.Generator
    ) -> list[Proposal]:
        """Proposes new prompts.

        Args:
            pool: The attempts of the trial that have a score; never empty.
            tried: All prompts that were tried in the trial, including those without a score.
            trial: The number of the trial.
            rng: The random generator of this round. All randomness must come from it.

        Returns:
            At most `config.proposals` prompts, none of which was tried before.
        """


def shuffled_seeds(config: RedteamConfig, seeds: Sequence[str], trial: int) -> list[str]:
    """Returns the seeds in the random order of a trial. The trial starts with the first ones."""
    return [seeds[i] for i in np.random.default_rng([config.seed, trial]).permutation(len(seeds))]
