"""The files that annotation writes: one sidecar a shard, made of parts that survive the end of the process.

A part holds the scores of about `PART_DOCUMENTS` documents, and has its name only when it is complete.
The next start goes on after the last part; at the end of the shard the parts become the sidecar.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phf.data.documents import BadRow
from scorers.base import Span

PART_DOCUMENTS = 1000

_SPAN = pa.struct(
    [("segment", pa.int32()), ("start", pa.int32()), ("end", pa.int32()), ("label", pa.string())]
)
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("segment_ends", pa.list_(pa.int32())),
        ("scores", pa.list_(pa.float32())),
        ("spans", pa.list_(_SPAN)),
    ]
)
_META = b"phf"


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

    def fields(self) -> dict[str, Any]:
        """As a row of `SCHEMA`."""
        return {
            "row": self.row,
            "id": self.id.encode(errors="replace").decode(),
            "segment_ends": self.segment_ends,
            "scores": self.scores,
            "spans": [
                {"segment": i, "start": span.start, "end": span.end, "label": span.label}
                for i, spans in enumerate(self.spans)
                for span in spans
            ],
        }


class SidecarWriter:
    """Writes the sidecar of a shard, going on after what an earlier process has written.

    Args:
        folder: The scorer's folder.
        shard: Name of the shard.
    """

    def __init__(self, folder: Path, shard: str):
        self.path = folder / f"{shard}.parquet"
        self.bad_path = folder / f"{shard}.bad.jsonl"
        self.parts = folder / f".{shard}.parts"
        self.parts.mkdir(parents=True, exist_ok=True)
        self.bad: list[BadRow] = []
        self.next_row = 0
        self.num_documents = 0
        for part in self._finished():
            metadata = pq.read_metadata(part)
            state = json.loads(metadata.metadata[_META])
            self.next_row = state["next_row"]
            self.bad += [BadRow(**row) for row in state["bad"]]
            self.num_documents += metadata.num_rows
        self._number = len(self._finished())
        self._rows: list[dict[str, Any]] = []
        self._new_bad: list[BadRow] = []

    def _finished(self) -> list[Path]:
        return sorted(self.parts.glob("*.parquet"))

    def add(self, annotations: Sequence[Annotation], bad: Sequence[BadRow], next_row: int) -> None:
        """Adds documents in the order of their rows; all rows before `next_row` have been dealt with."""
        self._rows += [annotation.fields() for annotation in annotations]
        self._new_bad += bad
        self.bad += bad
        self.num_documents += len(annotations)
        self.next_row = next_row
        if len(self._rows) >= PART_DOCUMENTS:
            self._write_part()

    def _write_part(self) -> None:
        state = {"next_row": self.next_row, "bad": [asdict(row) for row in self._new_bad]}
        table = pa.Table.from_pylist(self._rows, SCHEMA).replace_schema_metadata({_META: json.dumps(state)})
        part = self.parts / f"{self._number:06d}.parquet"
        pq.write_table(table, part.with_suffix(".tmp"), compression="zstd")
        part.with_suffix(".tmp").replace(part)
        self._number += 1
        self._rows, self._new_bad = [], []

    def finish(self) -> None:
        """Makes the sidecar of the parts; the shard has been read to its end."""
        self._write_part()
        temporary = self.parts / "whole.tmp"
        with pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
            for part in self._finished():
                writer.write_table(pq.read_table(part))
        if self.bad:
            lines = [json.dumps(asdict(row), ensure_ascii=True) + "\n" for row in self.bad]
            (self.parts / "bad.tmp").write_text("".join(lines))
            (self.parts / "bad.tmp").replace(self.bad_path)
        temporary.replace(self.path)
        shutil.rmtree(self.parts)


def read_scores(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Scores of the segments in a sidecar (NaN: cannot say) and number of documents, a batch at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=4096, columns=["scores"]):
            yield batch.column(0).flatten().to_numpy(zero_copy_only=False).astype(np.float32), batch.num_rows
