"""What annotations and token stores are made from, and whether that is what is wanted now."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from phf.config import Config, TokenizerConfig
from phf.documents.documents import Shard

# What of the documents' configuration decides their text; where they are shows in the shards.
DECISIVE = ("text_field", "limit")
# Of documents that bring their scores too.
_DECISIVE_IF_SCORED = ("texts_field", "scores_field")


def outputs(config: Config) -> list[Path]:
    """Folders that are written from the documents, and are none where they lie among them."""
    return [Path(config.annotations.path), Path(config.store.path)]


def store_identity(config: Config, shards: Sequence[Shard], annotations: Mapping[str, Any]) -> dict[str, Any]:
    """What a store is made from; `annotations` by scorer, as columns can be added."""
    documents = asdict(config.documents)
    del documents["max_bad_rows"]
    scored = config.documents.format == "scored"
    return {
        "documents": documents,
        "segmenter": {"name": f"as published with the scores of {config.scorer.key}"}
        if scored
        else next(iter(annotations.values()))["segmenter"],
        "tokenizer": _tokenizer_identity(config.tokenizer),
        "store": {"heldout_fraction": config.store.heldout_fraction},
        "shards": {shard.name: shard.fingerprint() for shard in shards},
        "annotations": {name: manifest["scorer"]["fingerprint"] for name, manifest in annotations.items()},
    }


def _tokenizer_identity(config: TokenizerConfig) -> dict[str, Any]:
    if config.train:
        return {"train": True, "vocab_size": config.vocab_size}
    file = Path(config.name) / "tokenizer.json"
    digest = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()} if file.is_file() else {}
    return {"train": False, "name": config.name, **digest}


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """What differs, in words; `None` if the store can be used."""
    for section in ("documents", "segmenter", "tokenizer", "store"):
        keys = sorted({*old[section], *new[section]})
        if section == "documents":  # those of a store made before there was one of the keys lack it
            keys = [key for key in DECISIVE + _DECISIVE_IF_SCORED if key in old[section]]
        for key in keys:
            was, now = old[section].get(key), new[section].get(key)
            if was != now:
                return f"{section}.{key}={was}, not {now}"
    shards = shards_difference(old["shards"], new["shards"])
    if shards:
        return shards
    for scorer, fingerprint in new["annotations"].items():
        if old["annotations"].get(scorer, fingerprint) != fingerprint:
            return f"other annotations: {scorer} has another version or other options now"
    return None


def shards_difference(old: Mapping[str, str], new: Mapping[str, str]) -> str | None:
    """What differs between shards, given by name with their fingerprints; `None` if they are the same."""
    for shard in {**old, **new}:
        if shard not in new:
            return f"a shard {shard} that is not among the documents now"
        if shard not in old:
            return f"other documents: shard {shard} was not among them"
        if old[shard] != new[shard]:
            return f"other documents: shard {shard} has changed since"
    return None
