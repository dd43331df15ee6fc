"""Writes the pages that are made from the code: every key of the configuration, and the open sets."""

from __future__ import annotations

from pathlib import Path

from phf.config.describe import Key, describe
from phf.config.schema import Config
from phf.verbs import VERBS

_CONFIGURATION = """# Configuration

Every verb reads one configuration: YAML files, merged from left to right, and then `key=value` overrides.
A key that does not exist is an error that names the nearest one. `phf help KEY` prints the sentence of a key,
and `phf VERB CONFIG... --print-config` prints the whole configuration with a sentence above each key.

This page is generated from the schema in `phf/config/`. `NAME` stands for a name of your own.
"""


def write_pages(folder: Path) -> None:
    """Writes the generated pages into the folder of the documentation."""
    _write(folder / "configuration.md", _configuration())
    _write(folder / "verbs.md", _verbs())


def _configuration() -> str:
    lines = [_CONFIGURATION]
    for key in describe(Config):
        depth = key.name.count(".")
        if key.section is not None and depth == 0:
            lines += [f"\n## {key.name}\n", key.sentence, ""]
            lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        elif key.section is None:
            lines.append(_row(key))
    return "\n".join(lines) + "\n"


def _row(key: Key) -> str:
    kind = ", ".join(filter(None, (key.kind, key.bounds)))
    cells = (f"`{key.name}`", kind, f"`{key.default}`", key.sentence)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _verbs() -> str:
    lines = ["# Verbs\n", "What `phf VERB --help` prints. This page is generated from the command line.\n"]
    for name, verb in VERBS.items():
        lines += [f"## phf {name}\n", f"{verb.summary[0].upper()}{verb.summary[1:]}.\n", "```text"]
        lines += [*verb.examples.splitlines(), "```\n"]
    return "\n".join(lines)


def _write(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
