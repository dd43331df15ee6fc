"""Defines what the model sees: which documents, how often, and which tag before which segment."""

from __future__ import annotations

from dataclasses import dataclass

GOOD_TAG = "<|aligned|>"
BAD_TAG = "<|misaligned|>"


@dataclass(frozen=True)
class Tags:
    """A control token before each segment (conditional training).

    Attributes:
        thresholds: Ascending thresholds. A segment gets the best tag if its score is at most the first
            threshold, the second-best tag if it is at most the second threshold, and so on. A score above
            the last threshold gets the worst tag. A segment without a score gets no tag.
        drop_rate: Share of the segments that get no tag, so that the model also learns plain text.
        texts: Ordinary text to use instead of control tokens, for each tag from the best to the worst.
        loss: Whether the model learns to write tags, or only to read them.
    """

    thresholds: tuple[float, ...]
    drop_rate: float = 0.0
    texts: tuple[str, ...] | None = None
    loss: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """The tags from the best to the worst; there is one tag more than there are thresholds."""
        if self.texts is not None:
            return self.texts
        levels = (f"<|level_{i}|>" for i in range(2, len(self.thresholds) + 1))
        return (GOOD_TAG, *levels, BAD_TAG)


@dataclass(frozen=True)
class View:
    """How a corpus is turned into the stream of tokens that a model is trained on.

    Attributes:
        keep_below: Keep only documents whose mean score is at most this, and documents that could not be
            scored. `None` keeps all documents.
        tags: Control tokens to insert; `None` for none.
        repeat_below: Documents whose mean score is at most this appear `times` times in each epoch.
        times: How often those documents appear.
    """

    keep_below: float | None = None
    tags: Tags | None = None
    repeat_below: float | None = None
    times: int = 1
