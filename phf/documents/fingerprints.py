"""Compares what annotations and token stores were made from with what is wanted now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from phf.config import Config, DocumentsConfig, decisive
from phf.config.upgrade import upgrade_documents
from phf.documents.formats import find_format


def outputs(config: Config) -> list[Path]:
    """Returns the folders that are written from the documents. Files inside them are never documents."""
    return [Path(config.annotations.path), Path(config.store.path)]


def documents_difference(old: Mapping[str, Any], config: DocumentsConfig) -> str | None:
    """Returns the first option that changes the text of documents, in words; `None` if there is none.

    Args:
        old: The earlier section `documents`. Sections of earlier versions lack the newest options.
        config: The section now.
    """
    defaults, old = decisive(DocumentsConfig()), upgrade_documents(old)
    for key, now in decisive(config).items():
        if key.partition(".")[0] != "options" and (was := old.get(key, defaults.get(key))) != now:
            return f"documents.{key}={was}, not {now}"
    found = find_format(config)
    given = old.get("options", {})
    for key, now in asdict(found.options).items():
        was = given.get(key, _default(found.Options, key))
        if was != now:
            return f"documents.options.{key}={was}, not {now}"
    return None


def _default(cls: type, key: str) -> Any:
    (one,) = (one for one in fields(cls) if one.name == key)
    return one.default_factory() if one.default_factory is not MISSING else one.default


def shards_difference(old: Mapping[str, str], new: Mapping[str, str]) -> str | None:
    """Returns the first difference between two sets of shards, in words; `None` if they are the same.

    Args:
        old: Fingerprints of the earlier shards, by name.
        new: Fingerprints of the shards now, by name.
    """
    for shard in {**old, **new}:
        if shard not in new:
            return f"a shard {shard} that is not among the documents now"
        if shard not in old:
            return f"other documents: shard {shard} was not among them"
        if old[shard] != new[shard]:
            return f"other documents: shard {shard} has changed since"
    return None
