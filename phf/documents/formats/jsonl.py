"""Implements the format `jsonl`: one JSON object a line, plain or compressed."""

from __future__ import annotations

import bz2
import codecs
import io
import json
import lzma
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from phf.documents.formats.base import FileFormat, FileSource, Row

PACKED = (".gz", ".zst", ".bz2", ".xz")
"""The compressions that are read, by suffix."""


class Jsonl(FileFormat):
    """Files with one JSON object per line; each file is a shard."""

    name = "jsonl"
    # Compressed .json files, such as those of C4, have an object on each line; plain ones may hold anything.
    suffixes = (
        *(name + end for name in (".jsonl", ".ndjson") for end in ("", *PACKED)),
        *(".json" + end for end in PACKED),
    )

    def open(self, path: Path) -> JsonlFile:
        return JsonlFile(path)


class JsonlFile(FileSource):
    """One JSON object per line. Blank lines are skipped; files with a suffix of `PACKED` are decompressed."""

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        row = -1
        try:
            with ExitStack() as stack:
                raw = stack.enter_context(self.path.open("rb"))
                for row, line in enumerate(stack.enter_context(_unpack(raw, self.path.suffix))):
                    self.position = raw.tell()
                    if line.strip():
                        yield row, _fields(line.removeprefix(codecs.BOM_UTF8) if row == 0 else line)
        except (OSError, EOFError, lzma.LZMAError) as error:
            yield self.unreadable(row + 1, error)


def _unpack(raw: io.BufferedReader, suffix: str) -> io.BufferedReader:
    if suffix not in PACKED:
        return raw
    # Arrow is used because it detects a truncated file, unlike the zstandard package. It does not detect an
    # empty file.
    if not raw.peek(1):
        raise OSError("Truncated: the file is empty")
    if suffix in (".bz2", ".xz"):  # of which Arrow misses a truncated one, and does not know the other
        unpacked = {".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile}[suffix](raw)
        return io.BufferedReader(cast(io.RawIOBase, unpacked), 1 << 16)
    import pyarrow as pa

    codec = {".gz": "gzip", ".zst": "zstd"}[suffix]
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
