"""Implements the format `folder`: one document a text file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from phf.config import DocumentsConfig
from phf.documents.files import find_files
from phf.documents.formats.base import Format, Row, Source

FILES_PER_SHARD = 1000


class Folder(Format):
    """UTF-8 text files with one document each; a shard has 1000 files."""

    name = "folder"

    def sources(self, config: DocumentsConfig, leave_out: Sequence[Path]) -> list[tuple[str, Source]]:
        return shards_of_text(*find_files(str(config.path), config.pattern, leave_out))


def shards_of_text(root: Path, files: Sequence[Path]) -> list[tuple[str, Source]]:
    """Divides the text files under a folder into shards."""
    return [
        (f"files-{start // FILES_PER_SHARD:06d}", TextFiles(root, files[start : start + FILES_PER_SHARD]))
        for start in range(0, len(files), FILES_PER_SHARD)
    ]


class TextFiles(Source):
    """Text files of a folder. Each is a row, with its path as `id` and its text as the first column."""

    def __init__(self, root: Path, files: Sequence[Path]):
        self.root = root
        self.files = files
        self.size = sum(file.stat().st_size for file in files)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for file in self.files:
            stat = file.stat()
            digest.update(
                f"{file.relative_to(self.root)} {stat.st_size} {stat.st_mtime_ns}\n".encode(errors="replace")
            )
        return digest.hexdigest()[:16]

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        self.position = 0
        for row, file in enumerate(self.files):
            name = file.relative_to(self.root).as_posix()
            try:
                data = file.read_bytes()
                self.position += len(data)
                yield row, {"id": name, columns[0]: data.decode("utf-8-sig")}
            except UnicodeDecodeError as error:
                yield row, f"{name}: not UTF-8 at byte {error.start}"
            except OSError as error:
                yield row, f"{name}: cannot be read: {error.strerror}"

    def origin(self, fields: Mapping[str, Any], field: str | None) -> str | None:
        """Returns the first folder of the file's path."""
        folder, _, inside = str(fields["id"]).partition("/")
        return folder if inside else None
