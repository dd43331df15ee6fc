"""Documents with their segments and scores: what tokenizing starts from.

The scores of a corpus stand in sidecars beside it, a folder for each scorer; see `phf.annotation.annotate`.
Here they are put together again, and whatever does not fit is an error that names its place.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from phf.base.errors import PhfError
from phf.documents.documents import BadRow, Document, Shard

log = logging.getLogger("phf")

Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SidecarRow:
    """What a scorer's sidecar has on one document.

    Attributes:
        row: Its row in the shard.
        ends: int32 [S], characters at which its segments end.
        scores: float32 [S], NaN = the scorer cannot say.
    """

    row: int
    ends: NDArray[np.int32]
    scores: Scores


@dataclass(frozen=True, slots=True)
class ScoredDocument:
    """A document, its segments and their scores.

    Attributes:
        row: Its row in the shard.
        id: As in `Document`.
        text: All of it.
        ends: int32 [S], characters at which its segments end.
        scores: For each scorer float32 [S], NaN = cannot say.
    """

    row: int
    id: str
    text: str
    ends: NDArray[np.int32]
    scores: list[Scores]

    def segments(self) -> list[str]:
        """Its segments; joined, they are its text."""
        bounds = [0, *self.ends.tolist()]
        return [self.text[a:b] for a, b in pairwise(bounds)]


def segments_check(ends: NDArray[np.int32]) -> int:
    """A number that tells whether a document was cut in the same segments, by where they end, int32 [S]."""
    return int.from_bytes(hashlib.blake2b(ends.astype("<i4").tobytes(), digest_size=8).digest(), "little")


def find_annotations(path: str | Path, shards: Sequence[Shard], wanted: str) -> dict[str, dict[str, Any]]:
    """The manifests of the scorers that have annotated all the shards, by name.

    Args:
        path: The folder that has one for each scorer.
        shards: The documents.
        wanted: A scorer that must be among them; others that are not done yet, or have annotated other
            documents, are left out.

    Raises:
        PhfError: It is not, or two of them cut the documents in different segments.
    """
    found = {
        manifest.parent.name: json.loads(manifest.read_text(encoding="utf-8"))
        for manifest in sorted(Path(path).glob("[!.]*/manifest.json"))
    }
    if not found:
        raise PhfError(f"{path}: no annotations there; run `phf annotate` first, or set annotations.path")
    if wanted not in found:
        raise PhfError(
            f"{path}: no scores of {wanted}, only of {', '.join(found)}; run `phf annotate` first, or set "
            "scorer.name"
        )
    manifests = {}
    for scorer, manifest in found.items():
        try:
            _check_shards(Path(path) / scorer, manifest, shards)
            manifests[scorer] = manifest
        except PhfError as error:
            if scorer == wanted:
                raise
            log.warning("left out: %s", error)
    first = next(iter(manifests))
    for scorer, manifest in manifests.items():
        if manifest["segmenter"] != manifests[first]["segmenter"]:
            raise PhfError(
                f"{Path(path) / scorer} has other segments ({manifest['segmenter']}) than "
                f"{Path(path) / first} ({manifests[first]['segmenter']}): annotate again, or keep them under "
                "two annotations.path"
            )
    return manifests


def _check_shards(folder: Path, manifest: Mapping[str, Any], shards: Sequence[Shard]) -> None:
    known = {shard["name"]: shard["fingerprint"] for shard in manifest["shards"]}
    for shard in shards:
        if known.pop(shard.name, None) != shard.fingerprint():
            raise PhfError(
                f"{folder}: shard {shard.name} is not there or has changed since then: annotate again"
            )
        if not (folder / f"{shard.name}.parquet").is_file():
            raise PhfError(
                f"{folder}: shard {shard.name} is not annotated yet; run `phf annotate` to the end first"
            )
    if known:
        raise PhfError(f"{folder}: shard {next(iter(known))} is annotated, but not a document any more")


def read_sidecar(folder: Path, shard: str) -> Iterator[SidecarRow]:
    """The annotations of a shard, in the order of its rows."""
    with pq.ParquetFile(folder / f"{shard}.parquet") as file:
        for batch in file.iter_batches(batch_size=1024, columns=["row", "segment_ends", "scores"]):
            rows, ends, scores = (batch.column(name) for name in ("row", "segment_ends", "scores"))
            bounds = np.asarray(ends.offsets) - ends.offsets[0].as_py()
            flat_ends = ends.flatten().to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
            flat_scores = scores.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
            if len(flat_ends) != len(flat_scores) or not ends.value_lengths().equals(scores.value_lengths()):
                raise PhfError(f"{folder}/{shard}.parquet: a document has not one score a segment")
            for i, row in enumerate(rows.to_pylist()):
                cut = slice(bounds[i], bounds[i + 1])
                yield SidecarRow(row, flat_ends[cut], flat_scores[cut])


def unscored_rows(folder: Path, shard: str) -> set[int]:
    """Rows of a shard that the scorer's side file lists as bad."""
    path = folder / f"{shard}.bad.jsonl"
    if not path.is_file():
        return set()
    with path.open(encoding="utf-8") as lines:
        return {json.loads(line)["row"] for line in lines}


def read_annotated(shard: Shard, folders: Sequence[Path]) -> Iterator[ScoredDocument]:
    """The documents of a shard with the scores of all scorers.

    A document that one scorer could not score has NaN from it; one that none could score is left out.

    Args:
        shard: The documents.
        folders: The annotations of each scorer.

    Raises:
        PhfError: Documents and annotations do not fit.
    """
    sidecars = [_Sidecar(folder, shard.name) for folder in folders]
    # Rows that cannot be read were reported when the documents were annotated.
    for row, document in shard.read(lambda bad: None):
        found = [sidecar.take(row) for sidecar in sidecars]
        first = next((i for i, entry in enumerate(found) if entry is not None), None)
        if first is None:
            continue
        entry = found[first]
        assert entry is not None
        _check_length(entry, document, folders[first], shard.name)
        for other, folder in zip(found, folders, strict=True):
            if other is not None and not np.array_equal(other.ends, entry.ends):
                raise PhfError(
                    f"{folder}: shard {shard.name}, row {row} has other segments than in {folders[first]}: "
                    "annotate again with the same segmenter"
                )
        unknown = np.full(len(entry.ends), np.nan, np.float32)
        scores = [unknown if other is None else other.scores for other in found]
        yield ScoredDocument(row, document.id, document.text, entry.ends, scores)
    for sidecar in sidecars:
        sidecar.finish()


def _check_length(entry: SidecarRow, document: Document, folder: Path, shard: str) -> None:
    annotated = int(entry.ends[-1]) if len(entry.ends) else 0
    if annotated != len(document.text):
        raise PhfError(
            f"{folder}: shard {shard}, row {entry.row} is annotated as {annotated} characters, and the "
            f"document has {len(document.text)}: the documents have changed, annotate again"
        )


def scores_of_rows(
    folder: Path, shard: str, rows: NDArray[np.int64], counts: NDArray[np.int64], checks: NDArray[np.uint64]
) -> Scores:
    """A scorer's scores of some documents of a shard.

    Args:
        folder: The scorer's annotations.
        shard: Name of the shard.
        rows: Which documents, in ascending order.
        counts: How many segments each has.
        checks: The `segments_check` of each.

    Returns:
        float32 [sum of counts], NaN = cannot say.

    Raises:
        PhfError: The scorer has not annotated one, or has cut it in other segments.
    """
    sidecar = _Sidecar(folder, shard)
    pieces = [np.zeros(0, np.float32)]
    for row, count, check in zip(rows.tolist(), counts.tolist(), checks.tolist(), strict=True):
        entry = sidecar.take(row, skip=True)
        if entry is not None and segments_check(entry.ends) != check:
            raise PhfError(
                f"{folder}: shard {shard}, row {row} has other segments than in the store: annotate again "
                "with the same segmenter, or choose another store.path"
            )
        pieces.append(np.full(count, np.nan, np.float32) if entry is None else entry.scores)
    return np.concatenate(pieces)


class _Sidecar:
    """A scorer's annotations of a shard, asked for row by row in ascending order."""

    def __init__(self, folder: Path, shard: str):
        self._folder = folder
        self._shard = shard
        self._rows = read_sidecar(folder, shard)
        self._bad = unscored_rows(folder, shard)
        self._next = next(self._rows, None)

    def take(self, row: int, skip: bool = False) -> SidecarRow | None:
        """The annotation of a row; `None` if the scorer listed it as bad.

        Args:
            row: Above the row asked for last.
            skip: Whether there may be annotations of rows that are not asked for.
        """
        while skip and self._next is not None and self._next.row < row:
            self._next = next(self._rows, None)
        entry = self._next
        if entry is not None and entry.row < row:
            self._fail(entry.row, "is annotated, but not among the documents")
        if entry is None or entry.row > row:
            if row not in self._bad:
                self._fail(row, "has no annotation")
            return None
        self._next = next(self._rows, None)
        return entry

    def finish(self) -> None:
        """Checks that every annotation was asked for."""
        if self._next is not None:
            self._fail(self._next.row, "is annotated, but not among the documents")

    def _fail(self, row: int, what: str) -> NoReturn:
        raise PhfError(
            f"{self._folder}: shard {self._shard}, row {row} {what}: the documents or their options have "
            "changed, annotate again"
        )


def read_scored(shard: Shard, bad: list[BadRow], max_bad_rows: int | None) -> Iterator[ScoredDocument]:
    """The documents of a shard that brings its own segments and scores (the format `scored`).

    Args:
        shard: The documents.
        bad: Rows that cannot be read are added to it.
        max_bad_rows: How many it may hold; `None` for any number.

    Raises:
        PhfError: There are more.
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
        yield ScoredDocument(row, document.id, document.text, ends, [scores])
