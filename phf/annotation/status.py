"""How far annotating has come, by what is in its folder: nothing is scored, and no document is read."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from phf.annotation.sidecars import sidecar_path
from phf.base.errors import PhfError
from phf.config import Config
from phf.documents.documents import BadRow

LATELY_SECONDS = 600.0
"""The rate is that of what was written in so many seconds up to now."""
_FAILURES = 5


@dataclass(frozen=True)
class Status:
    """How far a scorer has come.

    Attributes:
        scorer: The name of its scores.
        shards: How many there are; 0 if it has not begun.
        done: Shards that are annotated to their end.
        in_progress: Shards of which some is annotated.
        rows: Rows done so far, bad ones included.
        segments: Segments of these rows.
        bad_rows: Rows that could not be read or scored.
        failures: The last few of these, the last one last.
        written: When something was written last, in seconds since the epoch; `None` if nothing was.
        rows_per_second: Over what was written lately; `None` if nothing was, or too little to tell.
        seconds_left: If it goes on so, and the other shards have as many rows as those that are done are on
            average; `None` if that is not known.
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
    """How far each scorer of a configuration has come.

    Raises:
        PhfError: None of them has begun, or a file cannot be read.
    """
    folders = {name: Path(config.annotations.path) / name for name in config.scorers()}
    begun = {name for name, folder in folders.items() if (folder / "manifest.json").is_file()}
    if not begun:
        raise PhfError(
            f"{config.annotations.path}: no annotations of {', '.join(folders)}; run `phf annotate` first, "
            "or set annotations.path"
        )
    return [scorer_status(folder) if name in begun else Status(name) for name, folder in folders.items()]


def scorer_status(folder: Path) -> Status:
    """How far a scorer has come, by its folder.

    Raises:
        PhfError: A file of it cannot be read.
    """
    names = [shard["name"] for shard in read_manifest(folder)["shards"]]
    found = [shard for name in names if (shard := _read_shard(folder, name)) is not None]
    done = [shard for shard in found if shard.done]
    in_progress = [shard for shard in found if not shard.done]
    rate = _rate(done, in_progress, time.time() - LATELY_SECONDS) if len(done) < len(names) else None
    left = None
    if rate and done:
        average = sum(shard.rows for shard in done) / len(done)
        rows = average * (len(names) - len(found)) + sum(max(0, average - s.rows) for s in in_progress)
        left = rows / rate
    return Status(
        folder.name,
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


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a scorer's folder.

    Raises:
        PhfError: There is none, or it is something else.
    """
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        manifest["shards"], manifest["scorer"]["measures"]
    except OSError as error:
        raise PhfError(f"{path}: {error.strerror}; run `phf annotate` first") from error
    except (ValueError, KeyError, TypeError) as error:
        raise PhfError(f"{path} is not the manifest of annotations: delete the folder") from error
    return manifest


def num_segments(metadata: pq.FileMetaData) -> int:
    """How many segments a sidecar or a part of one has, by its footer alone."""
    total = 0
    for group in range(metadata.num_row_groups):
        columns = map(metadata.row_group(group).column, range(metadata.num_columns))
        ends = next(column for column in columns if column.path_in_schema.startswith("segment_ends"))
        if ends.num_values:  # without any there are no statistics; a document without a segment is a null
            total += ends.num_values - ends.statistics.null_count
    return total


@dataclass(frozen=True)
class _Shard:
    """What is there of a shard that has been begun.

    Attributes:
        done: Whether it has come to its end.
        rows: Rows done so far, bad ones included.
        segments: Segments of these rows.
        num_bad: How many of the rows are bad.
        bad: The last few of these.
        steps: When something of it was written, and how many rows; the first is when the process that is at
            it, or was the last one, began.
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


def _read_shard(folder: Path, name: str) -> _Shard | None:
    """What is there of a shard; `None` if it has not been begun."""
    listed = _read_bad(folder / f"{name}.bad.jsonl")
    try:
        if not sidecar_path(folder, name).is_file():
            return _read_parts(folder / f".{name}.parts", listed)
    except FileNotFoundError:  # it has come to its end meanwhile
        listed = _read_bad(folder / f"{name}.bad.jsonl")
    path = sidecar_path(folder, name)
    if not path.is_file():
        return None
    metadata = _read_metadata(path, delete=path)
    rows = metadata.num_rows + len(listed)
    bad = list(listed.values())[-_FAILURES:]
    return _Shard(True, rows, num_segments(metadata), len(listed), bad, [(path.stat().st_mtime, rows)])


def _read_parts(folder: Path, listed: dict[int, BadRow]) -> _Shard | None:
    """A shard in progress, by its parts and by the side file that a process stopped by bad rows has left."""
    if not folder.is_dir():
        return None
    rows, segments = 0, 0
    bad: dict[int, BadRow] = {}
    begun = (folder / "lock").stat().st_mtime  # of the process that is at it, or was the last one
    steps = [(begun, 0)]
    for part in sorted(folder.glob("*.parquet")):
        metadata = _read_metadata(part, delete=folder)
        new = json.loads(metadata.metadata[b"phf"])["bad"]
        bad |= {row["row"]: BadRow(**row) for row in new}
        rows += metadata.num_rows
        segments += num_segments(metadata)
        steps.append((part.stat().st_mtime, metadata.num_rows + len(new)))
    bad |= listed
    steps = [(written, count) for written, count in steps if written >= begun]
    return _Shard(False, rows + len(bad), segments, len(bad), list(bad.values())[-_FAILURES:], steps)


def _read_metadata(path: Path, delete: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path)
    except pa.ArrowException as error:
        raise PhfError(f"{path} is broken: delete {delete}, and its shard is scored again") from error


def _read_bad(path: Path) -> dict[int, BadRow]:
    """The bad rows in a side file, by their numbers."""
    try:
        with path.open(encoding="utf-8") as lines:
            rows = [BadRow(**json.loads(line)) for line in lines]
    except FileNotFoundError:
        return {}
    return {row.row: row for row in rows}


def _rate(done: Sequence[_Shard], in_progress: Sequence[_Shard], since: float) -> float | None:
    """Rows a second of all processes together, by what was written after a time; `None` if too little was.

    Each shard in progress has a rate of its own, and one without a part yet is taken to be as fast as the
    others. Where shards are over before there is a part, the rate is that of their sidecars.
    """
    active = [shard for shard in in_progress if shard.written > since]
    rates = [rate for shard in active if (rate := _slope(shard.steps, since)) is not None]
    if rates:
        return sum(rates) / len(rates) * len(active)
    ends = sorted(shard.steps[-1] for shard in done)
    return _slope([(end, rows) for end, rows in ends if end > since], since)


def _slope(steps: Sequence[tuple[float, int]], since: float) -> float | None:
    """Rows a second from one of the steps on: the last one before a time, or else the first one."""
    first = max((i for i, (written, _) in enumerate(steps) if written <= since), default=0)
    rows = sum(rows for _, rows in steps[first + 1 :])
    seconds = steps[-1][0] - steps[first][0] if steps else 0.0
    return rows / seconds if rows and seconds > 0 else None
