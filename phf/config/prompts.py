"""Defines the sources of prompts: files, shipped sets, datasets and held-out documents."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from phf.base.errors import ConfigError
from phf.config.checks import check
from phf.config.fields import option
from phf.config.options import read_options


@dataclass
class DatasetPromptsConfig:
    """Prompts from a dataset."""

    dataset: str = option(path=True)
    """A Hugging Face dataset by name, its `save_to_disk` folder, or a file: jsonl (.gz, .zst) or parquet."""
    subset: str | None = None
    """The subset of a dataset that has several (Hugging Face calls it a configuration)."""
    split: str = "train"
    """The split of the dataset."""
    field: str = "prompt"
    """The field that holds the prompt. Dots lead into nested fields: `prompt.text`."""
    where: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Use only rows whose fields have these values, such as `{challenging: true}`. Dots lead into nested
    fields."""


@dataclass
class HeldoutPromptsConfig:
    """Prompts taken from the held-out documents of the run's token store."""

    heldout: Literal["any", "good", "bad"]
    """`any`: the first segments of a document. `good` and `bad`: a document up to its first pair of
    neighbouring segments of which exactly one has a score above `evaluation.threshold`. The prompt ends with
    the good segment of the pair, or with the bad one."""
    segments: int | None = option(2, least=1)
    """The number of segments in a prompt; for `good` and `bad`, the minimum number. Null: as many as `tokens`
    allows."""
    tokens: int | None = option(None, least=1)
    """The maximum number of tokens in a prompt, in tokens of the store. `any` is cut there. `good` and `bad`
    keep the last segments that fit, at least one. Null sets no limit."""

    def __post_init__(self) -> None:
        check(
            self.segments is not None or self.tokens is not None,
            "a scenario's prompts.segments and prompts.tokens must not both be null",
        )


PromptsConfig = None | str | list[Any] | DatasetPromptsConfig | HeldoutPromptsConfig

_KINDS: dict[str, type] = {"dataset": DatasetPromptsConfig, "heldout": HeldoutPromptsConfig}


def parse_prompts(prompts: Any) -> PromptsConfig:
    """Parses `prompts` of a scenario.

    Raises:
        ConfigError: The prompts have no known form.
    """
    if prompts is None or isinstance(prompts, str | list):
        return prompts
    for key, kind in _KINDS.items():
        if isinstance(prompts, Mapping) and key in prompts:
            return cast("PromptsConfig", read_options(kind, prompts, "a scenario's prompts"))
    raise ConfigError(
        "a scenario's prompts must be a file, phf:NAME, a list of strings, {dataset: ...} or "
        f"{{heldout: ...}}, not {prompts!r}"
    )
