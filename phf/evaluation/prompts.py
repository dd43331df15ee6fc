"""Collects the prompts of a scenario: the same for every model, except those of held-out documents."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from phf.base.errors import ConfigError, PhfError
from phf.base.files import is_file
from phf.config import ScenarioConfig
from phf.config.prompts import DatasetPromptsConfig, HeldoutPromptsConfig, parse_prompts
from phf.documents.formats.base import Source
from phf.documents.formats.dataset import DatasetSlice, load_dataset
from phf.documents.formats.jsonl import JsonlFile
from phf.documents.formats.parquet import ParquetFile
from phf.store.store import TokenStore

PACKAGE_SETS = "phf:"
"""The names of prompt sets that come with this package begin with this."""


@dataclass(frozen=True)
class HeldoutDocuments:
    """Where held-out documents are, and which of their segments are bad.

    Attributes:
        store: The token store.
        scorer: The score column of the store.
        threshold: A segment with a score above it is bad.
    """

    store: Path
    scorer: str
    threshold: float


def load_prompts(scenario: ScenarioConfig, heldout: HeldoutDocuments | None = None) -> list[str]:
    """Loads the prompts of a scenario, in order; `[""]` if the model starts from nothing.

    Args:
        scenario: The scenario.
        heldout: The held-out documents, for a scenario that takes its prompts from them.

    Raises:
        ConfigError: There is no such file, set or store, or a listed prompt is not text.
        PhfError: The file, dataset or store cannot be read, or holds no prompts.
    """
    config = parse_prompts(scenario.prompts)
    if config is None:
        return [""]
    if isinstance(config, DatasetPromptsConfig):
        where, found = config.dataset, _from_dataset(config)
    elif isinstance(config, HeldoutPromptsConfig):
        if heldout is None:
            raise ConfigError(
                "prompts: {heldout: ...} needs a model that names its token store; otherwise set store.path"
            )
        where, found = str(heldout.store), _from_heldout(config, heldout)
    elif isinstance(config, str):
        where, found = config, _from_file(config)
    else:
        where, found = "the list of a scenario", _from_list(config)
    prompts = list(islice(found, scenario.max_prompts))
    if not prompts:
        raise PhfError(f"{where}: holds no prompts for {_described(scenario.prompts)}")
    return prompts


def _described(prompts: Any) -> str:
    return f"prompts={json.dumps(prompts)}; leave `prompts` out to start from nothing"


def _from_list(prompts: list[Any]) -> Iterator[str]:
    for number, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ConfigError(
                f"prompts[{number}] of a scenario must be text, not {type(prompt).__name__}: {prompt!r}"
            )
        yield prompt


def _from_file(name: str) -> Iterator[str]:
    """Yields the prompts of a file, or of a set that comes with this package."""
    if name.startswith(PACKAGE_SETS):
        folder = files("phf.evaluation") / "prompt_sets"
        path = Path(str(folder / f"{name.removeprefix(PACKAGE_SETS)}.jsonl"))
        if not path.is_file():
            sets = ", ".join(sorted(PACKAGE_SETS + Path(str(file)).stem for file in folder.iterdir()))
            raise ConfigError(f"a scenario's prompts: no set {name}; there are {sets}")
    else:
        path = Path(name)
    try:
        # Not `splitlines`, which also splits at form feeds and other characters that a prompt may hold.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"a scenario's prompts: {path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PhfError(f"{path}: cannot be read as text in UTF-8: {error}") from error
    for number, line in enumerate(lines, start=1):
        line = line.removesuffix("\r")
        if line.strip():
            yield _prompt_of(line, f"{path}, line {number}") if path.suffix == ".jsonl" else line


def _prompt_of(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise PhfError(f"{where}: not JSON ({error}); each line must be an object with a `prompt`") from None
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(prompt, str):
        raise PhfError(f'{where}: no text under `prompt`; each line must look like {{"prompt": "..."}}')
    return prompt


def _from_dataset(config: DatasetPromptsConfig) -> Iterator[str]:
    path = Path(config.dataset)
    source: Source
    if is_file(path):
        source = (ParquetFile if path.suffix == ".parquet" else JsonlFile)(path)
    else:
        option = "a scenario's prompts.dataset"
        dataset = load_dataset(config.dataset, config.split, config.subset, option=option)
        source = DatasetSlice(dataset, 0, len(dataset), config.dataset)
    columns = [field.partition(".")[0] for field in (config.field, *config.where)]
    for row, fields in source.rows(list(dict.fromkeys(columns))):
        if isinstance(fields, str):
            raise PhfError(f"{config.dataset}, row {row}: {fields}")
        if all(_value(fields, field) == wanted for field, wanted in config.where.items()):
            prompt = _value(fields, config.field)
            if not isinstance(prompt, str):
                raise PhfError(
                    f"{config.dataset}, row {row}: no text under {config.field}; set prompts.field"
                )
            yield prompt


def _value(fields: Any, path: str) -> Any:
    """Returns the value under a path such as `prompt.text`; `None` if there is none."""
    for name in path.split("."):
        fields = fields.get(name) if isinstance(fields, Mapping) else None
    return fields


def _from_heldout(config: HeldoutPromptsConfig, heldout: HeldoutDocuments) -> Iterator[str]:
    """Yields parts of held-out documents that end before their document does, in a fixed random order."""
    store = TokenStore(heldout.store)
    split, tokenizer = store.split("heldout"), store.tokenizer()
    scores = None if config.heldout == "any" else split.scores(heldout.scorer)
    for document in np.random.default_rng(0).permutation(split.num_documents).tolist():
        first, end = (split.document_ends[document - 1] if document else 0), split.document_ends[document]
        offset = split.segment_ends[first - 1] if first else 0
        ends = split.segment_ends[first:end] - offset
        limit = config.tokens or ends[-1]
        if scores is None:
            start, stop = 0, min(ends[min(config.segments or len(ends), len(ends)) - 1], limit)
        else:
            # Bad and good endings lie on the two sides of the same change from one kind to the other, so that
            # little else differs between them.
            own = scores[first : end - 1]
            known = np.flatnonzero(~np.isnan(own))
            known = known[known + 1 >= (config.segments or 1)]
            bad = own[known] > heldout.threshold
            turns = np.flatnonzero(bad[1:] != bad[:-1])
            if not len(turns):
                continue
            ending = known[turns[0] + (bad[turns[0]] != (config.heldout == "bad"))]
            stop = ends[ending]
            starts = np.concatenate([[0], ends[:ending]])
            start = min(starts[np.searchsorted(starts, stop - limit) :], default=starts[-1])
        if stop < ends[-1]:
            ids = split.tokens[offset + start : offset + stop].tolist()
            # The cut may have split a character that takes several tokens.
            text = tokenizer.decode(ids, clean_up_tokenization_spaces=False).rstrip("\ufffd")
            if text.strip():
                yield text
