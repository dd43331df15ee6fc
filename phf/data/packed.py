"""The stream of tokens that a model is trained on, block by block, without ever being built.

The stream of an epoch is the kept documents one after the other, in an order of the epoch's own: of each
document `<|endoftext|>`, then its segments, each after its control token if it has one. Block i covers the
stream from i * T to i * T + T: T + 1 tokens, the last of which is the first of the next block, so that every
token of the stream but its very first is predicted exactly once an epoch.

Any block can be asked for at any time, in any process. Which documents it covers follows from the cumulative
sum of their lengths; everything that is random is a hash of (seed, epoch, index). No state but caches.

Shapes: T tokens of context; D kept documents; S segments of a block.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from objectives.view import View
from phf.data.stream import BLOCKS, ORDER, Int, Segments, SegmentStream, cached, random_numbers, sizes
from phf.errors import ConfigError, PhfError

if TYPE_CHECKING:
    from phf.data.store import StoreSplit

# Of a document with more segments than this, only those that a block needs are looked at.
LARGE_DOCUMENT_SEGMENTS = 1024


class Kind:
    """What a token of a block is."""

    TEXT = 0
    EOS = 1
    TAG = 2
    PAD = 3


@dataclass(frozen=True)
class Block:
    """T + 1 successive tokens of the stream.

    Attributes:
        tokens: int64 [T + 1].
        segments: int64 [T + 1], index of each token's segment in the split; -1 for padding. A control token
            belongs to the segment it precedes, `<|endoftext|>` to the first of its document.
        scores: float32 [T + 1], score of that segment; NaN if it has none, and for padding.
        kind: uint8 [T + 1], see `Kind`.
    """

    tokens: Int
    segments: Int
    scores: NDArray[np.float32]
    kind: NDArray[np.uint8]

    def positions(self) -> Int:
        """Place of each token but the last in its document, or in the block if that begins later: int64 [T]."""
        place = np.arange(len(self.kind) - 1)
        opens = self.kind[:-1] == Kind.EOS
        return place - np.maximum.accumulate(np.where(opens, place, 0))


@dataclass(frozen=True)
class _Epoch:
    """The stream of an epoch in outline.

    Attributes:
        documents: int64 [D], in their order.
        ends: int64 [D], where each ends in the stream.
    """

    documents: Int
    ends: Int


class PackedView:
    """Blocks of a split of the token store, as an objective sees it.

    Args:
        split: The documents.
        view: Which of them are kept, and which segments get a control token.
        scorer: The column of scores; `None` if the view needs none: all scores are NaN then.
        context_length: T.
        seed: Decides the order of the documents and which control tokens are dropped.
        eos_id: Goes before each document, and fills the last block.
        good_id: Control token of a segment whose score is at most the view's threshold.
        bad_id: Control token of any other segment that has a score.
        shuffle: Whether each epoch has an order of its own; else the documents come as in the split.

    Raises:
        PhfError: The split lacks the scorer, or no document is left.
        ConfigError: The view needs scores or control tokens that are not given.
    """

    def __init__(
        self,
        split: StoreSplit,
        view: View,
        *,
        scorer: str | None,
        context_length: int,
        seed: int,
        eos_id: int,
        good_id: int | None = None,
        bad_id: int | None = None,
        shuffle: bool = True,
    ):
        if scorer is None and view != View():
            raise ConfigError("control tokens and filtering need scores: name their scorer")
        if view.tags is not None and (good_id is None or bad_id is None):
            raise ConfigError("control tokens need ids: add them to the tokenizer")
        self.split = split
        self.view = view
        self.scorer = scorer
        self.context_length = context_length
        self.seed = seed
        self.eos_id = eos_id
        self.good_id = good_id
        self.bad_id = bad_id
        self.shuffle = shuffle
        self._open()
        if not len(self._kept):
            raise PhfError(_why_empty(split, view))

    def _open(self) -> None:
        """Everything that follows from the arguments, and empty caches."""
        split, scorer = self.split, self.scorer
        self._scores = None if scorer is None else split.scores(scorer)
        self._stream = SegmentStream(split, scorer, self.view.tags, self.seed)
        self._kept = _kept_documents(split, self.view, scorer)
        self._kept_lengths = 1 + sizes(split.document_token_ends, self._kept)
        self._num_tokens: dict[int, int] = {}
        self._blocks_before = [0]
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._block_orders: OrderedDict[int, Int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        # Where it is unpickled, the view opens the store's arrays anew.
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def num_tokens(self, epoch: int) -> int:
        """Length of an epoch's stream, `<|endoftext|>` and control tokens included."""
        key = epoch if self._stream.epochs_differ else 0
        if key not in self._num_tokens:
            self._num_tokens[key] = int(self._lengths(key).sum())
        return self._num_tokens[key]

    def num_blocks(self, epoch: int) -> int:
        """Number of blocks of an epoch; the last one may be padded."""
        return -(-(self.num_tokens(epoch) - 1) // self.context_length)

    def num_valid(self, epoch: int, i: int) -> int:
        """How many targets of block i are not padding."""
        return min(self.context_length, self.num_tokens(epoch) - 1 - i * self.context_length)

    def locate(self, index: int) -> tuple[int, int]:
        """Epoch and block of the index-th block, from 0, of the endless sequence of epochs.

        If the view is shuffled, so are the blocks of an epoch: those of a long document would otherwise make
        up whole batches, from which a model learns far less.
        """
        epoch, place = self._place(index)
        if not self.shuffle:
            return epoch, place

        def order() -> Int:
            return random_numbers(self.seed, epoch, BLOCKS, np.arange(self.num_blocks(epoch))).argsort()

        return epoch, int(cached(self._block_orders, epoch, order)[place])

    def _place(self, index: int) -> tuple[int, int]:
        if not self._stream.epochs_differ:
            return divmod(index, self.num_blocks(0))
        before = self._blocks_before
        while before[-1] <= index:
            before.append(before[-1] + self.num_blocks(len(before) - 1))
        epoch = bisect_right(before, index) - 1
        return epoch, index - before[epoch]

    def block(self, epoch: int, i: int) -> Block:
        """Block i of an epoch.

        Raises:
            IndexError: The epoch has no such block.
        """
        if not 0 <= i < self.num_blocks(epoch):
            raise IndexError(f"epoch {epoch} has blocks 0 to {self.num_blocks(epoch) - 1}, not {i}")
        outline = self._epoch(epoch)
        start = i * self.context_length
        stop = min(start + self.context_length + 1, self.num_tokens(epoch))
        first, last = outline.ends.searchsorted([start, stop - 1], side="right").tolist()
        documents = outline.documents[first : last + 1]
        origin = int(outline.ends[first - 1]) if first else 0
        if (sizes(self.split.document_ends, documents) <= LARGE_DOCUMENT_SEGMENTS).all():
            return self._assemble(self._stream.whole(epoch, documents), origin, start, stop)
        pieces: list[Segments] = []
        begin = origin
        for document, end in zip(documents.tolist(), outline.ends[first : last + 1].tolist(), strict=True):
            piece, skipped = self._stream.cut(epoch, document, max(start - begin, 0), min(stop, end) - begin)
            pieces.append(piece)
            origin += skipped  # only the first document can begin before the block
            begin = end
        return self._assemble(Segments.join(pieces), origin, start, stop)

    def _assemble(self, segments: Segments, origin: int, start: int, stop: int) -> Block:
        """The stream from start to stop, of segments that cover it, the first of which begins at origin."""
        marks = segments.opens.astype(np.int64) + segments.tagged
        ends = origin + (segments.lengths + marks).cumsum()
        first, last = ends.searchsorted([start, stop - 1], side="right").tolist()
        shown = slice(first, last + 1)
        index, opens, tagged = segments.index[shown], segments.opens[shown], segments.tagged[shown]
        marks, ends = marks[shown], ends[shown]
        begins = ends - segments.lengths[shown] - marks

        block = self._padding()
        size = stop - start
        owner = np.repeat(np.arange(len(index)), np.minimum(ends, stop) - np.maximum(begins, start))
        source = (segments.starts[shown] - begins - marks)[owner] + np.arange(start, stop)
        # Marks are written over what stands in their places; before the first token there is nothing.
        block.tokens[:size] = self.split.tokens[np.maximum(source, 0, out=source)]
        block.segments[:size] = index[owner]
        block.kind[:size] = Kind.TEXT
        places = begins[opens] - start
        places = places[places >= 0]
        block.tokens[places] = self.eos_id
        block.kind[places] = Kind.EOS
        if self._scores is None:
            return block
        scores = self._scores[index]
        block.scores[:size] = scores[owner]
        if self.view.tags is not None:
            assert self.good_id is not None
            assert self.bad_id is not None
            places = (begins + opens)[tagged] - start
            inside = (places >= 0) & (places < size)
            good = scores[tagged] <= self.view.tags.threshold
            block.tokens[places[inside]] = np.where(good, self.good_id, self.bad_id)[inside]
            block.kind[places[inside]] = Kind.TAG
        return block

    def _padding(self) -> Block:
        size = self.context_length + 1
        return Block(
            tokens=np.full(size, self.eos_id, np.int64),
            segments=np.full(size, -1, np.int64),
            scores=np.full(size, np.nan, np.float32),
            kind=np.full(size, Kind.PAD, np.uint8),
        )

    def _lengths(self, epoch: int) -> Int:
        """Length of each kept document in the stream: int64 [D]."""
        return self._kept_lengths + self._stream.num_tags(epoch, self._kept)

    def _epoch(self, epoch: int) -> _Epoch:
        def outline() -> _Epoch:
            lengths = self._lengths(epoch)
            if not self.shuffle:
                return _Epoch(self._kept, lengths.cumsum())
            # No two documents have the same number: there is one order, however it is sorted.
            order = random_numbers(self.seed, epoch, ORDER, self._kept).argsort()
            return _Epoch(self._kept[order], lengths[order].cumsum())

        return cached(self._epochs, epoch, outline)


def _kept_documents(split: StoreSplit, view: View, scorer: str | None) -> Int:
    """Indices of the documents that the view keeps, int64 [D]; those that could not be scored are kept."""
    if view.keep_below is None or scorer is None:
        return np.arange(split.num_documents)
    return np.flatnonzero(~(split.document_scores(scorer) > view.keep_below))


def _why_empty(split: StoreSplit, view: View) -> str:
    if view.keep_below is None or not split.num_documents:
        return f"{split.path} has no documents"
    return (
        f"all {split.num_documents} documents of {split.path} have a mean score above {view.keep_below:g}: "
        "none is left, raise objective.threshold"
    )
