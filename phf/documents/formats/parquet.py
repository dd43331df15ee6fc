"""Implements the format `parquet`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from phf.documents.formats.base import FileFormat, FileSource, Row, present

BATCH = 256


class Parquet(FileFormat):
    """Parquet files; each file is a shard."""

    name = "parquet"
    suffixes = (".parquet",)

    def open(self, path: Path) -> ParquetFile:
        return ParquetFile(path)


class ParquetFile(FileSource):
    """A parquet file, read a few rows at a time."""

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        row = 0
        try:
            with pq.ParquetFile(self.path) as file:
                wanted = present(columns, file.schema_arrow.names, str(self.path))
                for batch in file.iter_batches(batch_size=BATCH, columns=wanted):
                    for fields in unpacked(batch):
                        yield row, fields
                        row += 1
                    self.position = self.size * row // file.metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            yield self.unreadable(row, error)


def unpacked(batch: Any) -> list[dict[str, Any] | str]:
    """Converts an Arrow batch to rows; a row with text that is not UTF-8 is replaced by the reason.

    Strings are decoded here for the first time. If decoding the whole batch fails, its rows are decoded one
    by one.
    """
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            return [f"not UTF-8 at byte {error.start}"]
        return [row for i in range(batch.num_rows) for row in unpacked(batch.slice(i, 1))]
