"""Expands decoding grids: a list in place of a number makes one scenario for each value.

`temperature: [0.5, 1.0]` of the scenario `unconditional` makes `unconditional/temperature=0.5` and
`unconditional/temperature=1.0`. Several lists make one scenario for each combination. The options of a
decoder may be lists too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

from omegaconf import DictConfig, OmegaConf

from phf.config.checks import check

FIELDS = ("temperature", "top_p", "top_k", "best_of", "max_new_tokens", "min_new_tokens")
"""The fields of a scenario that may be lists."""
_OPTIONS = "decoder.options"

Grids = dict[str, dict[str, list[Any]]]
"""Lists of values, by scenario and by field (for a decoder's option, its dotted key)."""


def take_grids(layer: DictConfig, grids: Grids) -> None:
    """Moves the lists of a layer of configuration into `grids`; a plain value replaces an earlier list."""
    scenarios = OmegaConf.select(layer, "evaluation.scenarios", throw_on_resolution_failure=False)
    for key, scenario in scenarios.items_ex(resolve=False) if isinstance(scenarios, DictConfig) else ():
        name = str(key)
        for field, holder in _candidates(scenario) if isinstance(scenario, DictConfig) else ():
            last = field.rpartition(".")[2]
            grid = grids.setdefault(name, {})
            grid.pop(field, None)
            if OmegaConf.is_list(holder._get_node(last)):
                grid[field] = list(holder.pop(last))
                check(bool(grid[field]), f"evaluation.scenarios.{name}.{field}: a list must hold some value")


def _candidates(scenario: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """Yields the fields of a layer's scenario that may be lists, each with the node that holds the field."""
    yield from ((field, scenario) for field in FIELDS if field in scenario)
    options = OmegaConf.select(scenario, _OPTIONS, throw_on_resolution_failure=False)
    if isinstance(options, DictConfig):
        yield from ((f"{_OPTIONS}.{option}", options) for option in list(options))


def expand_grids(config: DictConfig, grids: Grids) -> None:
    """Replaces each scenario that has lists, in place, by one scenario for each combination of the values."""
    scenarios: dict[str, Any] = {}
    for name, scenario in config.evaluation.scenarios.items():
        grid = grids.get(name, {})
        for values in product(*grid.values()):
            chosen = [f"{field}={json.dumps(value)}" for field, value in zip(grid, values, strict=True)]
            label = ",".join(one.removeprefix(f"{_OPTIONS}.") for one in chosen)
            made = OmegaConf.merge(scenario, OmegaConf.from_dotlist(chosen))
            scenarios[f"{name}/{label}" if label else name] = made
    config.evaluation.scenarios = scenarios
