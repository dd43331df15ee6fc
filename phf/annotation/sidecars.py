"""The files that annotation writes: one sidecar a shard, made of parts that survive the end of the process.

A part holds the scores of some documents, at most `PART_DOCUMENTS` or what is scored in `PART_SECONDS`, and
has its name only when it is complete. The next start goes on after the last part; at the end of the shard the
parts become the sidecar.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phf.annotation.score_chunk import Annotation
from phf.base.errors import PhfError, writing
from phf.base.locks import lock
from phf.documents.documents import BadRow

PART_DOCUMENTS = 500
PART_SECONDS = 20.0
_PARTS_PER_ROW_GROUP = 20

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


def sidecar_path(folder: Path, shard: str) -> Path:
    """The sidecar of a shard; it is there once the whole shard is annotated."""
    return folder / f"{shard}.parquet"


def has_begun(folder: Path, shard: str) -> bool:
    """Whether some of a shard is annotated."""
    return sidecar_path(folder, shard).is_file() or any(_parts_path(folder, shard).glob("*.parquet"))


def _bad_path(folder: Path, shard: str) -> Path:
    return folder / f"{shard}.bad.jsonl"


def _parts_path(folder: Path, shard: str) -> Path:
    return folder / f".{shard}.parts"


class SidecarWriter:
    """Writes the sidecar of a shard, going on after what an earlier process has written.

    Args:
        folder: The scorer's folder.
        shard: Name of the shard.

    Attributes:
        bad: Rows that cannot be read or scored, so far.
        next_row: The row to go on with.

    Raises:
        PhfError: Another process is at it, or a part is broken.
    """

    def __init__(self, folder: Path, shard: str):
        self._folder, self._shard = folder, shard
        self._parts = _parts_path(folder, shard)
        self._parts.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self._parts / "lock", f"{folder}: another process is annotating shard {shard}")
        self.bad: list[BadRow] = []
        self.next_row = 0
        for part in self._finished():
            try:
                metadata = pq.read_metadata(part)
            except pa.ArrowException as error:
                self._lock.close()
                raise PhfError(
                    f"{part} is broken: delete {self._parts}, and its shard is scored again"
                ) from error
            state = json.loads(metadata.metadata[_META])
            self.next_row = state["next_row"]
            self.bad += [BadRow(**row) for row in state["bad"]]
        self._number = len(self._finished())
        self._annotations: list[Annotation] = []
        self._new_bad: list[BadRow] = []
        self._since = time.monotonic()

    def __enter__(self) -> SidecarWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets another process write the shard; what has not been saved is lost."""
        self._lock.close()

    def _finished(self) -> list[Path]:
        return sorted(self._parts.glob("*.parquet"))

    def add(self, annotations: Sequence[Annotation], bad: Sequence[BadRow], next_row: int) -> None:
        """Adds at most `PART_DOCUMENTS` documents and the bad rows among them, in the order of their rows.

        Args:
            annotations: The documents.
            bad: The bad rows.
            next_row: All rows before it have been dealt with.
        """
        if len(self._annotations) + len(annotations) > PART_DOCUMENTS:
            self.save()
        self._annotations += annotations
        self._new_bad += bad
        self.bad += bad
        self.next_row = next_row
        if time.monotonic() - self._since > PART_SECONDS:
            self.save()

    def save(self) -> None:
        """Writes what has been added since the last part as another one.

        Raises:
            PhfError: It cannot be written, for example as the disk is full.
        """
        state = {"next_row": self.next_row, "bad": [asdict(row) for row in self._new_bad]}
        table = _table(self._annotations).replace_schema_metadata({_META: json.dumps(state)})
        part = self._parts / f"{self._number:09d}.parquet"
        with writing(part):
            pq.write_table(table, part.with_suffix(".tmp"), compression="zstd")
            part.with_suffix(".tmp").replace(part)
        self._number += 1
        self._annotations, self._new_bad = [], []
        self._since = time.monotonic()

    def finish(self) -> None:
        """Makes the sidecar of the parts; the shard has been read to its end.

        Raises:
            PhfError: It cannot be written.
        """
        self.save()
        sidecar, temporary = sidecar_path(self._folder, self._shard), self._parts / "whole.tmp"
        self.list_bad(self.bad)
        with writing(sidecar):
            with pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
                parts = self._finished()
                for start in range(0, len(parts), _PARTS_PER_ROW_GROUP):
                    group = parts[start : start + _PARTS_PER_ROW_GROUP]
                    writer.write_table(pa.concat_tables(map(pq.read_table, group)))
            temporary.replace(sidecar)
        clean_up(self._folder, self._shard)

    def list_bad(self, rows: Sequence[BadRow]) -> Path:
        """Writes the side file of bad rows; there is none where there are none."""
        path = _bad_path(self._folder, self._shard)
        if not rows:
            path.unlink(missing_ok=True)
            return path
        temporary = self._parts / "bad.tmp"
        with writing(path):
            temporary.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
            return temporary.replace(path)


def _table(annotations: Sequence[Annotation]) -> pa.Table:
    """Annotations as rows of `SCHEMA`, built column by column: a third of the time of row by row."""
    spans = [
        [(i, span) for i, spans in enumerate(annotation.spans) for span in spans]
        for annotation in annotations
    ]
    fields = [
        [i for row in spans for i, _ in row],
        [span.start for row in spans for _, span in row],
        [span.end for row in spans for _, span in row],
        [_encodable(span.label) for row in spans for _, span in row],
    ]
    columns = [
        pa.array([annotation.row for annotation in annotations], pa.int64()),
        pa.array([_encodable(annotation.id) for annotation in annotations], pa.string()),
        pa.array(
            [annotation.source and _encodable(annotation.source) for annotation in annotations], pa.string()
        ),
        pa.array([annotation.segment_ends for annotation in annotations], SCHEMA.field("segment_ends").type),
        pa.array([annotation.scores for annotation in annotations], SCHEMA.field("scores").type),
        pa.ListArray.from_arrays(
            pa.array([0, *accumulate(map(len, spans))], pa.int32()),
            pa.StructArray.from_arrays(
                [pa.array(values, field.type) for values, field in zip(fields, _SPAN, strict=True)],
                fields=list(_SPAN),
            ),
        ),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _encodable(text: str) -> str:
    return text.encode(errors="replace").decode()


def clean_up(folder: Path, shard: str) -> None:
    """Removes the parts of a shard whose sidecar is there."""
    shutil.rmtree(_parts_path(folder, shard), ignore_errors=True)


def count_bad(folder: Path, shard: str) -> int:
    """Bad rows of a shard, by its side file."""
    try:
        with _bad_path(folder, shard).open("rb") as lines:
            return sum(1 for _ in lines)
    except FileNotFoundError:
        return 0


def first_bad(folder: Path, shard: str) -> BadRow | None:
    """The first bad row of a shard, by its side file."""
    try:
        with _bad_path(folder, shard).open(encoding="utf-8") as lines:
            return BadRow(**json.loads(next(lines)))
    except FileNotFoundError:
        return None


def read_scores(folder: Path, shard: str) -> Iterator[tuple[np.ndarray, int]]:
    """Scores of the segments of a shard (NaN: cannot say) and number of documents, a batch at a time."""
    with pq.ParquetFile(sidecar_path(folder, shard)) as file:
        for batch in file.iter_batches(batch_size=4096, columns=["scores"]):
            yield batch.column(0).flatten().to_numpy(zero_copy_only=False).astype(np.float32), batch.num_rows
