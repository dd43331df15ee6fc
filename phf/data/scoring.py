"""Scoring documents, in this process or in several.

A process that scores imports no more than this module and the scorer, so that it starts quickly.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import accumulate
from numbers import Real
from operator import index
from types import TracebackType

from phf.config import ScorerConfig, SegmenterConfig
from phf.data.documents import LARGEST_SCORE, Document
from phf.data.segments import Segmenter, segmenter
from phf.errors import PhfError
from scorers import Score, Scorer, ScorerError, Span, load_scorer

# After so many failed documents in a row it is the scorer that is broken, not the documents.
_MOST_FAILURES = 32

# Whatever a scorer raises fails its document; a library that calls `sys.exit` must not end all quietly.
_FAILURES = (Exception, SystemExit)


@dataclass(frozen=True, slots=True)
class Annotation:
    """The scores of one document.

    Attributes:
        row: Its row in the shard.
        id: Its name.
        segment_ends: Characters at which its segments end.
        scores: A score for each segment; `None`: the scorer cannot say.
        spans: For each segment what caused its score.
    """

    row: int
    id: str
    segment_ends: list[int]
    scores: list[float | None]
    spans: list[tuple[Span, ...]]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Documents that are scored in one go.

    Attributes:
        documents: Each with its row in the shard.
        position: How much of the shard had been read after the last of them.
    """

    documents: list[tuple[int, Document]]
    position: int


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of a chunk.

    Attributes:
        annotations: Of the documents that could be scored, in order.
        failed: Row and reason of the others.
        next_row: The row after the last of the chunk.
        position: The chunk's.
    """

    annotations: list[Annotation]
    failed: list[tuple[int, str]]
    next_row: int
    position: int


def score_chunk(chunk: Chunk, scorer: Scorer, segment: Segmenter) -> Scored:
    """Cuts and scores documents.

    A document that the scorer fails on is scored once more on its own before it is given up.

    Raises:
        ScorerError: The scorer cannot be used at all.
    """
    segments = [segment(document.text) for _, document in chunk.documents]
    found: list[Sequence[Score] | str]
    try:
        found = [_checked(*pair) for pair in zip(segments, scorer.score(segments), strict=True)]
    except ScorerError:
        raise
    except _FAILURES:
        found = [_score_alone(pieces, scorer) for pieces in segments]
    annotations: list[Annotation] = []
    failed: list[tuple[int, str]] = []
    for (row, document), pieces, scores in zip(chunk.documents, segments, found, strict=True):
        if isinstance(scores, str):
            failed.append((row, f"scorer {scorer.name}: {scores}"))
            continue
        ends = list(accumulate(map(len, pieces)))
        values = [None if score.value is None else float(score.value) for score in scores]
        spans = [score.spans for score in scores]
        annotations.append(Annotation(row, document.id, ends, values, spans))
    return Scored(annotations, failed, chunk.documents[-1][0] + 1, chunk.position)


def _score_alone(segments: Sequence[str], scorer: Scorer) -> Sequence[Score] | str:
    """The scores of one document, or why there are none."""
    try:
        (scores,) = scorer.score([segments])
        return _checked(segments, scores)
    except ScorerError:
        raise
    except _FAILURES as error:
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _checked(segments: Sequence[str], scores: Sequence[Score]) -> Sequence[Score]:
    """The scores of a document.

    Raises:
        ValueError: They break the contract.
    """
    if len(scores) != len(segments):
        raise ValueError(f"{len(scores)} scores for {len(segments)} segments")
    for segment, score in zip(segments, scores, strict=True):
        value = score.value
        if value is not None and not (isinstance(value, Real) and 0 <= value <= LARGEST_SCORE):
            raise ValueError(f"the score {value} is not a number of 0 or more that fits float32")
        for span in score.spans:
            if not isinstance(span.label, str):
                raise TypeError(f"{span} has a label that is not text")
            if not 0 <= index(span.start) <= index(span.end) <= len(segment):
                raise ValueError(f"{span} is outside of its segment of {len(segment)} characters")
    return scores


class Scoring:
    """Scores chunks of documents, in this process or in several, and gives them back in order.

    Args:
        scorer: The scorer of this process.
        scorer_config: How other processes build theirs.
        segmenter_config: How documents are cut.
        processes: How many; 0 for one a core.
    """

    def __init__(
        self, scorer: Scorer, scorer_config: ScorerConfig, segmenter_config: SegmenterConfig, processes: int
    ):
        processes = processes or num_cores()
        self._scorer, self._segment = scorer, segmenter(segmenter_config)
        self._most_waiting = 3 * processes
        self._failures = 0  # documents in a row that failed, over shards
        self._others = set(multiprocessing.active_children())
        self._pool: ProcessPoolExecutor | None = None
        if processes > 1:
            self._pool = ProcessPoolExecutor(
                processes, multiprocessing.get_context("spawn"), _start, (scorer_config, segmenter_config)
            )

    def __enter__(self) -> Scoring:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is None:
            return
        if kind is not None:  # nobody waits for what is being scored now
            for child in set(multiprocessing.active_children()) - self._others:
                child.terminate()
        self._pool.shutdown(cancel_futures=True)

    def run(self, chunks: Iterable[Chunk]) -> Iterator[Scored]:
        """Scores each chunk; a few are read ahead.

        A chunk whose last documents failed is held back until a later one is scored: if the scorer broke
        there, they are not given up, and the same command goes on with them.

        Raises:
            PhfError: The scorer is broken or cannot be used, or a process was killed.
        """
        held: list[Scored] = []
        try:
            for scored in self._scored(chunks):
                held.append(scored)
                last = scored.annotations[-1].row if scored.annotations else -1
                failures = sum(row > last for row, _ in scored.failed)
                self._failures = failures if scored.annotations else self._failures + failures
                if self._failures >= _MOST_FAILURES:
                    raise PhfError(
                        f"{scored.failed[-1][1]} (and so for {self._failures} documents in a row); once the "
                        "scorer works again, the same command goes on from here"
                    )
                if not self._failures:
                    yield from held
                    held.clear()
        except ScorerError as error:
            raise PhfError(str(error)) from error
        yield from held

    def _scored(self, chunks: Iterable[Chunk]) -> Iterator[Scored]:
        if self._pool is None:
            for chunk in chunks:
                yield score_chunk(chunk, self._scorer, self._segment)
            return
        waiting: deque[Future[Scored]] = deque()
        try:
            for chunk in chunks:
                waiting.append(self._pool.submit(_score, chunk))
                if len(waiting) >= self._most_waiting:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise PhfError(
                "a scoring process was killed (out of memory?); the same command goes on from here, "
                "with fewer annotations.processes if need be"
            ) from error


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_configs: tuple[ScorerConfig, SegmenterConfig]
_built: tuple[Scorer, Segmenter] | None = None


def _start(scorer: ScorerConfig, segments: SegmenterConfig) -> None:
    """Prepares a scoring process; the scorer is built with the first chunk, whose error is heard of."""
    global _configs
    _configs = scorer, segments
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process with the main one, which may be killed without a word."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _score(chunk: Chunk) -> Scored:
    global _built
    if _built is None:
        scorer, segments = _configs
        _built = load_scorer(scorer.name, **scorer.options), segmenter(segments)
    return score_chunk(chunk, *_built)
