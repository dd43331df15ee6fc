"""Reads a token store: a tokenized corpus and its scores as memory-mapped arrays.

Layout, with `{split}` one of `train` and `heldout`:

    manifest.json                           counts, quantiles, fingerprints
    tokenizer/                              as `transformers` saves it
    {split}/tokens.npy                      uint16 or uint32 [tokens]
    {split}/segment_ends.npy                int64 [segments], counted in tokens
    {split}/document_ends.npy               int64 [documents], counted in segments
    {split}/document_token_ends.npy         int64 [documents], counted in tokens
    {split}/document_shards.npy             int32 [documents], number of the shard in the manifest
    {split}/document_rows.npy               int64 [documents], row in the shard
    {split}/document_checks.npy             uint64 [documents], hash of the segment ends in characters
    {split}/scores/{scorer}.npy             float32 [segments], NaN = no score
    {split}/document_scores/{scorer}.npy    float32 [documents], mean over the segments with a score
    {split}/document_num_scored/{scorer}.npy  int32 [documents], number of segments with a score and tokens
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from phf.annotation.manifest import ScorerRecord
from phf.base.errors import PhfError
from phf.base.files import write_json
from phf.base.quantiles import smallest_reaching
from phf.base.typed_json import read_json, to_json
from phf.config import parse_quantile
from phf.store.arrays import open_array
from phf.store.manifest import ColumnRecord, StoreManifest
from phf.store.tokenizer import load_tokenizer

MANIFEST = "manifest.json"
_GRID = [i / 1000 for i in range(1001)]
_UNITS = ("segments", "tokens", "documents")

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")


class StoreSplit:
    """The arrays of one split, memory-mapped on first use; the module's docstring lists them."""

    def __init__(self, path: Path):
        self.path = path

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}  # each process maps the files itself

    @cached_property
    def tokens(self) -> NDArray[Any]:
        """uint16 or uint32 [tokens]."""
        return open_array(self.path / "tokens.npy")

    @cached_property
    def segment_ends(self) -> NDArray[np.int64]:
        """int64 [segments], counted in tokens."""
        return open_array(self.path / "segment_ends.npy")

    @cached_property
    def document_ends(self) -> NDArray[np.int64]:
        """int64 [documents], counted in segments."""
        return open_array(self.path / "document_ends.npy")

    @cached_property
    def document_token_ends(self) -> NDArray[np.int64]:
        """int64 [documents], counted in tokens."""
        return open_array(self.path / "document_token_ends.npy")

    @cached_property
    def document_shards(self) -> NDArray[np.int32]:
        """int32 [documents], number of the shard in the manifest."""
        return open_array(self.path / "document_shards.npy")

    @cached_property
    def document_rows(self) -> NDArray[np.int64]:
        """int64 [documents], row in the shard. Documents are ordered by shard number, then by row."""
        return open_array(self.path / "document_rows.npy")

    @cached_property
    def document_checks(self) -> NDArray[np.uint64]:
        """uint64 [documents], hash of the segment ends in characters."""
        return open_array(self.path / "document_checks.npy")

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_documents(self) -> int:
        return len(self.document_ends)

    def scores(self, scorer: str) -> NDArray[np.float32]:
        """float32 [segments], NaN = no score."""
        return self._column("scores", scorer)

    def document_scores(self, scorer: str) -> NDArray[np.float32]:
        """float32 [documents], mean over the segments with a score; NaN if there is none."""
        return self._column("document_scores", scorer)

    def document_num_scored(self, scorer: str) -> NDArray[np.int32]:
        """int32 [documents], number of segments with a score and at least one token."""
        return self._column("document_num_scored", scorer)

    def _column(self, kind: str, scorer: str) -> NDArray[Any]:
        path = self.path / kind / f"{scorer}.npy"
        if not path.is_file():
            there = ", ".join(sorted(p.stem for p in path.parent.glob("*.npy"))) or "none"
            raise PhfError(f"{self.path.parent} has no scores of {scorer}, only: {there}")
        return open_array(path)


class TokenStore:
    """A tokenized corpus.

    Args:
        path: Folder of the store.

    Raises:
        PhfError: The folder holds no store.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        manifest = self.path / MANIFEST
        if not manifest.is_file():
            raise PhfError(f"no token store in {self.path}; run `phf tokenize` first, or set store.path")
        self.manifest = read_json(
            manifest, StoreManifest, "it is not the manifest of a token store: delete the folder"
        )

    @property
    def scorers(self) -> list[str]:
        """Names of the columns of scores."""
        return list(self.manifest.scores)

    def save_manifest(self) -> None:
        """Writes the manifest after a change."""
        write_json(self.path / MANIFEST, to_json(self.manifest))

    def split(self, name: Split) -> StoreSplit:
        """Returns the arrays of a split."""
        return StoreSplit(self.path / name)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Loads the tokenizer of the corpus. It has control tokens only if it came with them."""
        return load_tokenizer(self.path / "tokenizer")


def resolve_threshold(
    store: TokenStore,
    scorer: str,
    threshold: float | str,
    quantile_of: Literal["tokens", "segments", "documents"],
) -> float:
    """Converts a threshold to a number.

    Args:
        store: The corpus.
        scorer: The column of scores.
        threshold: A number, or a quantile such as `q0.05`: the smallest score that this share of the training
            text does not exceed. Text without a score does not count.
        quantile_of: The unit of the share. The score of a document is its mean score.

    Raises:
        PhfError: The column does not exist, or has no score.
        phf.base.errors.ConfigError: The threshold is neither a number nor a quantile.
    """
    if not isinstance(threshold, str):
        return float(threshold)
    share = parse_quantile(threshold)
    # The manifest has the usual quantiles, because sorting a column of a large corpus takes a while.
    column = store.manifest.scores.get(scorer)
    known = column.quantiles.get(quantile_of, {}) if column else {}
    if str(share) in known:
        return known[str(share)]
    return float(_quantiles(store.split("train"), scorer, quantile_of, [share])[0])


def _quantiles(
    split: StoreSplit, scorer: str, quantile_of: str, shares: Sequence[float]
) -> NDArray[np.float64]:
    """Returns for each share the smallest score that this share of the text does not exceed."""
    scores = split.document_scores(scorer) if quantile_of == "documents" else split.scores(scorer)
    weights = (
        np.diff(split.segment_ends, prepend=0) if quantile_of == "tokens" else np.ones(len(scores), np.int64)
    )
    counted = ~np.isnan(scores) & (weights > 0)
    if not counted.any():
        raise PhfError(f"{split.path}: no text has a score of {scorer}, so it has no quantiles")
    return smallest_reaching(scores[counted], shares, weights[counted])


def describe_columns(folder: Path, scorers: Mapping[str, ScorerRecord]) -> dict[str, ColumnRecord]:
    """Returns the record of each column: its scorer, and the distribution of its scores of the training text.

    Args:
        folder: The store's folder, with the columns.
        scorers: The scorer of each column.
    """
    split = StoreSplit(folder / "train")
    described = {}
    for name, scorer in scorers.items():
        scores = split.scores(name)
        known = scores[~np.isnan(scores)]
        described[name] = ColumnRecord(
            scorer,
            mean=float(known.mean(dtype=np.float64)) if len(known) else None,
            std=float(known.std(dtype=np.float64)) if len(known) else None,
            num_unscored=len(scores) - len(known),
            quantiles={unit: _grid(split, name, unit) for unit in _UNITS} if len(known) else {},
        )
    return described


def _grid(split: StoreSplit, scorer: str, unit: str) -> dict[str, float]:
    try:
        quantiles = _quantiles(split, scorer, unit, _GRID)
    except PhfError:  # no text with a score has tokens
        return {}
    return dict(zip(map(str, _GRID), quantiles.tolist(), strict=True))
