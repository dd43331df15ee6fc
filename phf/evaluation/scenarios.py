"""The prompts of a scenario: none, a list, or a file. They depend on nothing that belongs to a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from phf.config import ScenarioConfig
from phf.errors import ConfigError, PhfError


def load_prompts(scenario: ScenarioConfig) -> list[str]:
    """The prompts of a scenario, in order; `[""]` where the model starts from nothing.

    Raises:
        ConfigError: There is no such file, or a prompt of the list is no text.
        PhfError: The file cannot be read, or holds no prompts.
    """
    if scenario.prompts is None:
        return [""]
    if isinstance(scenario.prompts, str):
        prompts = list(_read(Path(scenario.prompts)))
    else:
        for number, prompt in enumerate(scenario.prompts):
            if not isinstance(prompt, str):
                raise ConfigError(
                    f"prompts[{number}] of a scenario must be text, not {type(prompt).__name__}: {prompt!r}"
                )
        prompts = list(scenario.prompts)
    if not prompts:
        where = scenario.prompts if isinstance(scenario.prompts, str) else "the list of a scenario"
        raise PhfError(f"{where}: holds no prompts; leave `prompts` out to start from nothing")
    return prompts[: scenario.max_prompts]


def _read(path: Path) -> Iterator[str]:
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
