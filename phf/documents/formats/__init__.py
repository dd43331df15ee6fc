"""Finds document formats by name."""

from __future__ import annotations

from phf.base.errors import ConfigError
from phf.config import DocumentsConfig, read_options
from phf.documents.formats.base import Format
from scorers.open_set import OpenSet

FORMATS: OpenSet[Format] = OpenSet(
    "format",
    Format,  # type: ignore[type-abstract]
    {
        "auto": "phf.documents.formats.auto:Auto",
        "folder": "phf.documents.formats.text:Folder",
        "huggingface": "phf.documents.formats.dataset:HuggingFace",
        "jsonl": "phf.documents.formats.jsonl:Jsonl",
        "parquet": "phf.documents.formats.parquet:Parquet",
        "scored": "phf.documents.formats.scored:Scored",
    },
    ConfigError,
)
"""Every format. A package adds one with an entry point of the group `phf.formats`."""


def find_format(config: DocumentsConfig) -> Format:
    """Builds the configured format.

    Raises:
        ConfigError: The format does not exist, or it has no such option.
    """
    cls = FORMATS.find(config.format)
    return cls(read_options(cls.Options, config.options, "documents.options", config.format))
