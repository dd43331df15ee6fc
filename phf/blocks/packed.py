"""Packs the documents of an epoch into blocks; any block can be read at once, without building the stream.

The stream of an epoch is the sequence of its documents, in the epoch's own order. A document consists of
`<|endoftext|>` and then its segments. A segment that has a tag comes after its tag. Block i covers the T + 1
tokens of the stream from i * T to i * T + T. Its last token is the first token of the next block, so every
token of the stream except the very first is predicted exactly once per epoch.

Any block can be read at any time, in any process. The cumulative sum of the document lengths tells which
documents a block covers. Everything random is a hash of (seed, epoch, index). The only state is caches.

Shapes: T tokens of context; D documents of an epoch; N documents of the split; S segments of a block; K tags
of L tokens each.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from objectives.view import View
from phf.base.errors import ConfigError, PhfError
from phf.blocks.block import Block, Kind
from phf.blocks.document_order import Epochs
from phf.blocks.tagged_segments import (
    BLOCKS,
    Bool,
    Int,
    Segments,
    SegmentStream,
    cached,
    random_numbers,
    sizes,
)

if TYPE_CHECKING:
    from phf.store.store import StoreSplit

# For a document with more segments than this, only the segments that a block needs are assembled.
LARGE_DOCUMENT_SEGMENTS = 1024

# Blocks are shuffled within windows of this many blocks. The order of an epoch is thus never completely in
# memory, and the text is read in the order of the documents, except within a window.
WINDOW_BLOCKS = 2**16


class PackedView:
    """Blocks of a split of the token store, as an objective sees the split.

    Args:
        split: The documents.
        view: Which documents appear, how often, and which segments get which tag.
        scorer: The column of scores. `None` if the view needs no scores; all scores are then NaN.
        document_scores: Whether the score of a token is the mean score of its document, and not the score of
            its segment.
        context_length: T.
        seed: Decides the order of the documents and which tags are dropped.
        eos_id: The token before each document. It also pads the last block.
        tag_ids: The tokens of each tag, K x L, from the best tag to the worst.
        shuffle: Whether each epoch has its own order. Otherwise the documents keep the order of the split.
        after: A view of the same split with the same seed that is read before this one, and how many of its
            blocks are read. This view continues in the epoch where that reading ends, with the documents that
            have not been read completely.
        stop: How many blocks of this view will be read in total, if known. Shuffling is then limited to these
            blocks, so that reading ends at a document instead of in the middle of a shuffled window.

    Raises:
        PhfError: The split lacks the scorer, or no document is left.
        ConfigError: The view needs scores or tags that are not given.
    """

    def __init__(
        self,
        split: StoreSplit,
        view: View,
        *,
        scorer: str | None,
        document_scores: bool = False,
        context_length: int,
        seed: int,
        eos_id: int,
        tag_ids: Sequence[Sequence[int]] = (),
        shuffle: bool = True,
        after: tuple[PackedView, int] | None = None,
        stop: int | None = None,
    ):
        if scorer is None and view != View():
            raise ConfigError("tags, filtering and upsampling need scores: name their scorer")
        if view.tags is not None and len(tag_ids) != len(view.tags.names):
            raise ConfigError("tags need ids: add them to the tokenizer")
        self.split = split
        self.view = view
        self.scorer = scorer
        self.document_scores = document_scores
        self.context_length = context_length
        self.seed = seed
        self.eos_id = eos_id
        self.tag_ids = tag_ids
        self.shuffle = shuffle
        self.after = after
        self.stop = stop
        self._open()
        if not len(self._epochs.copies):
            raise PhfError(_why_empty(split, view))

    def _open(self) -> None:
        """Sets up everything that follows from the arguments, and empty caches."""
        split, scorer, tags = self.split, self.scorer, self.view.tags
        self._scores = None if scorer is None else split.scores(scorer)
        if tags is not None:
            self._tag_columns = list(np.array(self.tag_ids).T)
            self._thresholds = np.array(tags.thresholds, np.float32)
        self._stream = SegmentStream(split, scorer, tags, self.seed, len(self.tag_ids[0]) if tags else 1)
        first, had = self.after[0].read(self.after[1]) if self.after else (0, None)
        self._epochs = Epochs(
            split, self.view, scorer, self._stream, seed=self.seed, shuffle=self.shuffle, first=first, had=had
        )
        self._blocks_before = [0]
        self._block_orders: OrderedDict[tuple[int, int], Int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        # The process that unpickles the view opens the store's arrays again.
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    @property
    def learns_tags(self) -> bool:
        """Whether tags count as targets."""
        return self.view.tags is None or self.view.tags.loss

    @property
    def epoch_tokens(self) -> int:
        """Tokens in a whole epoch. The first epoch lacks the documents that an earlier view has read."""
        return self.num_tokens(self._epochs.first + 1)

    def num_tokens(self, epoch: int) -> int:
        """Returns the number of tokens in an epoch, including `<|endoftext|>` and tags."""
        return self._epochs.num_tokens(epoch)

    def num_blocks(self, epoch: int) -> int:
        """Returns the number of blocks in an epoch; the last block may be padded."""
        return max(0, -(-(self.num_tokens(epoch) - 1) // self.context_length))

    def num_targets(self, indices: Iterable[int]) -> int:
        """Returns how many targets of some blocks of the endless sequence count.

        Padding does not count. Tags count only if the model learns them.
        """
        by_epoch: dict[int, list[int]] = {}
        for epoch, i in map(self.locate, indices):
            by_epoch.setdefault(epoch, []).append(i)
        count = 0
        for epoch, places in by_epoch.items():
            blocks = np.array(places)
            valid = self.num_tokens(epoch) - 1 - blocks * self.context_length
            count += int(np.minimum(valid, self.context_length).sum())
            if not self.learns_tags:
                count -= self._num_tags(epoch, blocks)
        return count

    def _num_tags(self, epoch: int, blocks: Int) -> int:
        """Returns how many targets of some blocks of an epoch are tags."""
        outline = self._epochs.outline(epoch)
        starts = blocks * self.context_length
        stops = np.minimum(starts + self.context_length, outline.ends[-1] - 1)
        covered = (outline.ends.searchsorted(at, side="right").tolist() for at in (starts, stops))
        which = np.unique(np.concatenate([np.arange(a, b + 1) for a, b in zip(*covered, strict=True)]))
        segments = self._stream.whole(epoch, outline.documents[which])
        lengths = segments.lengths + self._marks(segments)
        heads = np.flatnonzero(segments.opens)
        # Where each segment begins: first within these documents, then shifted to its place in the stream.
        begins = lengths.cumsum() - lengths
        shifts = np.where(which > 0, outline.ends[which - 1], 0) - begins[heads]
        begins += np.repeat(shifts, np.diff(heads, append=len(lengths)))
        # A target is one place after the token that predicts it.
        tags = (begins + segments.opens)[segments.tagged, None] + np.arange(self._stream.tag_length) - 1
        return int(np.isin(tags // self.context_length, blocks).sum())

    def locate(self, index: int) -> tuple[int, int]:
        """Returns the epoch and the block number of the index-th block, from 0, of the endless sequence.

        If the view is shuffled, the blocks of an epoch are shuffled too. Otherwise the blocks of a long
        document would fill whole batches, from which a model learns far less.
        """
        epoch, place = self._place(index)
        if not self.shuffle:
            return epoch, place
        window, place_in_window = divmod(place, WINDOW_BLOCKS)
        return epoch, int(self._window(epoch, window, index - place)[place_in_window])

    def _window(self, epoch: int, window: int, before: int) -> Int:
        """Returns the blocks of a window in reading order; `before` counts the blocks of earlier epochs."""

        def order() -> Int:
            ends = [(window + 1) * WINDOW_BLOCKS, self.num_blocks(epoch)]
            blocks = np.arange(
                window * WINDOW_BLOCKS, min(ends if self.stop is None else [*ends, self.stop - before])
            )
            return blocks[random_numbers(self.seed, epoch, BLOCKS, blocks).argsort()]

        return cached(self._block_orders, (epoch, window), order)

    def _place(self, index: int) -> tuple[int, int]:
        """Returns the epoch of the index-th block, and how many blocks of that epoch come before it."""
        before, first = self._blocks_before, self._epochs.first
        while before[-1] <= index:
            before.append(before[-1] + self.num_blocks(first + len(before) - 1))
        epoch = bisect_right(before, index) - 1
        return first + epoch, index - before[epoch]

    def read(self, num_blocks: int) -> tuple[int, Bool]:
        """Returns the epoch after this many blocks, and which of its documents have been read: bool [N]."""
        epoch, place = self._place(num_blocks)
        unread = np.ones(self.num_blocks(epoch), np.bool_)
        for start in range(0, place, WINDOW_BLOCKS):
            order = self._window(epoch, start // WINDOW_BLOCKS, num_blocks - place)
            unread[order[: place - start]] = False
        return epoch, self._epochs.read(epoch, unread, self.context_length)

    def block(self, epoch: int, i: int) -> Block:
        """Returns block i of an epoch.

        Raises:
            IndexError: The epoch has no such block.
        """
        start, num_tokens = i * self.context_length, self.num_tokens(epoch)
        if not 0 <= start < num_tokens - 1:
            raise IndexError(f"epoch {epoch} has blocks 0 to {self.num_blocks(epoch) - 1}, not {i}")
        outline = self._epochs.outline(epoch)
        stop = min(start + self.context_length + 1, num_tokens)
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
        """Assembles the stream from `start` to `stop` as a block.

        Args:
            segments: Segments that cover this part of the stream.
            origin: Where the first of these segments begins in the stream.
            start: First position of the block in the stream.
            stop: Position after the last one.
        """
        marks = self._marks(segments)
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
        # The places of `<|endoftext|>` and tags get arbitrary tokens here, and are overwritten below. The
        # `maximum` keeps their index from becoming negative.
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
        block.scores[:size] = (self._means(index) if self.document_scores else scores)[owner]
        if self.view.tags is not None:
            places = (begins + opens)[tagged] - start
            # A score that equals a threshold gets the better of the two tags.
            levels = self._thresholds.searchsorted(scores[tagged])
            for ids in self._tag_columns:
                inside = (places >= 0) & (places < size)
                here = places[inside]
                block.tokens[here] = ids[levels[inside]]
                block.kind[here] = Kind.TAG
                places += 1
        return block

    def _means(self, segments: Int) -> NDArray[np.float32]:
        """Returns the mean score of each segment's document."""
        assert self.scorer is not None
        documents = self.split.document_ends.searchsorted(segments, side="right")
        return self.split.document_scores(self.scorer)[documents]

    def _marks(self, segments: Segments) -> Int:
        """Returns how many tokens (`<|endoftext|>` and tag) go before each segment: int64 [S]."""
        marks = segments.opens.astype(np.int64) + segments.tagged
        return (
            marks if self._stream.tag_length == 1 else marks + segments.tagged * (self._stream.tag_length - 1)
        )

    def _padding(self) -> Block:
        size = self.context_length + 1
        return Block(
            tokens=np.full(size, self.eos_id, np.int64),
            segments=np.full(size, -1, np.int64),
            scores=np.full(size, np.nan, np.float32),
            kind=np.full(size, Kind.PAD, np.uint8),
        )


def _why_empty(split: StoreSplit, view: View) -> str:
    if view.keep_below is None or not split.num_documents:
        return f"{split.path} has no documents"
    return (
        f"all {split.num_documents} documents of {split.path} have a mean score above {view.keep_below:g}: "
        "none is left, raise objective.threshold"
    )
