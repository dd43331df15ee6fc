"""Decides which segments of a document get a tag, and how many tokens each one takes.

Shapes: D documents, S segments of these documents, one after the other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from objectives.view import Tags

if TYPE_CHECKING:
    from phf.store.store import StoreSplit

Int = NDArray[np.int64]
Bool = NDArray[np.bool_]
K = TypeVar("K")
V = TypeVar("V")

# The random decisions. Each has its own number, so that no two decisions share random numbers.
ORDER, COUNT, CHOICE, BLOCKS = range(4)


@dataclass(frozen=True)
class Segments:
    """Successive segments of the stream.

    Attributes:
        index: int64 [S], index of each segment in the split.
        starts: int64 [S], index of its first token in the split.
        lengths: int64 [S], its number of tokens.
        opens: bool [S], whether `<|endoftext|>` goes before it.
        tagged: bool [S], whether a tag goes before it (after the `<|endoftext|>`, if there is one).
    """

    index: Int
    starts: Int
    lengths: Int
    opens: Bool
    tagged: Bool

    @classmethod
    def join(cls, pieces: list[Segments]) -> Segments:
        """Joins pieces into one, in their order."""
        return cls(*(np.concatenate([getattr(piece, f.name) for piece in pieces]) for f in fields(cls)))


class SegmentStream:
    """The segments of documents, with the control tokens of an epoch.

    Args:
        split: The documents.
        scorer: The column of scores that decides the control tokens.
        tags: The control tokens to insert; `None` for none.
        seed: Decides which control tokens are dropped.
        tag_length: Tokens in a tag: one, unless tags are ordinary text.
    """

    def __init__(
        self, split: StoreSplit, scorer: str | None, tags: Tags | None, seed: int, tag_length: int = 1
    ):
        self.split = split
        self.tags = tags
        self.seed = seed
        self.tag_length = tag_length
        if tags is not None:
            assert scorer is not None
            self._scores = split.scores(scorer)
            self._num_scored = split.document_num_scored(scorer)
        # All epochs have the same tags if there are no tags, or if every tag or no tag is kept.
        self.epochs_differ = tags is not None and 0 < tags.drop_rate < 1
        self._layouts: OrderedDict[tuple[int, int], Int] = OrderedDict()

    def num_tags(self, epoch: int, documents: Int) -> Int:
        """Returns the number of tags in each document: int64 [D].

        Of n scored segments, n (1 - drop_rate) keep their tags. This number is rounded up or down at random,
        so that the drop rate is met on average, and in each document to within one tag.
        """
        if self.tags is None:
            return np.zeros(len(documents), np.int64)
        num_scored = self._num_scored[documents].astype(np.int64)
        if not self.epochs_differ:
            return num_scored * (self.tags.drop_rate == 0)
        chance = (random_numbers(self.seed, epoch, COUNT, documents) >> np.uint64(32)) * 2.0**-32
        return np.floor(num_scored * (1 - self.tags.drop_rate) + chance).astype(np.int64)

    def whole(self, epoch: int, documents: Int) -> Segments:
        """Returns all segments of some documents."""
        split = self.split
        counts = sizes(split.document_ends, documents)
        heads = np.cumsum(counts) - counts
        index = np.repeat(split.document_ends[documents] - counts - heads, counts)
        index += np.arange(len(index))
        ends = split.segment_ends[index]
        starts = np.empty_like(ends)
        starts[1:] = ends[:-1]
        starts[heads] = _starts(split.document_token_ends, documents)
        opens = np.zeros(len(index), np.bool_)
        opens[heads] = True
        lengths = ends - starts
        return Segments(index, starts, lengths, opens, self._tagged(epoch, documents, counts, index, lengths))

    def cut(self, epoch: int, document: int, start: int, stop: int) -> tuple[Segments, int]:
        """Cuts a part out of a document: the segments that cover it from `start` to `stop`.

        Both positions are counted from the document's `<|endoftext|>`.

        Returns:
            The segments, and where in the document the first segment begins, including the `<|endoftext|>`
            and the tag before it.
        """
        split = self.split
        first = _start(split.document_ends, document)
        origin = _start(split.document_token_ends, document)
        token_ends = split.segment_ends[first : split.document_ends[document]]
        # Segments end at `ends - shift`. Without tags, these ends follow from the tokens alone.
        ends, shift = (token_ends, origin - 1) if self.tags is None else (self._layout(epoch, document), 0)
        a = int(np.searchsorted(ends, start + shift, side="right"))
        b = int(np.searchsorted(ends, stop - 1 + shift, side="right")) + 1
        starts = np.concatenate(([token_ends[a - 1] if a else origin], token_ends[a : b - 1]))
        lengths = token_ends[a:b] - starts
        opens = np.zeros(b - a, np.bool_)
        opens[0] = a == 0
        begin = int(ends[a - 1]) - shift if a else 0
        tagged = np.diff(ends[a:b] - shift, prepend=begin) > lengths + opens
        return Segments(np.arange(first + a, first + b), starts, lengths, opens, tagged), begin

    def _layout(self, epoch: int, document: int) -> Int:
        """Returns the end of each segment of a document, counted from its `<|endoftext|>`: int64 [S]."""

        def lay_out() -> Int:
            segments = self.whole(epoch, np.array([document]))
            return np.cumsum(segments.lengths + segments.opens + segments.tagged * self.tag_length)

        return cached(self._layouts, (epoch, document), lay_out)

    def _tagged(self, epoch: int, documents: Int, counts: Int, index: Int, lengths: Int) -> Bool:
        """Returns which segments of some documents get a control token: bool [S]."""
        if self.tags is None or self.tags.drop_rate == 1:
            return np.zeros(len(index), np.bool_)
        tagged: Bool = (lengths > 0) & ~np.isnan(self._scores[index])
        if not self.epochs_differ:
            return tagged
        # Each document keeps the tags of the segments with the smallest random numbers: sort by document, and
        # then by number.
        candidates = np.flatnonzero(tagged)
        owner = np.repeat(np.arange(len(documents)), counts)[candidates]
        # A key with the document in the high bits and the number in the low bits needs one sort only.
        bits = np.uint64(len(documents).bit_length())
        key = random_numbers(self.seed, epoch, CHOICE, index[candidates]) >> bits
        key |= owner.astype(np.uint64) << (np.uint64(64) - bits)
        heads = owner.searchsorted(np.arange(len(documents)))
        kept = heads + self.num_tags(epoch, documents)
        tagged[candidates[key.argsort(kind="stable")]] = np.arange(len(owner)) < kept[owner]
        return tagged


def random_numbers(seed: int, epoch: int, decision: int, index: Int) -> NDArray[np.uint64]:
    """Returns a random uint64 for each index: distinct for distinct indices, and the same on any machine."""
    return _mix(index.astype(np.uint64) * _STEP + np.uint64(_key(seed, epoch, decision)))


_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Applies the finalizer of splitmix64 (Steele, Lea, Flood 2014) in place: a permutation of uint64."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


@lru_cache(maxsize=64)
def _key(seed: int, epoch: int, decision: int) -> int:
    key = np.zeros(1, np.uint64)
    for part in (seed, epoch, decision):
        key = _mix((key ^ np.uint64(part % 2**64)) + _STEP)
    return int(key[0])


def sizes(ends: Int, which: Int) -> Int:
    """Returns the sizes of the elements `which`, for elements that lie end to end, given where each ends."""
    return ends[which] - _starts(ends, which)


def _starts(ends: Int, which: Int) -> Int:
    return np.where(which > 0, ends[which - 1], 0)


def _start(ends: Int, which: int) -> int:
    return int(ends[which - 1]) if which else 0


def cached(cache: OrderedDict[K, V], key: K, make: Callable[[], V]) -> V:
    """Returns the value of a key, and makes it if the cache lacks it. The cache keeps the last two."""
    if key not in cache:
        cache[key] = make()
        if len(cache) > 2:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]
