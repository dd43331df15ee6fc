"""Where the prompts of a scenario come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from phf.base.errors import ConfigError
from phf.config.checks import check, home


@dataclass
class DatasetPromptsConfig:
    """Prompts from a dataset."""

    dataset: str
    """A Hugging Face dataset by name, its `save_to_disk` folder, or a file: jsonl (.gz, .zst) or parquet."""
    subset: str | None = None
    """Its subset (Hugging Face: configuration), if it has several."""
    split: str = "train"
    """Its split."""
    field: str = "prompt"
    """The field that holds the prompt; a dot goes into it: prompt.text."""
    where: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Only rows whose fields have these values, such as `{challenging: true}`; a dot goes into a field."""

    def __post_init__(self) -> None:
        self.dataset = home(self.dataset)


@dataclass
class HeldoutPromptsConfig:
    """Prompts that are beginnings of documents held out in the run's token store."""

    heldout: Literal["any", "good", "bad"]
    """`any`: a document's first segments. `good`, `bad`: it up to one of the first two neighbours of which
    one has a score above the threshold of the evaluation and the other not; both are of one document."""
    segments: int | None = 2
    """So many segments, or with `good` and `bad` the fewest; null: as many as `tokens` has room for."""
    tokens: int | None = None
    """Most tokens, counted as in the store: `any` is cut there; of `good` and `bad` the last segments
    are kept, one at least. Null: no limit."""

    def __post_init__(self) -> None:
        for name in ("segments", "tokens"):
            value = getattr(self, name)
            check(
                value is None or value >= 1,
                f"a scenario's prompts.{name} must be at least 1 or null, not {value}",
            )
        check(
            self.segments is not None or self.tokens is not None,
            "a scenario's prompts.segments and prompts.tokens must not both be null",
        )


PromptsConfig = None | str | list[Any] | DatasetPromptsConfig | HeldoutPromptsConfig


def parse_prompts(prompts: Any) -> PromptsConfig:
    """What `prompts` of a scenario says.

    Raises:
        ConfigError: It says nothing that is known.
    """
    if prompts is None or isinstance(prompts, str | list):
        return prompts
    for key, kind in {"dataset": DatasetPromptsConfig, "heldout": HeldoutPromptsConfig}.items():
        if isinstance(prompts, Mapping) and key in prompts:
            try:
                merged = OmegaConf.merge(OmegaConf.structured(kind), dict(prompts))
                return cast("DatasetPromptsConfig | HeldoutPromptsConfig", OmegaConf.to_object(merged))
            except OmegaConfBaseException as error:
                reason = str(error).partition("\n")[0]
                raise ConfigError(f"a scenario's prompts: {{{key}: ...}}: {reason}") from error
    raise ConfigError(
        "a scenario's prompts must be a file, phf:NAME, a list of strings, {dataset: ...} or "
        f"{{heldout: ...}}, not {prompts!r}"
    )
