"""What a model reads at once: T + 1 successive tokens of the stream, and what is known of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phf.blocks.tagged_segments import Int


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
        segments: int64 [T + 1], index of each token's segment in the split; -1 for padding. A tag
            belongs to the segment it precedes, `<|endoftext|>` to the first of its document.
        scores: float32 [T + 1], score of that segment; NaN if it has none, and for padding.
        kind: uint8 [T + 1], see `Kind`.
    """

    tokens: Int
    segments: Int
    scores: NDArray[np.float32]
    kind: NDArray[np.uint8]

    def positions(self) -> Int:
        """Place of each token but the last in its document, or in the block if it begins later: int64 [T]."""
        place = np.arange(len(self.kind) - 1)
        opens = self.kind[:-1] == Kind.EOS
        return place - np.maximum.accumulate(np.where(opens, place, 0))
