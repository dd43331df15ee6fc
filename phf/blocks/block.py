"""Defines a block: T + 1 successive tokens, with the segment, score and kind of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phf.blocks.tagged_segments import Int


class Kind:
    """The kind of a token in a block."""

    TEXT = 0
    EOS = 1
    TAG = 2
    PAD = 3


@dataclass(frozen=True)
class Block:
    """T + 1 successive tokens of the stream.

    Attributes:
        tokens: int64 [T + 1].
        segments: int64 [T + 1], index of each token's segment in the split; -1 for padding. A tag belongs to
            the segment after it, and `<|endoftext|>` to the first segment of its document.
        scores: float32 [T + 1], score of that segment; NaN for padding and for a segment without a score.
        kind: uint8 [T + 1], see `Kind`.
    """

    tokens: Int
    segments: Int
    scores: NDArray[np.float32]
    kind: NDArray[np.uint8]

    def positions(self) -> Int:
        """Returns the position of each token but the last: int64 [T].

        Positions are counted from the start of the document, or from the start of the block if the document
        begins in an earlier block.
        """
        place = np.arange(len(self.kind) - 1)
        opens = self.kind[:-1] == Kind.EOS
        return place - np.maximum.accumulate(np.where(opens, place, 0))
