"""Decides which documents an epoch has, in which order, and where each one ends in the stream of tokens.

Each copy of a document has a number, a hash of (seed, epoch, copy). An epoch orders the copies by these
numbers. Leaving out some documents therefore does not change the order of the others, and two views of a
split have their documents in the same order.

Shapes: D copies of documents in an epoch, N documents in the split.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from objectives.view import View
from phf.blocks.tagged_segments import ORDER, Bool, Int, SegmentStream, cached, random_numbers, sizes

if TYPE_CHECKING:
    from phf.store.store import StoreSplit


@dataclass(frozen=True)
class Epoch:
    """The outline of an epoch's stream.

    Attributes:
        documents: int64 [D], the documents in their order.
        ends: int64 [D], the end of each document in the stream.
    """

    documents: Int
    ends: Int


class Epochs:
    """The order of the documents of a view, epoch after epoch.

    Args:
        split: The documents.
        view: Which documents appear, and how often.
        scorer: The column of scores that the view uses.
        stream: The segments of the documents, with control tokens.
        seed: Decides the order.
        shuffle: Whether each epoch has its own order. Otherwise the documents keep the order of the split.
        first: The epoch to begin with.
        had: bool [N], the documents that are left out of epoch `first`, because they have been read already;
            `None` for none.
    """

    def __init__(
        self,
        split: StoreSplit,
        view: View,
        scorer: str | None,
        stream: SegmentStream,
        *,
        seed: int,
        shuffle: bool,
        first: int = 0,
        had: Bool | None = None,
    ):
        self.split = split
        self.view = view
        self.stream = stream
        self.seed = seed
        self.shuffle = shuffle
        self.first = first
        self.had = had
        # Copy c of document d has the number c * N + d.
        self.copies = _copies(split, view, scorer)
        self._num_tokens: dict[int, int] = {}
        self._outlines: OrderedDict[int, Epoch] = OrderedDict()

    def num_tokens(self, epoch: int) -> int:
        """Returns the number of tokens in an epoch, including `<|endoftext|>` and control tokens."""
        if epoch not in self._num_tokens:
            whole = self.first + (self.had is not None)
            if epoch > whole and not self.stream.epochs_differ:
                return self.num_tokens(whole)
            self._num_tokens[epoch] = int(self._lengths(epoch, self._documents(self._copies(epoch))).sum())
        return self._num_tokens[epoch]

    def outline(self, epoch: int) -> Epoch:
        """Returns the documents of an epoch in their order."""

        def make() -> Epoch:
            copies = self._copies(epoch)
            if self.shuffle:
                # All numbers are distinct, so the order does not depend on the sorting algorithm.
                copies = copies[random_numbers(self.seed, epoch, ORDER, copies).argsort()]
            documents = self._documents(copies)
            return Epoch(documents, self._lengths(epoch, documents).cumsum())

        return cached(self._outlines, epoch, make)

    def read(self, epoch: int, unread: Bool, context_length: int) -> Bool:
        """Returns which documents have been read, given the blocks read of a shuffled epoch: bool [N].

        A document has been read if all blocks that it lies in have been read. A document that the view drops
        is judged by the place that it would have in the order. A document that appears several times is
        judged by its first copy.

        Args:
            epoch: The epoch.
            unread: bool [blocks], which blocks have not been read.
            context_length: Tokens that a block predicts.
        """
        copies = self._copies(epoch)
        ends = np.concatenate(([0], self.outline(epoch).ends))
        first_copy = np.arange(self.split.num_documents)
        rank = np.sort(random_numbers(self.seed, epoch, ORDER, copies)).searchsorted(
            random_numbers(self.seed, epoch, ORDER, first_copy)
        )
        here = np.zeros(len(first_copy), np.int64)
        here[copies[copies < len(here)]] = 1
        starts = ends[rank]
        # The last token of a document is predicted from the one before it.
        stops = np.maximum(ends[rank + here] - 2, starts)
        first_block, last_block = (np.minimum(x // context_length, len(unread) - 1) for x in (starts, stops))
        before = np.concatenate(([0], unread.cumsum()))
        behind: Bool = before[last_block + 1] == before[first_block]
        return behind | self.had if epoch == self.first and self.had is not None else behind

    def _copies(self, epoch: int) -> Int:
        if epoch > self.first or self.had is None:
            return self.copies
        return self.copies[~self.had[self._documents(self.copies)]]

    def _documents(self, copies: Int) -> Int:
        return copies if self.view.times == 1 else copies % self.split.num_documents

    def _lengths(self, epoch: int, documents: Int) -> Int:
        tags = self.stream.num_tags(epoch, documents) * self.stream.tag_length
        return 1 + sizes(self.split.document_token_ends, documents) + tags


def _copies(split: StoreSplit, view: View, scorer: str | None) -> Int:
    """Returns the copies of documents in a view: int64 [D]. A repeated document has several copies.

    A document that could not be scored is kept, and has one copy.
    """
    documents = np.arange(split.num_documents)
    if scorer is None or (view.keep_below is None and view.repeat_below is None):
        return documents
    scores = split.document_scores(scorer)
    if view.keep_below is not None:
        documents = documents[~(scores > view.keep_below)]
    if view.repeat_below is None:
        return documents
    again = documents[scores[documents] <= view.repeat_below]
    return np.concatenate([documents, *(again + c * split.num_documents for c in range(1, view.times))])
