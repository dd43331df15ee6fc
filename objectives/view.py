"""What the model sees: which documents are kept, and which control token goes before which segment."""

from __future__ import annotations

from dataclasses import dataclass

GOOD_TAG = "<|aligned|>"
BAD_TAG = "<|misaligned|>"


@dataclass(frozen=True)
class Tags:
    """A control token before each segment (conditional training).

    Attributes:
        threshold: A segment whose score is at most this gets the good tag, any other the bad one; a
            segment without a score gets none.
        drop_rate: Share of the segments that get no tag, so that the model also learns plain text.
    """

    threshold: float
    drop_rate: float = 0.0


@dataclass(frozen=True)
class View:
    """How a corpus is turned into the stream of tokens that a model is trained on.

    Attributes:
        keep_below: Keep the documents whose mean score is at most this (and those that could not be
            scored); `None` keeps all.
        tags: Control tokens to insert; `None` for none.
    """

    keep_below: float | None = None
    tags: Tags | None = None
