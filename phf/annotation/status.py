"""Finds out how far annotation has come, from the annotations alone: no document is read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phf.annotation.annotations import Annotations, Part
from phf.base.errors import PhfError
from phf.config import Config
from phf.documents.shards import BadRow

LATELY_SECONDS = 600.0
"""The rate is computed from what was written in this many seconds up to now."""
_FAILURES = 5


@dataclass(frozen=True)
class Status:
    """Progress of a scorer.

    Attributes:
        scorer: Name of the scores.
        shards: Number of shards; 0 if annotation has not begun.
        done: Shards that are annotated to their end.
        in_progress: Shards that are partly annotated.
        rows: Rows done so far, including bad ones.
        segments: Segments of these rows.
        bad_rows: Rows that could not be read or scored.
        failures: The last few bad rows, the latest one last.
        written: Time of the last write, in seconds since the epoch; `None` if nothing was written.
        rows_per_second: Recent rate; `None` if too little was written recently.
        seconds_left: Time left at this rate, if the other shards have as many rows as the finished ones have
            on average; `None` if it is unknown.
    """

    scorer: str
    shards: int = 0
    done: int = 0
    in_progress: int = 0
    rows: int = 0
    segments: int = 0
    bad_rows: int = 0
    failures: Sequence[BadRow] = ()
    written: float | None = None
    rows_per_second: float | None = None
    seconds_left: float | None = None


def status(config: Config) -> list[Status]:
    """Returns the progress of each scorer of a configuration.

    Raises:
        PhfError: No scorer has begun, or a file cannot be read.
    """
    found = {name: Annotations(Path(config.annotations.path) / name) for name in config.scorers()}
    if not any(annotations.exist() for annotations in found.values()):
        raise PhfError(
            f"{config.annotations.path}: no annotations of {', '.join(found)}; run `phf annotate` first, "
            "or set annotations.path"
        )
    return [
        scorer_status(annotations) if annotations.exist() else Status(name)
        for name, annotations in found.items()
    ]


def scorer_status(annotations: Annotations) -> Status:
    """Returns the progress of a scorer.

    Raises:
        PhfError: A file of the scorer cannot be read.
    """
    names = [shard.name for shard in annotations.manifest().shards]
    found = [shard for name in names if (shard := _read_shard(annotations, name)) is not None]
    done = [shard for shard in found if shard.done]
    in_progress = [shard for shard in found if not shard.done]
    rate = _rate(done, in_progress, time.time() - LATELY_SECONDS) if len(done) < len(names) else None
    left = None
    if rate and done:
        average = sum(shard.rows for shard in done) / len(done)
        rows = average * (len(names) - len(found)) + sum(max(0, average - s.rows) for s in in_progress)
        left = rows / rate
    return Status(
        annotations.name,
        shards=len(names),
        done=len(done),
        in_progress=len(in_progress),
        rows=sum(shard.rows for shard in found),
        segments=sum(shard.segments for shard in found),
        bad_rows=sum(shard.num_bad for shard in found),
        failures=[row for shard in sorted(found, key=lambda s: s.written) for row in shard.bad][-_FAILURES:],
        written=max((shard.written for shard in found), default=None),
        rows_per_second=rate,
        seconds_left=left,
    )


@dataclass(frozen=True)
class _Shard:
    """Progress of a shard that has begun.

    Attributes:
        done: Whether the shard is annotated to its end.
        rows: Rows done so far, including bad ones.
        segments: Segments of these rows.
        num_bad: Bad rows among them.
        bad: The last few bad rows.
        steps: Time and number of rows of each write. In a shard in progress, the first step is the start of
            the process that works on it, or of the last one that did, with 0 rows.
    """

    done: bool
    rows: int
    segments: int
    num_bad: int
    bad: list[BadRow]
    steps: list[tuple[float, int]]

    @property
    def written(self) -> float:
        return self.steps[-1][0]


def _read_shard(annotations: Annotations, name: str) -> _Shard | None:
    """Returns the progress of a shard; `None` if it has not begun."""
    try:
        if not annotations.is_done(name):
            return _read_parts(annotations, name)
    except FileNotFoundError:  # the shard was completed in the meantime
        pass
    part = annotations.done_part(name)
    if part is None:
        return None
    rows = part.documents + len(part.bad)
    return _Shard(True, rows, part.segments, len(part.bad), part.bad[-_FAILURES:], [(part.written, rows)])


def _read_parts(annotations: Annotations, name: str) -> _Shard | None:
    """Returns the progress of a shard from its parts and its list of bad rows; `None` if it has not begun.

    A shard in progress has such a list if a process stopped because of too many bad rows.
    """
    folder = annotations.parts_folder(name)
    if not folder.is_dir():
        return None
    begun = (folder / "lock").stat().st_mtime  # start of the latest process that works on the shard
    parts: list[Part] = annotations.parts(name)
    bad = {row.row: row for part in parts for row in part.bad}
    bad |= {row.row: row for row in annotations.bad_rows(name)}
    steps = [(part.written, part.documents + len(part.bad)) for part in parts if part.written >= begun]
    return _Shard(
        False,
        sum(part.documents for part in parts) + len(bad),
        sum(part.segments for part in parts),
        len(bad),
        list(bad.values())[-_FAILURES:],
        [(begun, 0), *steps],
    )


def _rate(done: Sequence[_Shard], in_progress: Sequence[_Shard], since: float) -> float | None:
    """Returns the rows per second of all processes together, from what was written after a time.

    Each shard in progress has its own rate. A shard without a part yet is assumed to be as fast as the
    others. If shards are completed before their first part, the rate is that of their sidecars. The rate is
    `None` if too little was written.
    """
    active = [shard for shard in in_progress if shard.written > since]
    rates = [rate for shard in active if (rate := _slope(shard.steps, since)) is not None]
    if rates:
        return sum(rates) / len(rates) * len(active)
    ends = sorted(shard.steps[-1] for shard in done)
    return _slope([(end, rows) for end, rows in ends if end > since], since)


def _slope(steps: Sequence[tuple[float, int]], since: float) -> float | None:
    """Returns the rows per second since the last step before a time, or else since the first step."""
    first = max((i for i, (written, _) in enumerate(steps) if written <= since), default=0)
    rows = sum(rows for _, rows in steps[first + 1 :])
    seconds = steps[-1][0] - steps[first][0] if steps else 0.0
    return rows / seconds if rows and seconds > 0 else None
