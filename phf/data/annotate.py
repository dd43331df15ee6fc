"""The verb `annotate`: documents in, a score for every segment out, beside the documents."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import platform
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import phf
from phf.config import Config, DocumentsConfig, ScorerConfig, SegmenterConfig
from phf.data.documents import BadRow, Document, Shard, list_shards
from phf.data.segments import Segmenter, segmenter
from phf.data.sidecars import Annotation, SidecarWriter, read_scores
from phf.errors import ConfigError, PhfError
from scorers import Scorer, load_scorer

log = logging.getLogger("phf")

# Documents that a process scores at a time: enough to outweigh sending them, few enough to share out evenly.
_CHUNK = 32

Rows = list[tuple[int, Document]]


def annotate(config: Config) -> dict[str, Any]:
    """Scores every segment of the configured documents; what is already scored is not scored again.

    Args:
        config: `documents`, `segmenter`, `scorer` and `annotations` are used.

    Returns:
        The manifest; its `counts` are null as long as other parts of the shards are not done.

    Raises:
        ConfigError: There are no documents, or the folder holds other annotations.
        PhfError: More rows are bad than `documents.max_bad_rows`, or a scoring process died.
        scorers.ScorerError: The scorer cannot be built.
    """
    if config.documents.format == "scored":
        raise ConfigError(
            "documents.format=scored: these documents have their scores; go on with `phf tokenize`"
        )
    scorer = load_scorer(config.scorer.name, **config.scorer.options)
    shards = list_shards(config.documents)
    folder = Path(config.annotations.path) / scorer.name
    try:
        manifest = _claim(folder, _identity(config, scorer, shards))
    except OSError as error:
        raise PhfError(f"annotations.path: {folder} cannot be written: {error.strerror}") from error
    mine = shards[config.annotations.part :: config.annotations.parts]
    todo = [shard for shard in mine if not (folder / f"{shard.name}.parquet").is_file()]
    if todo:
        with _Scoring(config, scorer) as scoring, _Bar(len(mine), len(mine) - len(todo)) as bar:
            for shard in todo:
                _annotate_shard(shard, folder, scoring, config.documents, bar)
    if manifest["counts"] is None and all((folder / f"{shard.name}.parquet").is_file() for shard in shards):
        summary = _summary(folder, shards)
        manifest |= summary
        _write(folder / "manifest.json", manifest)
        counts = summary["counts"]
        log.info(
            "%s: %d segments of %d documents, mean score %.4g; %d rows bad, %d segments without a score",
            folder, counts["segments"], counts["documents"], summary["mean"] or 0.0, counts["bad_rows"],
            counts["unscored"],
        )  # fmt: skip
    return manifest


def _identity(config: Config, scorer: Scorer, shards: Sequence[Shard]) -> dict[str, Any]:
    """What must be the same for annotations to go on in a folder."""
    documents = asdict(config.documents)
    del documents["max_bad_rows"]
    return {
        "documents": documents,
        "segmenter": asdict(config.segmenter),
        "scorer": {
            "name": scorer.name,
            "version": scorer.version,
            "fingerprint": scorer.fingerprint,
            "options": config.scorer.options,
            "settings": dict(scorer.settings()),
            "measures": scorer.measures,
            # JSON has no infinity.
            "range": [bound if math.isfinite(bound) else None for bound in scorer.range],
        },
        "shards": [{"name": shard.name, "fingerprint": shard.fingerprint()} for shard in shards],
    }


def _claim(folder: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The manifest in the folder, written by whoever comes first."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "manifest.json"
    manifest = {
        "format": 1,
        **identity,
        "versions": {"phf": phf.__version__, "python": platform.python_version()},
        "counts": None,
    }
    if not path.exists():
        temporary = folder / f".manifest.{os.getpid()}.tmp"
        temporary.write_text(json.dumps(manifest, indent=2) + "\n")
        try:
            os.link(temporary, path)  # unlike a rename, this fails if another process was faster
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    there: dict[str, Any] = json.loads(path.read_text())
    for key, value in json.loads(json.dumps(identity)).items():
        if there[key] != value:
            raise ConfigError(f"{folder} was annotated with other {key} ({_difference(there[key], value)}): "
                              "choose another annotations.path, or delete the folder")  # fmt: skip
    return there


def _difference(old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        key = next(key for key in {**old, **new} if old.get(key) != new.get(key))
        return f"{key}: {old.get(key)}, now {new.get(key)}"
    changed = [shard["name"] for shard in [*old, *new] if shard not in old or shard not in new]
    return f"shard {changed[0]}"


def _write(path: Path, manifest: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(manifest, indent=2) + "\n")
    temporary.replace(path)


def _summary(folder: Path, shards: Sequence[Shard]) -> dict[str, Any]:
    """Counts and quantiles of all the shards."""
    scores, documents, bad = [], 0, 0
    for shard in shards:
        for batch, rows in read_scores(folder / f"{shard.name}.parquet"):
            scores.append(batch)
            documents += rows
        side_file = folder / f"{shard.name}.bad.jsonl"
        bad += len(side_file.read_text().splitlines()) if side_file.is_file() else 0
    every = np.concatenate(scores) if scores else np.zeros(0, np.float32)
    known = every[~np.isnan(every)].astype(np.float64)
    grid = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
    return {
        "counts": {
            "documents": documents,
            "segments": len(every),
            "unscored": len(every) - len(known),
            "bad_rows": bad,
        },
        "mean": float(known.mean()) if len(known) else None,
        "quantiles": dict(zip(map(str, grid), np.quantile(known, grid).tolist(), strict=True))
        if len(known)
        else {},
    }


def _annotate_shard(
    shard: Shard, folder: Path, scoring: _Scoring, config: DocumentsConfig, bar: _Bar
) -> None:
    writer = SidecarWriter(folder, shard.name)
    unread: list[BadRow] = []
    chunks = _chunks(shard, writer.next_row, unread)
    bar.add(writer.num_documents)
    for scored, failed, next_row in scoring.run(chunks):
        # What the reader has rejected so far, as far as it lies before what is written now.
        rejected = [row for row in unread if row.row < next_row]
        unread[:] = [row for row in unread if row.row >= next_row]
        rejected += [BadRow(shard.name, row, reason) for row, reason in failed]
        writer.add(scored, sorted(rejected, key=lambda row: row.row), next_row)
        _check_bad(writer.bad, config.max_bad_rows)
        bar.add(len(scored))
    writer.add([], unread, writer.next_row + 1)
    _check_bad(writer.bad, config.max_bad_rows)
    writer.finish()
    bar.finish_shard(shard.name, writer.num_documents, len(writer.bad))


def _check_bad(bad: Sequence[BadRow], limit: int | None) -> None:
    if limit is not None and len(bad) > limit:
        last = bad[-1]
        raise PhfError(
            f"{len(bad)} rows cannot be used, more than documents.max_bad_rows={limit}; "
            f"the last: shard {last.shard}, row {last.row}: {last.reason}"
        )


def _chunks(shard: Shard, first_row: int, unread: list[BadRow]) -> Iterator[Rows]:
    chunk: Rows = []
    for row, document in shard.read(lambda bad: unread.append(bad) if bad.row >= first_row else None):
        if row >= first_row:
            chunk.append((row, document))
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


Scored = tuple[list[Annotation], list[tuple[int, str]]]


class _Scoring:
    """Scores chunks of documents, in this process or in several, and gives them back in order."""

    def __init__(self, config: Config, scorer: Scorer):
        processes = config.annotations.processes or len(os.sched_getaffinity(0))
        self.limit = 4 * processes
        self.scorer, self.segment = scorer, segmenter(config.segmenter)
        self.pool = None
        if processes > 1:
            self.pool = ProcessPoolExecutor(
                processes, multiprocessing.get_context("spawn"), _start, (config.scorer, config.segmenter)
            )

    def __enter__(self) -> _Scoring:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def run(self, chunks: Iterator[Rows]) -> Iterator[tuple[list[Annotation], list[tuple[int, str]], int]]:
        """Annotations and bad rows of each chunk, and the row after its last."""
        if self.pool is None:
            for chunk in chunks:
                yield *score_documents(chunk, self.scorer, self.segment), chunk[-1][0] + 1
            return
        waiting: deque[tuple[Future[Scored], int]] = deque()
        try:
            for chunk in chunks:
                waiting.append((self.pool.submit(_score, chunk), chunk[-1][0] + 1))
                if len(waiting) >= self.limit:
                    future, next_row = waiting.popleft()
                    yield *future.result(), next_row
            while waiting:
                future, next_row = waiting.popleft()
                yield *future.result(), next_row
        except BrokenProcessPool as error:
            raise PhfError(
                "a scoring process was killed (out of memory?); the same command goes on, "
                "with fewer annotations.processes if need be"
            ) from error


_worker: tuple[Scorer, Segmenter]


def _start(scorer: ScorerConfig, cut: SegmenterConfig) -> None:
    global _worker
    _worker = load_scorer(scorer.name, **scorer.options), segmenter(cut)


def _score(rows: Rows) -> Scored:
    return score_documents(rows, *_worker)


def score_documents(rows: Rows, scorer: Scorer, segment: Segmenter) -> Scored:
    """Cuts and scores documents.

    Returns:
        Their annotations, and (row, reason) of those that the scorer failed on.
    """
    segments = [segment(document.text) for _, document in rows]
    try:
        scores = scorer.score(segments)
        if len(scores) != len(segments):
            raise ValueError(f"{len(scores)} documents scored instead of {len(segments)}")
    except Exception as error:  # whatever a scorer raises
        if len(rows) == 1:
            reason = str(error).partition("\n")[0]
            return [], [(rows[0][0], f"{type(error).__name__} in scorer {scorer.name}: {reason}")]
        # One at a time, so that one document does not spoil the others.
        single = [score_documents([row], scorer, segment) for row in rows]
        return [a for annotations, _ in single for a in annotations], [b for _, bad in single for b in bad]
    annotations, bad = [], []
    for (row, document), pieces, found in zip(rows, segments, scores, strict=True):
        values = [score.value for score in found]
        wrong = [value for value in values if value is not None and not (math.isfinite(value) and value >= 0)]
        if len(found) != len(pieces):
            bad.append((row, f"scorer {scorer.name} gave {len(found)} scores for {len(pieces)} segments"))
        elif wrong:
            bad.append((row, f"scorer {scorer.name} gave the score {wrong[0]}"))
        else:
            ends = list(accumulate(len(piece) for piece in pieces))
            annotations.append(Annotation(row, document.id, ends, values, [score.spans for score in found]))
    return annotations, bad


class _Bar:
    """Progress by shard and documents: a bar in a terminal, a line a shard elsewhere."""

    def __init__(self, total: int, done: int):
        console = Console(stderr=True)
        columns = (TextColumn("shards"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
                   TimeElapsedColumn())  # fmt: skip
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self.task = self.progress.add_task("", total=total, completed=done, rate="")
        self.documents = 0

    def __enter__(self) -> _Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def add(self, documents: int) -> None:
        self.documents += documents
        elapsed = self.progress.tasks[0].elapsed or 1e-9
        rate = f"{self.documents:,} documents, {self.documents / elapsed:,.0f}/s"
        self.progress.update(self.task, rate=rate)

    def finish_shard(self, name: str, documents: int, bad: int) -> None:
        self.progress.advance(self.task)
        if self.progress.disable:
            log.info("%s: %d documents, %d bad rows", name, documents, bad)
