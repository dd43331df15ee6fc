"""Defines what a document format does: it lists shards, reads their rows, and turns a row into a document.

A custom format fits in one file. If each file of the corpus is a shard, it takes a `FileFormat` that opens a
`FileSource`:

    class Csv(FileFormat):
        name, suffixes = "csv", (".csv",)

        def open(self, path):
            return CsvFile(path)


    class CsvFile(FileSource):
        def rows(self, columns):
            with self.path.open(newline="", encoding="utf-8") as file:
                yield from enumerate(csv.DictReader(file))
"""

from __future__ import annotations

import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from phf.base.errors import ConfigError, PhfError
from phf.config import DocumentsConfig, NoOptions
from phf.documents.files import choose_files, shard_name

Row = tuple[int, Mapping[str, Any] | str]
"""Number of a row, and either its fields or the reason why it cannot be read."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document.

    Attributes:
        id: The row's own `id`, a file's path, or shard and row.
        text: The text; it can be encoded as UTF-8.
        segments: The segments, if the document came segmented and scored; they join to the text.
        scores: A score for each of these segments; `None` for a segment without a score.
        source: The origin of the document, if known: the field `documents.source_field`, or the first folder
            of a file's path.
    """

    id: str
    text: str
    segments: tuple[str, ...] | None = None
    scores: tuple[float | None, ...] | None = None
    source: str | None = None


class Source(ABC):
    """Rows that are read in one go.

    Every row has a number: its position in the source, with unreadable rows counted.

    Attributes:
        size: The amount to read, in bytes or rows.
        position: How much the latest call of `rows` has read.
    """

    size: int
    position: int = 0

    @abstractmethod
    def fingerprint(self) -> str:
        """Returns a text that changes whenever the contents may have changed."""

    @abstractmethod
    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yields the rows from the start.

        Args:
            columns: The required fields; `id` is read too if it exists.

        Raises:
            PhfError: No row can be read.
            ConfigError: The source has columns, and a required one is missing.
        """

    def origin(self, fields: Mapping[str, Any], field: str | None) -> str | None:
        """Returns the origin of a row; `None` if the row does not state it.

        Args:
            fields: The row's fields.
            field: The field that states the origin. Dots lead into nested fields.
        """
        value: Any = fields if field else None
        for name in field.split(".") if field else ():
            value = value.get(name) if isinstance(value, Mapping) else None
        return None if value is None or isinstance(value, Mapping | list) else str(value)


class FileSource(Source):
    """The rows of one file."""

    def __init__(self, path: Path):
        self.path = path
        self.size = path.stat().st_size

    def fingerprint(self) -> str:
        stat = self.path.stat()
        return f"{stat.st_size}-{stat.st_mtime_ns}"

    def unreadable(self, row: int, error: Exception) -> Row:
        """Returns a row that stands for the rest of a file, after its first rows could be read.

        Raises:
            PhfError: No row could be read.
        """
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        if row == 0:
            raise PhfError(f"{self.path}: cannot be read: {reason}") from error
        return row, f"the rest of the file cannot be read: {reason}"


class Format(ABC):
    """Defines how a path is divided into shards, and how a row becomes a document.

    Attributes:
        name: The name in `phf formats`.
        Options: A dataclass of the format's own options, with a sentence under each field.
        suffixes: Suffixes of the format's file names, by which `documents.format=auto` recognizes them.
        brings_scores: Whether documents come with segments and scores, so that they need not be annotated.
    """

    name: ClassVar[str]
    Options: ClassVar[type] = NoOptions
    suffixes: ClassVar[tuple[str, ...]] = ()
    brings_scores: ClassVar[bool] = False

    def __init__(self, options: Any = None):
        self.options = self.Options() if options is None else options

    @abstractmethod
    def sources(self, config: DocumentsConfig, leave_out: Sequence[Path]) -> list[tuple[str, Source]]:
        """Lists the shards of a path in a fixed order, each with a name that is safe as a file name.

        Args:
            config: The section `documents` of the configuration.
            leave_out: Folders whose files are not documents.

        Raises:
            ConfigError: The path holds no documents.
            PhfError: A dataset cannot be loaded.
        """

    def columns(self, config: DocumentsConfig) -> list[str]:
        """Returns the names of the required fields of a row."""
        needed = [config.text_field]
        return needed + ([config.source_field.partition(".")[0]] if config.source_field else [])

    def document(
        self, fields: Mapping[str, Any], name: str, source: Source, config: DocumentsConfig
    ) -> Document:
        """Builds the document of a row.

        Raises:
            ValueError: The row is not a document; the message is the reason.
        """
        text = text_of(fields, config.text_field)
        return Document(name, text, source=source.origin(fields, config.source_field))


class FileFormat(Format):
    """A format in which each file is a shard."""

    @abstractmethod
    def open(self, path: Path) -> Source:
        """Opens a file as a source of rows."""

    def sources(self, config: DocumentsConfig, leave_out: Sequence[Path]) -> list[tuple[str, Source]]:
        root, files = choose_files(config, leave_out, self.suffixes)
        return [(shard_name(file.relative_to(root).as_posix()), self.open(file)) for file in files]


def text_of(fields: Mapping[str, Any], field: str) -> str:
    """Returns the text in a field of a row.

    Raises:
        ValueError: There is no such text; the message is the reason.
    """
    if field not in fields:
        hint = ": set documents.format=scored" if {"texts", "scores"} <= fields.keys() else ""
        there = ", ".join(map(repr, fields)) or "none"
        raise ValueError(f"no field {field!r}, only {textwrap.shorten(there, 200, placeholder=' ...')}{hint}")
    return checked_text(fields[field], field)


def checked_text(value: Any, field: str) -> str:
    """Returns a value after a check that it is text that can be encoded as UTF-8.

    Raises:
        ValueError: The value is not such text; the message is the reason.
    """
    if not isinstance(value, str):
        raise ValueError(f"field {field!r} is not text but {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        place = f"character {error.start}"
        raise ValueError(f"field {field!r} holds half of a surrogate pair at {place}") from None
    return value


def present(columns: Sequence[str], there: Sequence[str], place: str) -> list[str]:
    """Selects the columns of a table to read: the required ones, and `id` if there is one.

    Args:
        columns: The required columns.
        there: The columns of the table.
        place: Where the table is, for the error message.

    Raises:
        ConfigError: A required column is missing.
    """
    missing = [name for name in columns if name not in there]
    if missing:
        hint = ": set documents.format=scored" if {"texts", "scores"} <= set(there) else ""
        raise ConfigError(f"{place}: no column {missing[0]!r}, only {', '.join(there)}{hint}")
    return [name for name in dict.fromkeys(("id", *columns)) if name in there]
