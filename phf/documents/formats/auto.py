"""Implements the format `auto`, which chooses the format of each file by its name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from phf.base.files import is_folder
from phf.config import DocumentsConfig
from phf.documents.files import find_files, shard_name
from phf.documents.formats.base import FileFormat, Format, Source
from phf.documents.formats.dataset import HuggingFace, is_saved_dataset
from phf.documents.formats.text import shards_of_text

log = logging.getLogger("phf")

_AS_TEXT = "look like rows and are read as text; for rows, set documents.format=jsonl or a documents.pattern"
_LEFT_OUT = "are left out, because the folder holds files of rows; documents.format=folder reads all as text"


class Auto(Format):
    """Chooses the format of each file by its name: jsonl, Parquet, a saved dataset, or else plain text.

    Each text file is one document. A folder counts as files of rows (jsonl, Parquet) if it has such files at
    its top level, or if they hold most of its bytes; its other files are left out. In any other folder, every
    file is text. What is left out, or looks like rows and is read as text, is named in the log.
    """

    name = "auto"

    def sources(self, config: DocumentsConfig, leave_out: Sequence[Path]) -> list[tuple[str, Source]]:
        if is_saved_dataset(Path(str(config.path))):
            return HuggingFace().sources(config, leave_out)
        root, files = find_files(str(config.path), config.pattern, leave_out)
        known = _file_formats()
        rows = [file for file in files if _format_of(file, known)]
        if is_folder(str(config.path)):
            at_top = any(file.parent == root for file in rows)
            if not rows or (not at_top and not _are_most(rows, files)):
                objects = [file for file in files if file.suffix == ".json"]
                _say(root, rows or (objects if _are_most(objects, files) else []), _AS_TEXT)
                return shards_of_text(root, files)
            _say(root, [file for file in files if file not in set(rows)], _LEFT_OUT)
            files = rows
        sources: list[tuple[str, Source]] = []
        texts = []
        for file in files:
            if found := _format_of(file, known):
                sources.append((shard_name(file.relative_to(root).as_posix()), found.open(file)))
            else:
                texts.append(file)
        return sources + shards_of_text(root, texts)


def _are_most(some: Sequence[Path], files: Sequence[Path]) -> bool:
    """Whether some of the files hold at least half of the bytes."""
    total, part = (sum(file.stat().st_size for file in group) for group in (files if some else (), some))
    return bool(some) and 2 * part >= total


def _say(root: Path, files: Sequence[Path], what: str) -> None:
    if files:
        log.warning("%s: %d files, such as %s, %s", root, len(files), files[0].relative_to(root), what)


def _format_of(file: Path, known: Sequence[FileFormat]) -> FileFormat | None:
    return next((one for one in known if file.name.endswith(one.suffixes)), None)


def _file_formats() -> list[FileFormat]:
    """Returns the formats that are recognized by file name, including those of other packages."""
    from phf.documents.formats import FORMATS

    found = (member.cls for member in FORMATS.members())
    return [cls() for cls in found if cls is not None and issubclass(cls, FileFormat) and cls.suffixes]
