"""Implements the attacker `random`: further seeds in a random order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from phf.redteam.attackers.base import Attacker, shuffled_seeds
from phf.redteam.pool import Attempt, Proposal, new_prompts


class Seeds(Attacker):
    """Further seeds: the baseline, which shows what random prompts reach at the same cost."""

    name = "random"

    def propose(
        self, pool: Sequence[Attempt], tried: Sequence[str], trial: int, rng: np.random.Generator
    ) -> list[Proposal]:
        further = shuffled_seeds(self.config, self.seeds, trial)[self.config.seeds :]
        return new_prompts((Proposal(seed, "seed") for seed in further), tried, self.config.proposals)
