"""Finds attackers by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from phf.base.errors import ConfigError
from phf.config import AttackerConfig, RedteamConfig, read_options
from phf.redteam.attackers.base import Attacker
from phf.redteam.target import Target
from scorers.open_set import OpenSet

ATTACKERS: OpenSet[Attacker] = OpenSet(
    "attacker",
    Attacker,  # type: ignore[type-abstract]
    {
        "endpoint": "phf.redteam.attackers.endpoint:EndpointAttacker",
        "evolution": "phf.redteam.attackers.evolution:Evolution",
        "model": "phf.redteam.attackers.local_model:LocalModel",
        "random": "phf.redteam.attackers.seeds:Seeds",
    },
    ConfigError,
)
"""Every attacker. A package adds one with an entry point of the group `phf.attackers`."""


def check_attacker(config: AttackerConfig) -> tuple[type[Attacker], Any]:
    """Finds the class of the configured attacker, and reads its options.

    Raises:
        ConfigError: There is no attacker of this name, or it has no such option.
    """
    cls = ATTACKERS.find(config.name)
    options: Any = read_options(cls.Options, config.options, "redteam.attacker.options", config.name)
    return cls, options


def make_attacker(config: RedteamConfig, seeds: Sequence[str], target: Target) -> Attacker:
    """Makes the configured attacker.

    Raises:
        ConfigError: There is no attacker of this name, or a package that it needs is not installed.
        PhfError: The attacker's model cannot be loaded.
    """
    cls, options = check_attacker(config.attacker)
    return cls(options, config, seeds, target)
