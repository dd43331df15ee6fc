"""Scores a chunk of documents, and isolates the documents on which a scorer fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from numbers import Real
from operator import index
from typing import Any

from phf.documents.formats.base import Document
from phf.documents.formats.scored import LARGEST_SCORE
from phf.documents.segments import Segmenter
from scorers import Score, Scorer, ScorerError, Span

# Reasons are cut to this length, because an error may quote the whole text.
_REASON_CHARACTERS = 200

# Any exception of a scorer fails its document. SystemExit is included, because a library that calls
# `sys.exit` would otherwise end the command without an error.
_FAILURES = (Exception, SystemExit)


@dataclass(frozen=True, slots=True)
class Annotation:
    """The scores of one document.

    Attributes:
        row: Row in the shard.
        id: Id of the document.
        source: Origin of the document, if it is known.
        segment_ends: Segment ends in characters.
        scores: A score for each segment; `None` = no score.
        spans: For each segment, the spans that caused its score.
    """

    row: int
    id: str
    source: str | None
    segment_ends: list[int]
    scores: list[float | None]
    spans: list[tuple[Span, ...]]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Documents that are scored in one go.

    Attributes:
        documents: Each document with its row in the shard.
        scorers: Names of the scorers to score them.
        position: How much of the shard had been read after the last of them.
    """

    documents: list[tuple[int, Document]]
    scorers: list[str]
    position: int

    @property
    def next_row(self) -> int:
        """The row after the last of the chunk."""
        return self.documents[-1][0] + 1


@dataclass(frozen=True, slots=True)
class Scored:
    """The results of one scorer for a chunk.

    Attributes:
        annotations: The documents that could be scored, in order.
        failed: Row and reason of each other document.
    """

    annotations: list[Annotation]
    failed: list[tuple[int, str]]

    @property
    def last_row(self) -> int:
        """Last row that the scorer scored, or -1. Empty documents do not count: they need no scorer."""
        return max((one.row for one in self.annotations if one.segment_ends), default=-1)


def score_chunk(chunk: Chunk, scorers: Mapping[str, Scorer], segment: Segmenter) -> dict[str, Scored]:
    """Cuts documents into segments, and scores them with each scorer of the chunk.

    If a scorer fails on the chunk, each document is scored once more on its own. Only the documents that fail
    again are listed as failed.

    Raises:
        ScorerError: A scorer cannot be used at all.
    """
    segments = [segment(document.text) for _, document in chunk.documents]
    ends = [list(accumulate(map(len, pieces))) for pieces in segments]
    return {name: _score_chunk(chunk, segments, ends, scorers[name]) for name in chunk.scorers}


Values = tuple[list[float | None], list[tuple[Span, ...]]]
"""Score and spans of each segment of a document."""


def _score_chunk(
    chunk: Chunk, segments: Sequence[list[str]], ends: Sequence[list[int]], scorer: Scorer
) -> Scored:
    found: list[Values | str]
    try:
        found = [_checked(*pair) for pair in zip(segments, scorer.score(segments), strict=True)]
    except ScorerError:
        raise
    except _FAILURES:
        found = [_score_alone(pieces, scorer) for pieces in segments]
    scored = Scored([], [])
    for (row, document), document_ends, values in zip(chunk.documents, ends, found, strict=True):
        if isinstance(values, str):
            scored.failed.append((row, f"scorer {scorer.name}: {values}"))
        else:
            scored.annotations.append(Annotation(row, document.id, document.source, document_ends, *values))
    return scored


def _score_alone(segments: Sequence[str], scorer: Scorer) -> Values | str:
    """Scores one document on its own; returns the reason if that fails."""
    try:
        (scores,) = scorer.score([segments])
        return _checked(segments, scores)
    except ScorerError:
        raise
    except _FAILURES as error:
        reason = "".join(str(error).splitlines()[:1])[:_REASON_CHARACTERS]
        return f"{type(error).__name__}: {''.join(c if c.isprintable() else '?' for c in reason)}"


def _checked(segments: Sequence[str], scores: Sequence[Score]) -> Values:
    """Checks the scores of a document, and returns scores and spans of its segments.

    Raises:
        ValueError: A score violates the contract of `Scorer`.
    """
    if len(scores) != len(segments):
        raise ValueError(f"{len(scores)} scores for {len(segments)} segments")
    values: list[Any] = [score.value for score in scores]
    # Nearly always all scores are valid, which one fast check shows. A check of each score would take longer
    # than the rest of this function.
    if set(map(type, values)) != {float} or not (min(values) >= 0 and sum(values) <= LARGEST_SCORE):
        values = [_value(value) for value in values]
    spans = [score.spans for score in scores]
    if any(spans):
        for segment, found in zip(segments, spans, strict=True):
            _check_spans(found, segment)
    return values, spans


def _value(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, Real) and 0 <= value <= LARGEST_SCORE:  # type: ignore[operator]
        return float(value)
    raise ValueError(f"the score {value} is not a number of 0 or more that fits float32")


def _check_spans(spans: Sequence[Span], segment: str) -> None:
    for span in spans:
        if not isinstance(span.label, str):
            raise TypeError(f"{span} has a label that is not text")
        if not 0 <= index(span.start) <= index(span.end) <= len(segment):
            raise ValueError(f"{span} is outside of its segment of {len(segment)} characters")
