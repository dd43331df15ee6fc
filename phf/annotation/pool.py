"""Scores documents in this process or in several worker processes.

A scoring process imports only this module, its dependencies and the scorer, so that it starts quickly.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any

from phf.annotation.score_chunk import Chunk, Scored, score_chunk
from phf.base.errors import PhfError
from phf.config import ScorerConfig, SegmenterConfig
from phf.documents.segments import Segmenter, segmenter
from scorers import Scorer, ScorerError, load_scorer

# After this many failed documents in a row, the scorer is considered broken, and not the documents.
_MOST_FAILURES = 32

ByProcess = tuple[int, dict[str, Scored]]
"""Id of the process that scored a chunk, and the results of each scorer."""


class Scoring:
    """Scores chunks of documents in this process or in several, and returns them in order.

    Args:
        scorers: The scorers of this process, by the name of their scores.
        configs: The configurations from which other processes build their scorers.
        segmenter_config: How documents are cut.
        processes: Number of processes. 0 means one per GPU if a scorer runs on any GPU (`cuda`), one if a
            scorer runs on a given device, and else one per core.

    Attributes:
        most_waiting: Most chunks that are being scored or waiting at a time.
    """

    def __init__(
        self,
        scorers: Mapping[str, Scorer],
        configs: Mapping[str, ScorerConfig],
        segmenter_config: SegmenterConfig,
        processes: int,
    ):
        devices = {scorer.device for scorer in scorers.values()} - {"cpu"}
        gpus = _visible_gpus() if "cuda" in devices else []
        processes = processes or len(gpus) or (1 if devices else num_cores())
        self.most_waiting = 2 * processes if processes > 1 else 1
        self._scorers, self._segment = scorers, segmenter(segmenter_config)
        # Failed documents in a row, across shards. They are counted by scorer (with process `None`), and also
        # by process and scorer, because one GPU of many may break.
        self._failures: dict[tuple[int | None, str], int] = {}
        self._others = set(multiprocessing.active_children())
        self._pool: ProcessPoolExecutor | None = None
        if processes > 1:
            context = multiprocessing.get_context("spawn")
            arguments = (dict(configs), segmenter_config, context.Value("i", 0), processes, gpus)
            self._pool = ProcessPoolExecutor(processes, context, _start, arguments)

    def __enter__(self) -> Scoring:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is None:
            return
        if kind is not None:  # nobody waits for the chunks in progress any more
            for child in set(multiprocessing.active_children()) - self._others:
                child.terminate()
        self._pool.shutdown(cancel_futures=True)

    def run(self, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, dict[str, Scored]]]:
        """Scores each chunk, and reads a few chunks ahead.

        A chunk whose last documents failed is held back until a later document is scored. If the scorer turns
        out to be broken, these documents are not listed as bad, and the same command scores them later.

        Raises:
            PhfError: A scorer is broken or cannot be used, or a process was killed.
        """
        held: deque[tuple[Chunk, dict[str, Scored]]] = deque()
        # The chunk at which the current failures began. That chunk and all later ones are held back.
        since: dict[tuple[int | None, str], int] = {}
        try:
            for number, (chunk, (process, by_scorer)) in enumerate(self._scored(chunks)):
                held.append((chunk, by_scorer))
                for name, scored in by_scorer.items():
                    for key in ((process, name), (None, name)):
                        if scored.last_row >= 0:
                            since.pop(key, None)
                        if self._count_failures(key, scored):
                            since.setdefault(key, number)
                while held and number + 1 - len(held) < min(since.values(), default=number + 1):
                    yield held.popleft()
        except ScorerError as error:
            raise PhfError(str(error)) from error
        yield from held

    def _count_failures(self, key: tuple[int | None, str], scored: Scored) -> int:
        failures = sum(row > scored.last_row for row, _ in scored.failed)
        if scored.last_row < 0:
            failures += self._failures.get(key, 0)
        self._failures[key] = failures
        if failures >= _MOST_FAILURES:
            raise PhfError(
                f"{scored.failed[-1][1]} ({failures} documents in a row have failed); once the scorer works "
                "again, the same command goes on from here"
            )
        return failures

    def _scored(self, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, ByProcess]]:
        if self._pool is None:
            for chunk in chunks:
                yield chunk, (os.getpid(), score_chunk(chunk, self._scorers, self._segment))
            return
        waiting: deque[tuple[Chunk, Future[ByProcess]]] = deque()
        try:
            for chunk in chunks:
                waiting.append((chunk, self._pool.submit(_score, chunk)))
                if len(waiting) >= self.most_waiting:
                    first, future = waiting.popleft()
                    yield first, future.result()
            for first, future in waiting:
                yield first, future.result()
        except BrokenProcessPool as error:
            raise PhfError(
                "a scoring process was killed (out of memory?); the same command goes on from here, "
                "with fewer annotations.processes if need be"
            ) from error


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _visible_gpus() -> list[str]:
    """Lists the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]


_configs: tuple[Mapping[str, ScorerConfig], SegmenterConfig]
_built: tuple[dict[str, Scorer], Segmenter] | None = None


def _start(
    scorers: Mapping[str, ScorerConfig],
    segments: SegmenterConfig,
    num_started: Any,
    processes: int,
    gpus: Sequence[str],
) -> None:
    """Prepares a scoring process. The scorers are built with the first chunk, so that errors are reported."""
    global _configs
    _configs = scorers, segments
    with num_started.get_lock():
        number = num_started.value
        num_started.value += 1
    # torch reads both variables when it is first imported, which happens later.
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // processes)))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when the main process ends, even if the main process was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _score(chunk: Chunk) -> ByProcess:
    global _built
    if _built is None:
        configs, segments = _configs
        scorers = {name: load_scorer(config.name, **config.options) for name, config in configs.items()}
        _built = scorers, segmenter(segments)
    return os.getpid(), score_chunk(chunk, *_built)
