"""Lists the shards of a corpus, and reads the documents of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from phf.base.errors import ConfigError, PhfError
from phf.config import DocumentsConfig
from phf.documents.formats import find_format
from phf.documents.formats.base import Document, Format, Source


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be used, with the reason."""

    shard: str
    row: int
    reason: str


OnBadRow = Callable[[BadRow], None]


class Shard:
    """A part of the corpus that is read in one go.

    Rows that are not documents are reported and skipped. The number of a row is its position in the shard,
    from 0, with bad rows counted.

    Attributes:
        name: Unique in the corpus, stable, and safe as a file name.
    """

    def __init__(self, name: str, source: Source, config: DocumentsConfig, format_: Format):
        self.name = name
        self._source = source
        self._config = config
        self._format = format_

    def fingerprint(self) -> str:
        """Returns a text that changes whenever the contents may have changed.

        Raises:
            PhfError: The contents are not there any more.
        """
        try:
            return self._source.fingerprint()
        except OSError as error:
            raise PhfError(f"shard {self.name}: {error.filename}: {error.strerror}") from error

    @property
    def size(self) -> int:
        """The amount to read, in bytes or rows."""
        return self._source.size

    @property
    def position(self) -> int:
        """The amount read so far, in the same unit as `size`."""
        return self._source.position

    def read(self, bad: OnBadRow) -> Iterator[tuple[int, Document]]:
        """Yields the row number and the document of each valid row, and reports the other rows to `bad`.

        At most `documents.limit` documents are read.

        Raises:
            PhfError: The shard cannot be read at all.
            ConfigError: The shard has no column of the configured name.
        """
        left = self._config.limit
        for row, fields in self._source.rows(self._format.columns(self._config)):
            try:
                if isinstance(fields, str):
                    raise ValueError(fields)
                name = str(fields["id"]) if fields.get("id") is not None else f"{self.name}:{row}"
                document = self._format.document(fields, name, self._source, self._config)
            except ValueError as error:
                bad(BadRow(self.name, row, str(error)))
                continue
            yield row, document
            if left is not None:
                left -= 1
                if left == 0:
                    return


def list_shards(config: DocumentsConfig, leave_out: Sequence[Path] = ()) -> list[Shard]:
    """Lists the shards of a corpus in a fixed order.

    Args:
        config: The section `documents` of the configuration.
        leave_out: Folders whose files are not documents.

    Raises:
        ConfigError: No documents are configured, the path holds none, or the format does not exist.
        PhfError: The dataset cannot be loaded.
    """
    if not config.path:
        raise ConfigError("documents.path is not set: give a file, a folder, a glob or a dataset")
    format_ = find_format(config)
    return [Shard(name, source, config, format_) for name, source in format_.sources(config, leave_out)]


def bring_scores(config: DocumentsConfig) -> bool:
    """Returns whether the documents come with segments and scores, so that they need not be annotated."""
    return find_format(config).brings_scores
