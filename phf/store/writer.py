"""Writes the arrays of a token store piece by piece, so that a corpus need not fit in memory.

Shapes: a batch of successive documents has D documents, S segments and N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from phf.store.arrays import ArrayWriter
from phf.store.manifest import SplitCounts

Int = NDArray[np.int64]
Scores = NDArray[np.float32]

COLUMN_KINDS = ("scores", "document_scores", "document_num_scored")


@dataclass(frozen=True)
class EncodedDocuments:
    """Successive tokenized documents of one shard.

    Attributes:
        tokens: int64 [N].
        lengths: int64 [S], number of tokens of each segment.
        counts: int64 [D], number of segments of each document.
        scores: For each scorer float32 [S], NaN = no score.
        rows: int64 [D], row of each document in the shard.
        checks: uint64 [D], see `phf.annotation.annotated_documents`.
    """

    tokens: Int
    lengths: Int
    counts: Int
    scores: Sequence[Scores]
    rows: Int
    checks: NDArray[np.uint64]

    def num_tokens(self) -> Int:
        """Returns the number of tokens of each document, int64 [D]."""
        ends = np.concatenate(([0], np.cumsum(self.lengths)))[np.cumsum(self.counts)]
        return np.diff(ends, prepend=0)

    def select(self, keep: NDArray[np.bool_]) -> EncodedDocuments:
        """Returns the documents for which `keep`, bool [D], is true."""
        segments = np.repeat(keep, self.counts)
        return EncodedDocuments(
            self.tokens[np.repeat(segments, self.lengths)],
            self.lengths[segments],
            self.counts[keep],
            [scores[segments] for scores in self.scores],
            self.rows[keep],
            self.checks[keep],
        )


class SplitWriter:
    """Writes the arrays of a split; `phf.store.store` lists them.

    Args:
        stack: Completes the arrays when it is closed.
        folder: The split's folder.
        dtype: Type of the tokens.
        scorers: The columns of scores.
    """

    def __init__(self, stack: ExitStack, folder: Path, dtype: DTypeLike, scorers: Sequence[str]):
        def array(name: str, dtype: DTypeLike) -> ArrayWriter:
            return stack.enter_context(ArrayWriter(folder / f"{name}.npy", dtype))

        folder.mkdir(parents=True)
        self._tokens = array("tokens", dtype)
        self._segment_ends = array("segment_ends", np.int64)
        self._document_ends = array("document_ends", np.int64)
        self._document_token_ends = array("document_token_ends", np.int64)
        self._shards = array("document_shards", np.int32)
        self._rows = array("document_rows", np.int64)
        self._checks = array("document_checks", np.uint64)
        self._columns = [ColumnWriter(stack, folder, scorer) for scorer in scorers]

    def add(self, shard: int, documents: EncodedDocuments) -> None:
        """Adds documents of one shard.

        Args:
            shard: Number of the shard.
            documents: The documents, each with at least one token.
        """
        self._document_token_ends.append(self._tokens.size + np.cumsum(documents.num_tokens()))
        self._document_ends.append(self._segment_ends.size + np.cumsum(documents.counts))
        self._segment_ends.append(self._tokens.size + np.cumsum(documents.lengths))
        self._tokens.append(documents.tokens)
        self._shards.append(np.full(len(documents.rows), shard))
        self._rows.append(documents.rows)
        self._checks.append(documents.checks)
        for column, scores in zip(self._columns, documents.scores, strict=True):
            column.add(scores, documents.lengths, documents.counts)

    @property
    def counts(self) -> SplitCounts:
        """The size of the split so far."""
        return SplitCounts(self._document_ends.size, self._segment_ends.size, self._tokens.size)


class ColumnWriter:
    """Writes the arrays of one scorer in a split.

    Args:
        stack: Completes the arrays when it is closed.
        folder: The split's folder.
        scorer: Name of the column.
    """

    def __init__(self, stack: ExitStack, folder: Path, scorer: str):
        self._arrays = []
        for kind, dtype in zip(COLUMN_KINDS, (np.float32, np.float32, np.int32), strict=True):
            path = folder / kind / f"{scorer}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            self._arrays.append(stack.enter_context(ArrayWriter(path, dtype)))

    def add(self, scores: Scores, lengths: Int, counts: Int) -> None:
        """Adds the scores of successive documents.

        Args:
            scores: float32 [S], NaN = no score.
            lengths: int64 [S], number of tokens of each segment.
            counts: int64 [D], number of segments of each document.
        """
        known = ~np.isnan(scores)
        owner = np.repeat(np.arange(len(counts)), counts)
        num_known = np.bincount(owner, known, len(counts))
        total = np.bincount(owner, np.where(known, scores.astype(np.float64), 0), len(counts))
        means = np.divide(total, num_known, where=num_known > 0, out=np.full(len(counts), np.nan))
        for array, values in zip(
            self._arrays, (scores, means, np.bincount(owner, known & (lengths > 0), len(counts))), strict=True
        ):
            array.append(values)
