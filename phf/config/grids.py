"""Decoding grids: a field of a scenario that is a list makes a scenario of each of its values.

`temperature: [0.5, 1.0]` of the scenario `unconditional` makes `unconditional/temperature=0.5` and
`unconditional/temperature=1.0`; several lists make one scenario for each combination.
"""

from __future__ import annotations

import json
from itertools import product
from typing import Any

from omegaconf import DictConfig, OmegaConf

from phf.config.checks import check

FIELDS = (
    "temperature", "top_p", "top_k", "guidance", "safe_beams", "best_of", "max_new_tokens", "min_new_tokens",
)  # fmt: skip
"""The fields of a scenario that may be lists."""

Grids = dict[str, dict[str, list[Any]]]
"""By scenario and field."""


def take_grids(layer: DictConfig, grids: Grids) -> None:
    """Moves the lists of a layer of configuration into `grids`; a plain value ends an earlier list."""
    scenarios = OmegaConf.select(layer, "evaluation.scenarios", throw_on_resolution_failure=False)
    for key, scenario in scenarios.items_ex(resolve=False) if isinstance(scenarios, DictConfig) else ():
        name = str(key)
        for field in FIELDS if isinstance(scenario, DictConfig) else ():
            if field not in scenario:
                continue
            grid = grids.setdefault(name, {})
            grid.pop(field, None)
            if OmegaConf.is_list(scenario._get_node(field)):
                grid[field] = list(scenario.pop(field))
                check(bool(grid[field]), f"evaluation.scenarios.{name}.{field}: a list must hold some value")


def expand_grids(config: DictConfig, grids: Grids) -> None:
    """Replaces each scenario that has lists by one for each combination of their values, in its place."""
    scenarios: dict[str, Any] = {}
    for name, scenario in config.evaluation.scenarios.items():
        grid = grids.get(name, {})
        for values in product(*grid.values()):
            chosen = dict(zip(grid, values, strict=True))
            label = ",".join(f"{field}={json.dumps(value)}" for field, value in chosen.items())
            scenarios[f"{name}/{label}" if label else name] = OmegaConf.merge(scenario, chosen)
    config.evaluation.scenarios = scenarios
