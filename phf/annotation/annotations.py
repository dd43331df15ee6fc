"""Owns the annotations of one scorer on disk: the sidecar of each shard, its bad rows, and the manifest.

    manifest.json         the scorer, the shards, and a summary of the scores
    {shard}.parquet       the sidecar, with a row for each document; exists once the whole shard is annotated
    {shard}.bad.jsonl     rows of the shard that could not be read or scored, if there are any
    .{shard}.parts/       parts of a shard in progress, see `phf.annotation.sidecars`

The columns of a sidecar are `row` (in the shard), `id`, `source`, `segment_ends` (in characters), `scores`
(null = no score) and `spans` (what caused a score, with the number of its segment).
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from phf.annotation.manifest import Counts, Manifest, ShardRecord
from phf.base.errors import ConfigError, PhfError
from phf.base.files import replacing, write_json, write_text, writing
from phf.base.quantiles import smallest_reaching
from phf.base.typed_json import from_json, read_json, to_json
from phf.config import Config
from phf.documents.shards import BadRow

log = logging.getLogger("phf")

_QUANTILES = tuple(percent / 100 for percent in range(1, 100))

_SPAN = pa.struct(
    [("segment", pa.int32()), ("start", pa.int32()), ("end", pa.int32()), ("label", pa.string())]
)
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("segment_ends", pa.list_(pa.int32())),
        ("scores", pa.list_(pa.float32())),
        ("spans", pa.list_(_SPAN)),
    ]
)
_META = b"phf"
"""Metadata key of a part. Its value is the row to continue with, and the bad rows among the documents."""


@dataclass(frozen=True)
class SidecarBatch:
    """Some documents of a sidecar: D documents with S segments.

    Attributes:
        rows: int64 [D], row of each document in the shard.
        counts: int64 [D], number of segments of each document.
        ends: int32 [S], segment ends in characters of their document.
        scores: float32 [S], NaN = no score.
        spans: Spans of each document, as in `SCHEMA`; empty if they were not requested.
        sources: Source of each document; all null if they were not requested.
    """

    rows: NDArray[np.int64]
    counts: NDArray[np.int64]
    ends: NDArray[np.int32]
    scores: NDArray[np.float32]
    spans: list[list[dict[str, Any]]]
    sources: pa.Array


@dataclass(frozen=True)
class Part:
    """A summary of one file of a shard: the sidecar, or a part of it.

    Attributes:
        written: When the file was written, in seconds since the epoch.
        documents: Documents in the file.
        segments: Segments of these documents.
        bad: Bad rows among them.
    """

    written: float
    documents: int
    segments: int
    bad: list[BadRow]


class Annotations:
    """The annotations of one scorer.

    Args:
        folder: Folder of the annotations.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def name(self) -> str:
        """Name of the scorer's scores."""
        return self.folder.name

    # The manifest.

    def exist(self) -> bool:
        """Returns whether annotation has begun."""
        return self._manifest_path.is_file()

    def manifest(self) -> Manifest:
        """Reads the manifest.

        Raises:
            PhfError: There is no manifest, or the file is something else.
        """
        if not self.exist():
            raise PhfError(f"{self._manifest_path}: No such file or directory; run `phf annotate` first")
        return read_json(
            self._manifest_path, Manifest, "it is not the manifest of annotations: delete the folder"
        )

    def claim(self, wanted: Manifest, config: Config) -> Manifest:
        """Returns the manifest, and writes it first if there is none.

        Args:
            wanted: The manifest of the annotations that are about to be made.
            config: The configuration of these annotations.

        Raises:
            ConfigError: The folder has annotations that were made from something else.
            PhfError: The folder cannot be used.
        """
        wanted = from_json(Manifest, to_json(wanted), self._manifest_path, "")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PhfError(f"annotations.path: {self.folder}: {error.strerror}") from error
        if not self.exist():
            self._write_first(wanted)
        there = self.manifest()
        now = self._renewed(there, wanted)
        if now.counts is not None and not self.is_complete(now):  # a sidecar was deleted since
            now = now.without_summary()
        if now != there:
            write_json(self._manifest_path, to_json(now))
        if difference := now.difference(wanted, config):
            raise ConfigError(
                f"{self.folder} was annotated with {difference}: choose another annotations.path, or delete "
                "the folder"
            )
        return now

    def summarize(self) -> Manifest:
        """Returns the manifest, with counts and quantiles if all shards are annotated.

        Raises:
            PhfError: All shards are annotated, but no document could be scored.
        """
        manifest = self.manifest()
        if manifest.counts is None:
            if not self.is_complete(manifest):
                return manifest
            manifest = self._with_summary(manifest)
            write_json(self._manifest_path, to_json(manifest))
        counts = manifest.counts
        assert counts is not None
        if not counts.segments and (counts.bad_rows or not counts.documents):
            raise PhfError(self._why_nothing(manifest, counts.bad_rows))
        log.info(
            "%s: %d segments of %d documents, %s; %d segments without a score, %d bad rows",
            self.folder, counts.segments, counts.documents,
            "no scores" if manifest.mean is None else f"mean score {manifest.mean:.4g}",
            counts.unscored, counts.bad_rows,
        )  # fmt: skip
        return manifest

    def is_complete(self, manifest: Manifest) -> bool:
        """Returns whether all shards of a manifest are annotated to their end."""
        return all(self.is_done(shard.name) for shard in manifest.shards)

    @property
    def _manifest_path(self) -> Path:
        return self.folder / "manifest.json"

    def _write_first(self, manifest: Manifest) -> None:
        """Writes a manifest unless another process has written one."""
        own = self.folder / f".first.{platform.node()}-{os.getpid()}"
        with writing(self._manifest_path):
            write_json(own, to_json(manifest))
            try:
                os.link(own, self._manifest_path)  # unlike a rename, this fails if the manifest exists
            except FileExistsError:
                pass
            except OSError:  # the file system does not support links
                own.replace(self._manifest_path)
            finally:
                own.unlink(missing_ok=True)

    def _renewed(self, there: Manifest, wanted: Manifest) -> Manifest:
        """Updates the fingerprints of shards that changed before any of their documents was annotated."""
        now = wanted.fingerprints
        shards = [
            shard
            if self.has_begun(shard.name)
            else ShardRecord(shard.name, now.get(shard.name, shard.fingerprint))
            for shard in there.shards
        ]
        return replace(there, shards=shards)

    def _with_summary(self, manifest: Manifest) -> Manifest:
        shards = [shard.name for shard in manifest.shards]
        num_documents, scores = 0, [np.zeros(0, np.float32)]
        for shard in shards:
            for batch in self.batches(shard):
                num_documents += len(batch.rows)
                scores.append(batch.scores)
        every = np.concatenate(scores)
        known = every[~np.isnan(every)].astype(np.float64)
        quantiles = smallest_reaching(known, _QUANTILES).tolist() if len(known) else []
        counts = Counts(
            documents=num_documents,
            segments=len(every),
            unscored=len(every) - len(known),
            bad_rows=sum(len(self.bad_rows(shard)) for shard in shards),
        )
        return replace(
            manifest,
            counts=counts,
            mean=float(known.mean()) if len(known) else None,
            quantiles=dict(zip(map(str, _QUANTILES), quantiles, strict=False)),
        )

    def _why_nothing(self, manifest: Manifest, num_bad: int) -> str:
        for shard in manifest.shards:
            for first in self.bad_rows(shard.name)[:1]:
                return (
                    f"none of {num_bad} rows can be read and scored; the first is row {first.row} of shard "
                    f"{shard.name}: {first.reason} (correct this, delete {self.folder} and start again)"
                )
        return "documents.path: there is no document in it"

    # Shards.

    def is_done(self, shard: str) -> bool:
        """Returns whether a shard is annotated to its end."""
        return self._sidecar(shard).is_file()

    def has_begun(self, shard: str) -> bool:
        """Returns whether at least a part of a shard is annotated."""
        return self.is_done(shard) or any(self.parts_folder(shard).glob("*.parquet"))

    def batches(
        self, shard: str, *, spans: bool = False, sources: bool = False, size: int = 4096
    ) -> Iterator[SidecarBatch]:
        """Reads the sidecar of a shard in the order of its rows.

        Args:
            shard: Name of the shard.
            spans: Whether to read the spans.
            sources: Whether to read the sources.
            size: Documents per batch.

        Raises:
            PhfError: The sidecar cannot be read.
        """
        path = self._sidecar(shard)
        try:
            with pq.ParquetFile(path) as file:
                there = set(file.schema_arrow.names)
                more = ["spans"] * spans + ["source"] * (sources and "source" in there)
                columns = ["row", "segment_ends", "scores", *more]
                for batch in file.iter_batches(batch_size=size, columns=columns):
                    yield _unpacked(batch, path)
        except (pa.ArrowException, ValueError) as error:
            raise self._broken(path, path) from error

    def rows(self, shard: str, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Returns selected rows of a sidecar, by row number and without scores."""
        path = self._sidecar(shard)
        columns = [name for name in pq.read_schema(path).names if name != "scores"]
        table = pq.read_table(path, columns=columns, filters=[("row", "in", list(rows))])
        return {row["row"]: row for row in table.to_pylist()}

    def bad_rows(self, shard: str) -> list[BadRow]:
        """Reads the list of rows of a shard that could not be read or scored."""
        try:
            with self._bad(shard).open(encoding="utf-8") as lines:
                return [BadRow(**json.loads(line)) for line in lines]
        except FileNotFoundError:
            return []

    def list_bad(self, shard: str, rows: Sequence[BadRow]) -> Path:
        """Writes the list of bad rows and returns its path; without bad rows the file is removed."""
        path = self._bad(shard)
        if rows:
            write_text(path, "".join(json.dumps(asdict(row)) + "\n" for row in rows))
        else:
            path.unlink(missing_ok=True)
        return path

    def done_part(self, shard: str) -> Part | None:
        """Summarizes the sidecar of a shard, reading its footer alone; `None` if the shard is not done."""
        path = self._sidecar(shard)
        return self._part(path, path, self.bad_rows(shard)) if path.is_file() else None

    def parts(self, shard: str) -> list[Part]:
        """Summarizes the parts of a shard in progress, in order."""
        folder = self.parts_folder(shard)
        return [self._part(path, folder, None) for path in part_files(folder)]

    def parts_folder(self, shard: str) -> Path:
        """Returns the folder of the parts of a shard in progress."""
        return self.folder / f".{shard}.parts"

    def complete(self, shard: str, parts: Sequence[Path], bad: Sequence[BadRow]) -> None:
        """Joins the parts of a shard into its sidecar, and removes the parts.

        Raises:
            PhfError: The sidecar cannot be written.
        """
        per_group = 20
        self.list_bad(shard, bad)
        with (
            replacing(self._sidecar(shard)) as temporary,
            pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer,
        ):
            for start in range(0, len(parts), per_group):
                writer.write_table(pa.concat_tables(map(pq.read_table, parts[start : start + per_group])))
        self.clean_up(shard)

    def clean_up(self, shard: str) -> None:
        """Removes the parts of a finished shard."""
        shutil.rmtree(self.parts_folder(shard), ignore_errors=True)

    def _sidecar(self, shard: str) -> Path:
        return self.folder / f"{shard}.parquet"

    def _bad(self, shard: str) -> Path:
        return self.folder / f"{shard}.bad.jsonl"

    def _part(self, path: Path, delete: Path, bad: list[BadRow] | None) -> Part:
        try:
            metadata = pq.read_metadata(path)
        except pa.ArrowException as error:
            raise self._broken(path, delete) from error
        if bad is None:
            bad = part_state(metadata)[1]
        return Part(path.stat().st_mtime, metadata.num_rows, _num_segments(metadata), bad)

    def _broken(self, path: Path, delete: Path) -> PhfError:
        return PhfError(f"{path} is broken: delete {delete} to score the shard again")


def find_annotations(path: str | Path) -> dict[str, Annotations]:
    """Finds the annotations in a folder, by the names of their scores."""
    folders = (manifest.parent for manifest in sorted(Path(path).glob("[!.]*/manifest.json")))
    return {folder.name: Annotations(folder) for folder in folders}


def part_files(folder: Path) -> list[Path]:
    """Lists the parts in a folder of parts, in order."""
    return sorted(folder.glob("*.parquet"))


def part_state(metadata: pq.FileMetaData) -> tuple[int, list[BadRow]]:
    """Returns the row to continue with after a part, and the bad rows among its documents."""
    state = json.loads(metadata.metadata[_META])
    return state["next_row"], [BadRow(**row) for row in state["bad"]]


def with_state(table: pa.Table, next_row: int, bad: Sequence[BadRow]) -> pa.Table:
    """Adds what `part_state` reads to the documents of a part."""
    state = {"next_row": next_row, "bad": [asdict(row) for row in bad]}
    return table.replace_schema_metadata({_META: json.dumps(state)})


def _unpacked(batch: pa.RecordBatch, path: Path) -> SidecarBatch:
    ends, scores = batch["segment_ends"], batch["scores"]
    counts = ends.value_lengths()
    flat_ends = ends.flatten().to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    flat_scores = scores.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    if len(flat_ends) != len(flat_scores) or not counts.equals(scores.value_lengths()):
        raise PhfError(f"{path} does not have one score per segment: delete it to score the shard again")
    there = set(batch.schema.names)
    return SidecarBatch(
        batch["row"].to_numpy(),
        counts.to_numpy(zero_copy_only=False).astype(np.int64, copy=False),
        flat_ends,
        flat_scores,
        batch["spans"].to_pylist() if "spans" in there else [],
        batch["source"] if "source" in there else pa.nulls(batch.num_rows, pa.string()),
    )


def _num_segments(metadata: pq.FileMetaData) -> int:
    """Returns the number of segments in a sidecar or a part, reading its footer alone."""
    total = 0
    for group in range(metadata.num_row_groups):
        columns = map(metadata.row_group(group).column, range(metadata.num_columns))
        ends = next(column for column in columns if column.path_in_schema.startswith("segment_ends"))
        if ends.num_values:  # an empty column has no statistics; a document without segments counts as a null
            total += ends.num_values - ends.statistics.null_count
    return total
