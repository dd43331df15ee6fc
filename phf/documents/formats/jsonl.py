"""Implements the format `jsonl`: one JSON object a line, plain or compressed with gzip or zstandard."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from phf.documents.formats.base import FileFormat, FileSource, Row


class Jsonl(FileFormat):
    """Files with one JSON object per line; each file is a shard."""

    name = "jsonl"
    suffixes = (".jsonl", ".jsonl.gz", ".jsonl.zst")

    def open(self, path: Path) -> JsonlFile:
        return JsonlFile(path)


class JsonlFile(FileSource):
    """One JSON object per line. Blank lines are skipped; .gz and .zst files are decompressed."""

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        row = -1
        try:
            with ExitStack() as stack:
                raw = stack.enter_context(self.path.open("rb"))
                for row, line in enumerate(stack.enter_context(_unpack(raw, self.path.suffix))):
                    self.position = raw.tell()
                    if line.strip():
                        yield row, _fields(line.removeprefix(codecs.BOM_UTF8) if row == 0 else line)
        except OSError as error:
            yield self.unreadable(row + 1, error)


def _unpack(raw: io.BufferedReader, suffix: str) -> io.BufferedReader:
    codec = {".gz": "gzip", ".zst": "zstd"}.get(suffix)
    if codec is None:
        return raw
    import pyarrow as pa

    # Arrow is used because it detects a truncated file, unlike the zstandard package. It does not detect an
    # empty file.
    if not raw.peek(1):
        raise OSError("Truncated: the file is empty")
    return io.BufferedReader(pa.CompressedInputStream(raw, codec), 1 << 16)


def _fields(line: bytes) -> dict[str, Any] | str:
    try:
        fields = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start}"
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg} at character {error.pos}"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or nested brackets
        return f"not JSON: {str(error).partition(';')[0]}"
    return fields if isinstance(fields, dict) else f"not an object but {type(fields).__name__}"
