"""Documents: what is one, and reading those of a shard.

A shard is read from its start to its end. A row that is no document is reported and skipped; the number of a
row is its place in the shard, from 0, bad rows counted.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phf.base.errors import PhfError
from phf.config import DocumentsConfig
from phf.documents.readers import Source

# Scores are kept as float32, and in that they are finite.
LARGEST_SCORE = 3.4e38


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
