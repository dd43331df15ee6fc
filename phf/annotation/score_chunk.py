"""Scoring some documents: segments, their scores, and which documents a scorer fails on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from numbers import Real
from operator import index
from typing import Any

from phf.documents.documents import LARGEST_SCORE, Document
from phf.documents.segments import Segmenter
from scorers import Score, Scorer, ScorerError, Span

# An error may hold the whole text that it is about.
_REASON_CHARACTERS = 200

# Whatever a scorer raises fails its document; a library that calls `sys.exit` must not end all quietly.
_FAILURES = (Exception, SystemExit)


@dataclass(frozen=True, slots=True)
class Annotation:
    """The scores of one document.

    Attributes:
        row: Its row in the shard.
        id: Its name.
        source: Where it comes from, if it says so.
        segment_ends: Characters at which its segments end.
        scores: A score for each segment; `None`: the scorer cannot say.
        spans: For each segment what caused its score.
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
        documents: Each with its row in the shard.
        scorers: Which scorers are to score them.
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
    """What became of the documents of a chunk with one scorer.

    Attributes:
        annotations: Of the documents that could be scored, in order.
        failed: Row and reason of the others.
    """

    annotations: list[Annotation]
    failed: list[tuple[int, str]]

    @property
    def last_row(self) -> int:
        """The last row that the scorer has been of use for, -1 if none; an empty document needs no scorer."""
        return max((one.row for one in self.annotations if one.segment_ends), default=-1)


def score_chunk(chunk: Chunk, scorers: Mapping[str, Scorer], segment: Segmenter) -> dict[str, Scored]:
    """Cuts documents, and has them scored by each scorer of the chunk.

    A document that a scorer fails on is scored once more on its own before it is given up.

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
    """The scores of one document, or why there are none."""
    try:
        (scores,) = scorer.score([segments])
        return _checked(segments, scores)
    except ScorerError:
        raise
    except _FAILURES as error:
        reason = "".join(str(error).splitlines()[:1])[:_REASON_CHARACTERS]
        return f"{type(error).__name__}: {''.join(c if c.isprintable() else '?' for c in reason)}"


def _checked(segments: Sequence[str], scores: Sequence[Score]) -> Values:
    """The scores of a document.

    Raises:
        ValueError: They break the contract.
    """
    if len(scores) != len(segments):
        raise ValueError(f"{len(scores)} scores for {len(segments)} segments")
    values: list[Any] = [score.value for score in scores]
    # Nearly always all are right, and told at once; to look at each takes longer than all else here.
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
