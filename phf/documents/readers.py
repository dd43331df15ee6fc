"""Reading rows: jsonl (plain, gz, zst), parquet, text files, slices of a Hugging Face dataset.

A source yields the number of each row with its fields, or with the reason why it cannot be read. Numbers are
places in the source: every row has one, whether it can be read or not.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from phf.base.errors import ConfigError, PhfError

Row = tuple[int, dict[str, Any] | str]
"""Number of a row, and its fields or the reason why it cannot be read."""

_BATCH = 256


class Source(ABC):
    """Rows that are read in one go.

    Attributes:
        size: How much there is to read, in bytes or rows.
        position: How much of it the latest call of `rows` has read.
    """

    size: int
    position: int = 0

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when the contents may have changed."""

    @abstractmethod
    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Reads from the start.

        Args:
            columns: The fields that are needed; `id` comes with them if there is one.

        Raises:
            PhfError: Nothing of it can be read.
            ConfigError: It has columns, and one that is needed is not among them.
        """

    def origin(self, fields: Mapping[str, Any], field: str | None) -> str | None:
        """Where a row comes from, `None` if it does not say.

        Args:
            fields: The row's.
            field: The one that says it; a dot goes into a field.
        """
        value: Any = fields if field else None
        for name in field.split(".") if field else ():
            value = value.get(name) if isinstance(value, Mapping) else None
        return None if value is None or isinstance(value, Mapping | list) else str(value)


class _File(Source):
    def __init__(self, path: Path):
        self.path = path
        self.size = path.stat().st_size

    def fingerprint(self) -> str:
        stat = self.path.stat()
        return f"{stat.st_size}-{stat.st_mtime_ns}"

    def _unreadable(self, row: int, error: Exception) -> Row:
        """The rest of a file of which some could be read."""
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        if row == 0:
            raise PhfError(f"{self.path}: cannot be read: {reason}") from error
        return row, f"the rest of the file cannot be read: {reason}"


class JsonlFile(_File):
    """One JSON object a line; blank lines are passed over. Packed if it ends in .gz or .zst."""

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
            yield self._unreadable(row + 1, error)


def _unpack(raw: io.BufferedReader, suffix: str) -> io.BufferedReader:
    codec = {".gz": "gzip", ".zst": "zstd"}.get(suffix)
    if codec is None:
        return raw
    import pyarrow as pa

    # Unlike the zstandard package, Arrow notices a file that ends too early, if only it has begun.
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
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        return f"not JSON: {str(error).partition(';')[0]}"
    return fields if isinstance(fields, dict) else f"not an object but {type(fields).__name__}"


class ParquetFile(_File):
    """A parquet file, read a few rows at a time."""

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        row = 0
        try:
            with pq.ParquetFile(self.path) as file:
                wanted = _present(columns, file.schema_arrow.names, str(self.path))
                for batch in file.iter_batches(batch_size=_BATCH, columns=wanted):
                    for fields in _unpacked(batch):
                        yield row, fields
                        row += 1
                    self.position = self.size * row // file.metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            yield self._unreadable(row, error)


def _present(columns: Sequence[str], there: Sequence[str], place: str) -> list[str]:
    missing = [name for name in columns if name not in there]
    if missing:
        hint = ": set documents.format=scored" if {"texts", "scores"} <= set(there) else ""
        raise ConfigError(f"{place}: no column {missing[0]!r}, only {', '.join(there)}{hint}")
    return [name for name in dict.fromkeys(("id", *columns)) if name in there]


def _unpacked(batch: Any) -> list[dict[str, Any] | str]:
    """The rows of an Arrow batch; its strings are decoded only here, and may turn out to be none."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            return [f"not UTF-8 at byte {error.start}"]
        return [row for i in range(batch.num_rows) for row in _unpacked(batch.slice(i, 1))]


class TextFiles(Source):
    """Files of a folder; each is a row with its path as `id` and its text as the first column."""

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
                yield row, {"id": name, columns[0]: data.decode("utf-8")}
            except UnicodeDecodeError as error:
                yield row, f"{name}: not UTF-8 at byte {error.start}"
            except OSError as error:
                yield row, f"{name}: cannot be read: {error.strerror}"

    def origin(self, fields: Mapping[str, Any], field: str | None) -> str | None:
        """The first folder of the file's path."""
        folder, _, inside = str(fields["id"]).partition("/")
        return folder if inside else None


class DatasetSlice(Source):
    """Consecutive rows of a Hugging Face dataset."""

    def __init__(self, dataset: Any, start: int, stop: int, place: str):
        self.dataset = dataset
        self.start = start
        self.stop = stop
        self.place = place
        self.size = stop - start

    def fingerprint(self) -> str:
        return f"{self.dataset._fingerprint}-{self.start}-{self.stop}"

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        wanted = _present(columns, self.dataset.column_names, self.place)
        table = self.dataset.select_columns(wanted).with_format("arrow")
        for start in range(self.start, self.stop, _BATCH):
            batch = table[start : min(start + _BATCH, self.stop)]
            yield from enumerate(_unpacked(batch), start - self.start)
            self.position = start - self.start + batch.num_rows


def load_dataset(path: str, split: str, subset: str | None = None, *, option: str = "documents.path") -> Any:
    """A split of a Hugging Face dataset, by name or by its `save_to_disk` folder.

    Args:
        path: Name or folder.
        split: The split.
        subset: The subset, if it has several.
        option: The option that names the dataset, for errors.

    Raises:
        ConfigError: The folder has no such split, or the dataset has several subsets and none is chosen.
        PhfError: The dataset cannot be loaded.
    """
    import datasets

    section = option.rpartition(".")[0]
    try:
        if not is_saved_dataset(Path(path)):
            return datasets.load_dataset(path, subset, split=split)
        dataset = datasets.load_from_disk(path)
    except Exception as error:  # the library raises whatever its storage raises
        reason, _, more = str(error).strip().partition("\n")
        if "Config name is missing" in reason:
            raise ConfigError(f"{section}.subset is not set: {path}: {more.partition(chr(10))[0]}") from error
        reason = reason or type(error).__name__
        raise PhfError(f"{option}: cannot load the dataset {path}: {reason}") from error
    if not isinstance(dataset, datasets.DatasetDict):
        return dataset
    if split not in dataset:
        raise ConfigError(f"{section}.split: {path} has {', '.join(dataset)}, not {split}")
    return dataset[split]


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()
