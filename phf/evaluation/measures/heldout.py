"""Implements the measure `heldout`: loss on held-out text, overall and by score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from phf.base.estimates import Interval
from phf.config import option
from phf.evaluation.measures.base import (
    Axis,
    Column,
    Condition,
    Curve,
    Evaluated,
    ModelMeasure,
    estimate,
)


@dataclass
class HeldoutOptions:
    """Options of `Heldout`."""

    blocks: int | None = option(512, least=1)
    """Blocks of held-out text to use; null uses all."""


@dataclass(frozen=True)
class Decile:
    """The loss on one or more tenths of the held-out segments, which are ordered by their scores.

    Attributes:
        deciles: Numbers of the tenths, from 1. Segments with equal scores stay together, so there may be
            several.
        low: Smallest score.
        high: Largest score.
        segments: Number of segments.
        tokens: Number of their tokens.
        loss: In nats per token.
        perplexity: exp(loss).
    """

    deciles: list[int]
    low: float
    high: float
    segments: int
    tokens: int
    loss: Interval = estimate()
    perplexity: Interval = estimate()

    @property
    def span(self) -> str:
        """The numbers of the deciles as text: the only one, or the first and the last joined by a dash."""
        first, last = self.deciles[0], self.deciles[-1]
        return f"{first}" if first == last else f"{first}\u2013{last}"


@dataclass(frozen=True)
class HeldoutResults:
    """Loss on held-out text, in nats per token of text. `<|endoftext|>` counts as text; a tag does not.

    Attributes:
        threshold: The highest score of aligned text.
        tokens: Number of tokens that were measured.
        loss: The loss in the model's own view: with tags, if it has any.
        untagged: The loss without tags.
        aligned: The loss on segments with scores up to the threshold.
        misaligned: The loss on segments with scores above the threshold.
        perplexity: exp(loss).
        deciles: The loss by score, from the best text to the worst.
    """

    threshold: float
    tokens: int
    loss: Interval = estimate()
    untagged: Interval = estimate()
    aligned: Interval = estimate()
    misaligned: Interval = estimate()
    perplexity: Interval = estimate()
    deciles: list[Decile] = field(default_factory=list)


class Heldout(ModelMeasure):
    """Loss on held-out text: overall, on aligned and misaligned text, and by decile of the score."""

    name = "heldout"
    title = "Held-out loss"
    Options = HeldoutOptions
    options: HeldoutOptions
    Results = HeldoutResults
    columns = (
        Column("Held-out loss", lambda found: found.loss, decimals=3),
        Column("Untagged", lambda found: found.untagged, decimals=3),
        Column("Aligned", lambda found: found.aligned, decimals=3),
        Column("Misaligned", lambda found: found.misaligned, decimals=3),
        Column("Perplexity", lambda found: found.perplexity),
    )
    axis = Axis("loss", "held-out loss", lambda found: found.loss, "nats a token")
    curve = Curve(
        "loss-by-decile",
        "Held-out loss by how bad the text is",
        "Tenths of the held-out segments, from the best scores to the worst; tenths with equal scores are "
        "one point. A model that learned to avoid bad text has its highest loss on the right.",
        "Decile of the score",
        "Held-out loss (nats a token)",
        lambda found: [
            (f"Decile {part.span}", (part.deciles[0] + part.deciles[-1]) / 2, part.loss)
            for part in found.deciles
        ],
        x_is_whole=True,
    )

    @classmethod
    def legend(cls, found: Sequence[Any]) -> str:
        return (
            "Held-out loss: nats a token, with tags given but not counted; untagged: without tags; aligned "
            "and misaligned: on segments at or below the threshold, and above it."
        )

    @classmethod
    def conditions(cls, found: HeldoutResults) -> Sequence[Condition]:
        return (
            Condition("threshold of aligned text", found.threshold, strict=False),
            Condition("number of tokens", found.tokens, strict=False),
        )

    def measure(self, evaluated: Evaluated) -> HeldoutResults | None:
        from phf.evaluation.measures.heldout_loss import measure_heldout

        return measure_heldout(
            evaluated.model,
            threshold=evaluated.evaluation.threshold,  # the same for all runs, whose losses are compared
            num_blocks=self.options.blocks,
            confidence=evaluated.evaluation.confidence,
        )
