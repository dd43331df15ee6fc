"""Defines the manifest of a token store: its sources, its size, and the distribution of its scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from phf.annotation.manifest import Manifest, ScorerRecord
from phf.base.typed_json import to_json
from phf.config import Config, ScorerConfig, TokenizerConfig
from phf.documents.fingerprints import documents_difference, shards_difference
from phf.documents.shards import Shard


@dataclass(frozen=True)
class SplitCounts:
    """Size of a split."""

    documents: int
    segments: int
    tokens: int


@dataclass(frozen=True)
class StoreCounts:
    """Size of a store.

    Attributes:
        train: The training split.
        heldout: The held-out split.
        empty_documents: Documents without tokens, which are left out.
        bad_rows: Rows that could not be read; known only for documents that brought their scores.
    """

    train: SplitCounts
    heldout: SplitCounts
    empty_documents: int
    bad_rows: int = 0


@dataclass(frozen=True)
class ColumnRecord:
    """A column of scores: its scorer, and the distribution of its scores of the training text.

    Attributes:
        scorer: The scorer.
        mean: Mean score of the segments; `None` if none has a score.
        std: Standard deviation of these scores.
        num_unscored: Segments without a score.
        quantiles: For each of `segments`, `tokens` and `documents`, the scores at the shares 0 to 1 in steps
            of 0.001.
    """

    scorer: ScorerRecord
    mean: float | None = None
    std: float | None = None
    num_unscored: int = 0
    quantiles: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass
class StoreManifest:
    """The manifest of a store.

    Attributes:
        documents: The section `documents` of the configuration.
        segmenter: The settings that decide where texts are cut.
        tokenizer: The settings that decide the tokenizer.
        store: The settings that decide the splits.
        shards: Fingerprints of the shards, by name.
        annotations: Fingerprints of the scorers, by column.
        vocabulary: Size of the vocabulary, and the eos token.
        counts: Size of the store.
        scores: The columns of scores, by name.
        versions: Versions of the software.
        format: Version of the layout.
    """

    documents: dict[str, Any]
    segmenter: dict[str, Any]
    tokenizer: dict[str, Any]
    store: dict[str, Any]
    shards: dict[str, str]
    annotations: dict[str, str | None]
    vocabulary: dict[str, Any] = field(default_factory=dict)
    counts: StoreCounts = field(
        default_factory=lambda: StoreCounts(SplitCounts(0, 0, 0), SplitCounts(0, 0, 0), 0)
    )
    scores: dict[str, ColumnRecord] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    format: int = 1

    @classmethod
    def new(
        cls, config: Config, shards: Sequence[Shard], annotations: Mapping[str, Manifest]
    ) -> StoreManifest:
        """Builds the manifest of a store that is about to be made.

        Args:
            config: The configuration.
            shards: The documents.
            annotations: The manifest of annotations of each column; empty if the documents brought their
                scores.
        """
        documents = asdict(config.documents)
        del documents["max_bad_rows"]
        segmenter = {"name": f"as published with the scores of {config.scorer.key}"}
        if annotations:
            segmenter = next(iter(annotations.values())).segmenter
        return cls(
            documents,
            segmenter,
            _tokenizer_identity(config.tokenizer),
            {"heldout_fraction": config.store.heldout_fraction},
            {shard.name: shard.fingerprint() for shard in shards},
            {name: manifest.scorer.fingerprint for name, manifest in annotations.items()},
        )

    def difference(self, wanted: StoreManifest, config: Config) -> str | None:
        """Returns the first difference from the wanted store, in words; `None` if this store can be used."""
        if changed := documents_difference(self.documents, config.documents):
            return changed
        for section in ("segmenter", "tokenizer", "store"):
            old, new = getattr(self, section), getattr(wanted, section)
            for key in sorted({*old, *new}, key=lambda key: (key != "train", key)):
                if old.get(key) != new.get(key):
                    return f"{section}.{key}={old.get(key)}, not {new.get(key)}"
        if shards := shards_difference(self.shards, wanted.shards):
            return shards
        for scorer, fingerprint in wanted.annotations.items():
            if self.annotations.get(scorer, fingerprint) != fingerprint:
                return f"other annotations: {scorer} has another version or other options now"
        return None

    def fingerprint(self, column: str) -> str:
        """Returns a hash of what a run uses of the store. Other columns can be added without changing it."""
        kept = to_json(self)
        used = {key: kept[key] for key in ("segmenter", "tokenizer", "store", "shards", "counts")}
        used["scores"] = self.annotations.get(column)
        return hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()


def published_scorer(config: ScorerConfig) -> ScorerRecord:
    """Builds the record of the scorer of documents that brought their scores."""
    return ScorerRecord(config.name, "as published with the documents", dict(config.options))


def _tokenizer_identity(config: TokenizerConfig) -> dict[str, Any]:
    if config.train:
        return {"train": True, "vocab_size": config.vocab_size}
    file = Path(config.name) / "tokenizer.json"
    digest = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()} if file.is_file() else {}
    return {"train": False, "name": config.name, **digest}
