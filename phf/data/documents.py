"""Documents: which there are, in which shards, and what is none.

A corpus is a list of shards, each read from its start to its end. A row that is no document is reported and
skipped; the number of a row is its place in the shard, from 0, bad rows counted.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phf.config import DocumentsConfig
from phf.data.rows import (
    DatasetSlice,
    JsonlFile,
    ParquetFile,
    Source,
    TextFiles,
    is_saved_dataset,
    load_dataset,
)
from phf.errors import ConfigError, PhfError

# Scores are kept as float32, and in that they are finite.
LARGEST_SCORE = 3.4e38

# Files of a folder, and rows of a dataset, in a shard.
FILES_PER_SHARD = 1000
ROWS_PER_SHARD = 50_000

_JSONL = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_PARQUET = (".parquet",)


@dataclass(frozen=True, slots=True)
class Document:
    """A document.

    Attributes:
        id: The row's own `id`, a file's path, or shard and row.
        text: The text; it can be encoded as UTF-8.
        segments: Its segments, if it came already segmented and scored; joined they are the text.
        scores: A score for each of these segments; `None` where there is none.
        source: Where it comes from, if that is known: `documents.source_field`, or a file's first folder.
    """

    id: str
    text: str
    segments: tuple[str, ...] | None = None
    scores: tuple[float | None, ...] | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be used, and why."""

    shard: str
    row: int
    reason: str


OnBadRow = Callable[[BadRow], None]


class Shard:
    """A part of the corpus that is read in one go.

    Attributes:
        name: Unique in the corpus, stable, and safe as the name of a file.
    """

    def __init__(self, name: str, source: Source, config: DocumentsConfig):
        self.name = name
        self._source = source
        self._config = config

    def fingerprint(self) -> str:
        """Changes when the contents may have changed.

        Raises:
            PhfError: They are not there any more.
        """
        try:
            return self._source.fingerprint()
        except OSError as error:
            raise PhfError(f"shard {self.name}: {error.filename}: {error.strerror}") from error

    @property
    def size(self) -> int:
        """How much there is to read, in bytes or rows."""
        return self._source.size

    @property
    def position(self) -> int:
        """How much of it has been read."""
        return self._source.position

    def read(self, bad: OnBadRow) -> Iterator[tuple[int, Document]]:
        """Yields number and document of each row that is one, and reports the others to `bad`.

        Raises:
            PhfError: The shard cannot be read at all.
            ConfigError: It has no column of the configured name.
        """
        config, scored, left = self._config, self._config.format == "scored", self._config.limit
        columns = [config.texts_field, config.scores_field] if scored else [config.text_field]
        if config.source_field and not scored:
            columns.append(config.source_field.partition(".")[0])
        for row, fields in self._source.rows(columns):
            try:
                if isinstance(fields, str):
                    raise ValueError(fields)
                name = str(fields["id"]) if fields.get("id") is not None else f"{self.name}:{row}"
                if scored:
                    document = _scored(fields, columns, name)
                else:
                    origin = self._source.origin(fields, config.source_field)
                    document = Document(name, _text(fields, columns[0]), source=origin)
            except ValueError as error:
                bad(BadRow(self.name, row, str(error)))
                continue
            yield row, document
            if left is not None:
                left -= 1
                if left == 0:
                    return


def _text(fields: Mapping[str, Any], field: str) -> str:
    """The text of a row.

    Raises:
        ValueError: With the reason why there is none.
    """
    if field not in fields:
        hint = ": set documents.format=scored" if {"texts", "scores"} <= fields.keys() else ""
        there = ", ".join(map(repr, fields)) or "none"
        raise ValueError(f"no field {field!r}, only {textwrap.shorten(there, 200, placeholder=' ...')}{hint}")
    return _checked(fields[field], field)


def _checked(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"field {field!r} is not text but {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        place = f"character {error.start}"
        raise ValueError(f"field {field!r} holds half of a surrogate pair at {place}") from None
    return value


def _scored(fields: Mapping[str, Any], columns: Sequence[str], name: str) -> Document:
    """The document of a row with segments and scores in two columns; empty segments are left out.

    Raises:
        ValueError: With the reason why it is none.
    """
    for field in columns:
        if not isinstance(fields.get(field), list):
            raise ValueError(f"field {field!r} is not a list but {type(fields.get(field)).__name__}")
    texts = [_checked(text, columns[0]) for text in fields[columns[0]]]
    scores = [None if score is None else _score(score) for score in fields[columns[1]]]
    if len(texts) != len(scores):
        raise ValueError(f"{len(texts)} texts and {len(scores)} scores")
    kept = [(text, score) for text, score in zip(texts, scores, strict=True) if text]
    return Document(name, "".join(texts), tuple(text for text, _ in kept), tuple(score for _, score in kept))


def _score(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST_SCORE:
        raise ValueError(f"score {value!r:.40} is not a number of 0 or more that fits float32")
    return float(value)


def list_shards(config: DocumentsConfig, leave_out: Sequence[Path] = ()) -> list[Shard]:
    """The shards of a corpus, in a fixed order.

    A file of rows (jsonl, parquet) is a shard; text files and the rows of a dataset are dealt out to shards.
    Format `auto`: a folder of `save_to_disk` is a dataset; a folder with files of rows at its top, or with
    nothing else in it, is these files; anything else is text, one document a file.

    Args:
        config: Which documents.
        leave_out: Folders of which no file is a document.

    Raises:
        ConfigError: No documents are configured, or nothing is there.
        PhfError: The dataset cannot be loaded.
    """
    if not config.path:
        raise ConfigError("documents.path is not set: give a file, a folder, a glob or a dataset")
    if _is_dataset(config):
        sources = _slices(load_dataset(config.path, config.split, config.subset), config.path)
    else:
        root, files = _find(config.path, config.pattern, leave_out)
        files, format_ = _of_format(files, root, config)
        sources = _sources(root, files, format_)
    return [Shard(name, source, config) for name, source in sources]


def _is_dataset(config: DocumentsConfig) -> bool:
    path = Path(str(config.path))
    if config.format in ("auto", "scored") and is_saved_dataset(path):
        return True
    # The published corpora are datasets of the hub; any other name is more likely a path with a slip in it.
    looks_like_name = re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and not path.name.endswith(
        _JSONL + _PARQUET
    )
    return config.format == "huggingface" or (
        config.format == "scored" and bool(looks_like_name) and not path.exists()
    )


def _slices(dataset: Any, place: str) -> list[tuple[str, Source]]:
    size = ROWS_PER_SHARD
    return [
        (f"rows-{start:09d}", DatasetSlice(dataset, start, min(start + size, len(dataset)), place))
        for start in range(0, len(dataset), size)
    ]


def _find(path: str, pattern: str, leave_out: Sequence[Path]) -> tuple[Path, list[Path]]:
    """The files of a path, and the folder that they are named from. Hidden files of a folder are left out."""
    root = Path(path)
    if root.is_file():
        return root.parent, [root]
    if not root.is_dir():
        parts = root.parts
        wild = next((i for i, part in enumerate(parts) if re.search(r"[*?\[]", part)), None)
        if wild is None:
            hint = "" if root.suffix else " or folder"
            name = " (a dataset of the Hugging Face hub needs documents.format=huggingface)" if hint else ""
            raise ConfigError(f"documents.path: no such file{hint}: {path}{name}")
        root, pattern = Path(*parts[:wild]), str(Path(*parts[wild:]))
    top = root.resolve()
    left_out = {path.relative_to(top) for path in (p.resolve() for p in leave_out) if top in path.parents}
    try:
        found = [
            file
            for file in root.glob(pattern)
            if file.is_file()
            and _is_visible(place := file.relative_to(root))
            and left_out.isdisjoint(place.parents)
        ]
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"documents.pattern: {pattern!r} is not a pattern of files: {error}") from error
    if not found:
        raise ConfigError(f"documents.path: no file in {root} matches {pattern}")
    return root, sorted(found)


def _is_visible(path: Path) -> bool:
    return not any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _of_format(files: list[Path], root: Path, config: DocumentsConfig) -> tuple[list[Path], str]:
    """The files that are documents in the configured format, and what that is in a folder that holds any."""
    chosen = config.format in ("jsonl", "parquet") and config.pattern != DocumentsConfig.pattern
    if config.format == "folder" or chosen or not Path(str(config.path)).is_dir():
        return files, config.format
    wanted = {"jsonl": _JSONL, "parquet": _PARQUET}.get(config.format, _JSONL + _PARQUET)
    rows = [file for file in files if file.name.endswith(wanted)]
    if config.format == "auto":
        at_top = any(file.parent == root for file in rows)
        return (rows, "auto") if at_top or len(rows) == len(files) else (files, "folder")
    if not rows:
        raise ConfigError(f"documents.path: {config.path} holds no file that ends in {', '.join(wanted)}")
    return rows, config.format


def _sources(root: Path, files: Sequence[Path], format_: str) -> list[tuple[str, Source]]:
    sources: list[tuple[str, Source]] = []
    texts = []
    for file in files:
        name = _shard_name(file.relative_to(root).as_posix())
        if format_ == "jsonl" or (format_ in ("auto", "scored") and file.name.endswith(_JSONL)):
            sources.append((name, JsonlFile(file)))
        elif format_ == "parquet" or (format_ in ("auto", "scored") and file.name.endswith(_PARQUET)):
            sources.append((name, ParquetFile(file)))
        elif format_ == "scored":
            raise ConfigError(f"documents.path: {file} is neither .jsonl[.gz|.zst] nor .parquet")
        else:
            texts.append(file)
    for start in range(0, len(texts), FILES_PER_SHARD):
        group = TextFiles(root, texts[start : start + FILES_PER_SHARD])
        sources.append((f"files-{start // FILES_PER_SHARD:06d}", group))
    return sources


def _shard_name(path: str) -> str:
    """A file's path, or if that is no name of a file everywhere, something like it and a hash."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", path):
        return path
    digest = hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:10]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", path)[-80:].strip("-") + f"-{digest}"
