"""Reads documents with their segments and scores, for `tokenize` and `annotations export`.

The scores of a corpus are stored in sidecars, with a folder for each scorer. This module joins the documents
with their scores. A mismatch is an error that names the shard and the row.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from phf.annotation.annotations import Annotations, find_annotations
from phf.annotation.manifest import Manifest
from phf.base.errors import PhfError
from phf.documents.shards import BadRow, Shard

log = logging.getLogger("phf")

Ends = NDArray[np.int32]
Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AnnotatedDocument:
    """A document, its segments and their scores.

    Attributes:
        row: Row in the shard.
        id: As in `Document`.
        text: The whole text.
        ends: int32 [S], segment ends in characters.
        scores: For each scorer float32 [S], NaN = no score.
    """

    row: int
    id: str
    text: str
    ends: Ends
    scores: list[Scores]

    def segments(self) -> list[str]:
        """Returns the segments; they join to the text."""
        bounds = [0, *self.ends.tolist()]
        return [self.text[a:b] for a, b in pairwise(bounds)]


def segments_check(ends: Ends) -> int:
    """Returns a hash of segment ends, int32 [S]: documents cut into the same segments have the same hash."""
    return int.from_bytes(hashlib.blake2b(ends.astype("<i4").tobytes(), digest_size=8).digest(), "little")


def usable_annotations(path: str | Path, shards: Sequence[Shard], wanted: str) -> dict[str, Manifest]:
    """Returns the manifests of the scorers that have annotated all the shards, by name.

    Other scorers than `wanted` are left out with a warning if their annotations are not complete, or are of
    other documents.

    Args:
        path: The folder with a subfolder for each scorer.
        shards: The documents.
        wanted: A scorer whose annotations must be usable.

    Raises:
        PhfError: The annotations of `wanted` are not usable, or two scorers cut the documents into different
            segments.
    """
    found = find_annotations(path)
    if not found:
        raise PhfError(f"{path}: no annotations there; run `phf annotate` first, or set annotations.path")
    if wanted not in found:
        raise PhfError(
            f"{path}: no scores of {wanted}, only of {', '.join(found)}; run `phf annotate` first, or set "
            "scorer.name"
        )
    manifests: dict[str, Manifest] = {}
    for name, one in found.items():
        try:
            manifest = one.manifest()
            _check_shards(one, manifest, shards)
            manifests[name] = manifest
        except PhfError as error:
            if name == wanted:
                raise
            log.warning("a scorer is left out: %s", error)
    _check_segments(path, manifests)
    return manifests


def _check_segments(path: str | Path, manifests: Mapping[str, Manifest]) -> None:
    first = next(iter(manifests))
    for name, manifest in manifests.items():
        if manifest.segmenter != manifests[first].segmenter:
            raise PhfError(
                f"{Path(path) / name} has other segments ({manifest.segmenter}) than {Path(path) / first} "
                f"({manifests[first].segmenter}): annotate again, or keep each in its own annotations.path"
            )


def _check_shards(annotations: Annotations, manifest: Manifest, shards: Sequence[Shard]) -> None:
    known, folder = manifest.fingerprints, annotations.folder
    for shard in shards:
        if known.pop(shard.name, None) != shard.fingerprint():
            raise PhfError(
                f"{folder}: shard {shard.name} is not there or has changed since then: annotate again"
            )
        if not annotations.is_done(shard.name):
            raise PhfError(
                f"{folder}: shard {shard.name} is not annotated yet; run `phf annotate` to the end first"
            )
    if known:
        raise PhfError(
            f"{folder}: shard {next(iter(known))} is annotated, but not among the documents any more"
        )


def read_annotated(shard: Shard, annotations: Sequence[Annotations]) -> Iterator[AnnotatedDocument]:
    """Yields the documents of a shard with the scores of all scorers.

    If one scorer could not score a document, its scores are NaN. A document that no scorer could score is
    left out.

    Args:
        shard: The documents.
        annotations: The annotations of each scorer.

    Raises:
        PhfError: Documents and annotations do not fit.
    """
    sidecars = [_Sidecar(one, shard.name) for one in annotations]
    # Rows that cannot be read were reported when the documents were annotated.
    for row, document in shard.read(lambda bad: None):
        found = [sidecar.take(row) for sidecar in sidecars]
        first = next((i for i, entry in enumerate(found) if entry is not None), None)
        if first is None:
            continue
        entry = found[first]
        assert entry is not None
        _check_length(entry, len(document.text), annotations[first].folder, shard.name)
        for other, one in zip(found, annotations, strict=True):
            if other is not None and not np.array_equal(other.ends, entry.ends):
                raise PhfError(
                    f"{one.folder}: shard {shard.name}, row {row} has other segments than in "
                    f"{annotations[first].folder}: annotate again with the same segmenter"
                )
        unknown = np.full(len(entry.ends), np.nan, np.float32)
        scores = [unknown if other is None else other.scores for other in found]
        yield AnnotatedDocument(row, document.id, document.text, entry.ends, scores)
    for sidecar in sidecars:
        sidecar.finish()


def scores_of_rows(
    annotations: Annotations,
    shard: str,
    rows: NDArray[np.int64],
    counts: NDArray[np.int64],
    checks: NDArray[np.uint64],
) -> Scores:
    """Returns a scorer's scores of selected documents of a shard.

    Args:
        annotations: The scorer's annotations.
        shard: Name of the shard.
        rows: Rows of the documents, in ascending order.
        counts: Number of segments of each document.
        checks: The `segments_check` of each document.

    Returns:
        float32 [sum of counts], NaN = no score.

    Raises:
        PhfError: The scorer has not annotated a document, or has cut it into other segments.
    """
    sidecar = _Sidecar(annotations, shard)
    pieces = [np.zeros(0, np.float32)]
    for row, count, check in zip(rows.tolist(), counts.tolist(), checks.tolist(), strict=True):
        entry = sidecar.take(row, skip=True)
        if entry is not None and segments_check(entry.ends) != check:
            raise PhfError(
                f"{annotations.folder}: shard {shard}, row {row} has other segments than in the store: "
                "annotate again with the same segmenter, or choose another store.path"
            )
        pieces.append(np.full(count, np.nan, np.float32) if entry is None else entry.scores)
    return np.concatenate(pieces)


def read_scored(shard: Shard, bad: list[BadRow], max_bad_rows: int | None) -> Iterator[AnnotatedDocument]:
    """Yields the documents of a shard that brings its own segments and scores (the format `scored`).

    Args:
        shard: The documents.
        bad: Rows that cannot be read are appended to this list.
        max_bad_rows: Largest length of `bad`; `None` for no limit.

    Raises:
        PhfError: `bad` exceeds this length.
    """

    def report(row: BadRow) -> None:
        bad.append(row)
        if max_bad_rows is not None and len(bad) > max_bad_rows:
            raise PhfError(
                f"{len(bad)} rows cannot be read, more than documents.max_bad_rows; the last: shard "
                f"{row.shard}, row {row.row}: {row.reason}"
            )

    for row, document in shard.read(report):
        assert document.segments is not None
        assert document.scores is not None
        ends = np.cumsum([len(segment) for segment in document.segments], dtype=np.int32)
        scores = np.array([np.nan if s is None else s for s in document.scores], np.float32)
        yield AnnotatedDocument(row, document.id, document.text, ends, [scores])


@dataclass(frozen=True, slots=True)
class _Entry:
    """A document in a sidecar: its row, and the ends and scores of its segments."""

    row: int
    ends: Ends
    scores: Scores


def _check_length(entry: _Entry, length: int, folder: Path, shard: str) -> None:
    annotated = int(entry.ends[-1]) if len(entry.ends) else 0
    if annotated != length:
        raise PhfError(
            f"{folder}: shard {shard}, row {entry.row} was annotated with {annotated} characters, but the "
            f"document has {length}: the documents have changed, annotate again"
        )


class _Sidecar:
    """A scorer's annotations of a shard, read row by row in ascending order."""

    def __init__(self, annotations: Annotations, shard: str):
        self._folder = annotations.folder
        self._shard = shard
        self._entries = _entries(annotations, shard)
        self._bad = {row.row for row in annotations.bad_rows(shard)}
        self._next = next(self._entries, None)

    def take(self, row: int, skip: bool = False) -> _Entry | None:
        """Returns the annotation of a row; `None` if the scorer listed the row as bad.

        Args:
            row: A row above the last one taken.
            skip: Whether annotations of the rows in between are allowed.
        """
        while skip and self._next is not None and self._next.row < row:
            self._next = next(self._entries, None)
        entry = self._next
        if entry is not None and entry.row < row:
            self._fail(entry.row, "is annotated, but not among the documents")
        if entry is None or entry.row > row:
            if row not in self._bad:
                self._fail(row, "has no annotation")
            return None
        self._next = next(self._entries, None)
        return entry

    def finish(self) -> None:
        """Checks that every annotation was taken."""
        if self._next is not None:
            self._fail(self._next.row, "is annotated, but not among the documents")

    def _fail(self, row: int, what: str) -> NoReturn:
        raise PhfError(
            f"{self._folder}: shard {self._shard}, row {row} {what}: the documents or their options have "
            "changed, annotate again"
        )


def _entries(annotations: Annotations, shard: str) -> Iterator[_Entry]:
    for batch in annotations.batches(shard, size=1024):
        bounds = np.concatenate(([0], batch.counts.cumsum())).tolist()
        for row, (start, stop) in zip(batch.rows.tolist(), pairwise(bounds), strict=True):
            yield _Entry(row, batch.ends[start:stop], batch.scores[start:stop])
