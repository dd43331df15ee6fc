"""Reading documents: jsonl, parquet, folders of text files, Hugging Face datasets, the paper's corpora.

A corpus is a list of shards, each read from its start to its end. A row that cannot be read is reported and
skipped; the number of a row is its place in the shard, bad ones counted.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from phf.config import DocumentsConfig
from phf.errors import ConfigError, PhfError

# Files of a folder, and rows of a dataset, in a shard.
FILES_PER_SHARD = 1000
ROWS_PER_SHARD = 50_000

_JSONL = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_SUFFIXES = {"jsonl": _JSONL, "parquet": (".parquet",)}


@dataclass(frozen=True, slots=True)
class Document:
    """A document.

    Attributes:
        id: The row's own `id`, a file's path, or shard and row.
        text: The text.
        segments: Its segments, if it came already segmented and scored; joined they are the text.
        scores: A score for each of these segments; `None` where there is none.
    """

    id: str
    text: str
    segments: tuple[str, ...] | None = None
    scores: tuple[float | None, ...] | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be used, and why."""

    shard: str
    row: int
    reason: str


OnBadRow = Callable[[BadRow], None]


class Shard(ABC):
    """A part of the corpus that is read in one go.

    Attributes:
        name: Unique in the corpus, stable, and safe as the name of a file.
    """

    name: str

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when the contents may have changed."""

    @abstractmethod
    def _rows(self, bad: OnBadRow) -> Iterator[tuple[int, Document]]: ...

    def __init__(self, config: DocumentsConfig):
        self.config = config

    def read(self, bad: OnBadRow) -> Iterator[tuple[int, Document]]:
        """Yields number and document of each row that can be read, and reports the others to `bad`.

        Raises:
            PhfError: The shard cannot be read at all.
        """
        for count, item in enumerate(self._rows(bad)):
            if self.config.limit is not None and count >= self.config.limit:
                return
            yield item

    def _document(self, row: int, fields: Mapping[str, Any], bad: OnBadRow) -> Iterator[tuple[int, Document]]:
        """The document of a row, if it is one."""
        try:
            yield row, _parse(fields, f"{self.name}:{row}", self.config)
        except ValueError as error:
            bad(BadRow(self.name, row, str(error)))


def list_shards(config: DocumentsConfig) -> list[Shard]:
    """The shards of a corpus, in a fixed order.

    Raises:
        ConfigError: No documents are configured, or nothing is there.
    """
    if not config.path:
        raise ConfigError("documents.path is not set: give a file, a folder, a glob or a dataset")
    container = _container(config)
    if container == "huggingface":
        return _dataset_shards(config)
    if container == "folder":
        root = Path(config.path)
        files = sorted(path for path in root.glob(config.pattern) if path.is_file())
        if not files:
            raise ConfigError(f"documents.path: no file in {root} matches documents.pattern={config.pattern}")
        groups = [files[i : i + FILES_PER_SHARD] for i in range(0, len(files), FILES_PER_SHARD)]
        return [_Folder(config, f"files-{i:05d}", root, group) for i, group in enumerate(groups)]
    files = _files(config.path, _SUFFIXES[container])
    names = _unique_names(files)
    cls = _Jsonl if container == "jsonl" else _Parquet
    return [cls(config, name, path) for name, path in zip(names, files, strict=True)]


def _container(config: DocumentsConfig) -> str:
    """How the documents are stored: jsonl, parquet, folder or huggingface."""
    if config.format in ("jsonl", "parquet", "folder", "huggingface"):
        if config.format == "folder" and not Path(str(config.path)).is_dir():
            raise ConfigError(f"documents.path: {config.path} is not a folder")
        return config.format
    path = Path(str(config.path))
    if path.is_dir():
        if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
            return "huggingface"
        for container, suffixes in _SUFFIXES.items():
            if any(file.name.endswith(suffixes) for file in path.iterdir()):
                return container
        if config.format == "scored":
            raise ConfigError(f"documents.path: {path} holds neither jsonl nor parquet nor a dataset")
        return "folder"
    for container, suffixes in _SUFFIXES.items():
        if str(path).endswith(suffixes):
            return container
    if config.format == "scored":
        return "huggingface"
    if path.is_file():
        raise ConfigError(
            f"documents.path: {path} is neither .jsonl[.gz|.zst] nor .parquet; give the folder of a text file"
        )
    raise ConfigError(
        f"documents.path: no such file or folder: {path} "
        "(for a dataset of the Hugging Face hub, documents.format=huggingface)"
    )


def _files(path: str, suffixes: tuple[str, ...]) -> list[Path]:
    if Path(path).is_dir():
        found = [file for file in Path(path).iterdir() if file.name.endswith(suffixes)]
    else:
        anchor = Path(path).anchor
        found = list(Path(anchor or ".").glob(str(Path(path).relative_to(anchor))))
    if not found:
        raise ConfigError(f"documents.path: no such file: {path}")
    return sorted(found)


def _unique_names(files: list[Path]) -> list[str]:
    names = [re.sub(r"[^\w.-]", "_", file.name) for file in files]
    if len(set(names)) == len(names):
        return names
    return [f"{i:05d}-{name}" for i, name in enumerate(names)]


def _parse(fields: Mapping[str, Any], default_id: str, config: DocumentsConfig) -> Document:
    """The document of a row.

    Raises:
        ValueError: With the reason why it is none.
    """
    name = str(fields["id"]) if fields.get("id") is not None else default_id
    if config.format != "scored":
        if config.text_field not in fields:
            raise ValueError(f"no field {config.text_field!r}, only {', '.join(map(repr, fields)) or 'none'}")
        return Document(name, _text(fields[config.text_field], config.text_field))
    for field in ("texts", "scores"):
        if not isinstance(fields.get(field), list):
            raise ValueError(f"field {field!r} is not a list")
    texts = [_text(text, "texts") for text in fields["texts"]]
    scores = [None if score is None else _score(score) for score in fields["scores"]]
    if len(texts) != len(scores):
        raise ValueError(f"{len(texts)} texts and {len(scores)} scores")
    kept = [(text, score) for text, score in zip(texts, scores, strict=True) if text]
    return Document(name, "".join(texts), tuple(t for t, _ in kept), tuple(s for _, s in kept))


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"field {field!r} is not text but {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"field {field!r} holds half of a surrogate pair at character {error.start}"
        ) from None
    return value


def _score(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"score {value!r} is not a number of 0 or more")
    return float(value)


class _File(Shard):
    def __init__(self, config: DocumentsConfig, name: str, path: Path):
        super().__init__(config)
        self.name = name
        self.path = path

    def fingerprint(self) -> str:
        stat = self.path.stat()
        return f"{stat.st_size}-{stat.st_mtime_ns}"


class _Jsonl(_File):
    def _rows(self, bad: OnBadRow) -> Iterator[tuple[int, Document]]:
        row = -1
        try:
            with _open(self.path) as file:
                for row, line in enumerate(file):
                    if not line.strip():
                        continue
                    try:
                        fields = json.loads(line.decode("utf-8"))
                    except UnicodeDecodeError as error:
                        bad(BadRow(self.name, row, f"not UTF-8 at byte {error.start}"))
                        continue
                    except (ValueError, RecursionError) as error:
                        bad(BadRow(self.name, row, f"not JSON: {error}"))
                        continue
                    if not isinstance(fields, dict):
                        bad(BadRow(self.name, row, f"not an object but {type(fields).__name__}"))
                        continue
                    yield from self._document(row, fields, bad)
        except (EOFError, zlib.error, gzip.BadGzipFile, _zstd_error()) as error:
            bad(BadRow(self.name, row + 1, f"the rest of the file cannot be unpacked: {error}"))
        except OSError as error:
            raise PhfError(f"{self.path}: cannot be read: {error.strerror}") from error


def _zstd_error() -> type[Exception]:
    import zstandard

    return zstandard.ZstdError


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return gzip.open(path)  # type: ignore[return-value]
    if path.suffix == ".zst":
        import zstandard

        return io.BufferedReader(zstandard.open(path, "rb"))
    return path.open("rb")


class _Parquet(_File):
    def _rows(self, bad: OnBadRow) -> Iterator[tuple[int, Document]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        wanted = ["texts", "scores"] if self.config.format == "scored" else [self.config.text_field]
        row = 0
        try:
            with pq.ParquetFile(self.path) as file:
                there = file.schema_arrow.names
                missing = [name for name in wanted if name not in there]
                if missing:
                    raise ConfigError(f"{self.path}: no column {missing[0]!r}, only {', '.join(there)}")
                columns = [name for name in ("id", *wanted) if name in there]
                for batch in file.iter_batches(batch_size=256, columns=columns):
                    for fields in batch.to_pylist():
                        yield from self._document(row, fields, bad)
                        row += 1
        except (pa.ArrowException, OSError) as error:
            reason = str(error).partition("\n")[0]
            if row == 0:
                raise PhfError(f"{self.path}: not a readable parquet file: {reason}") from error
            bad(BadRow(self.name, row, f"the rest of the file cannot be read: {reason}"))


class _Folder(Shard):
    def __init__(self, config: DocumentsConfig, name: str, root: Path, files: list[Path]):
        super().__init__(config)
        self.name = name
        self.root = root
        self.files = files

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for file in self.files:
            stat = file.stat()
            digest.update(f"{file.relative_to(self.root)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()[:16]

    def _rows(self, bad: OnBadRow) -> Iterator[tuple[int, Document]]:
        for row, file in enumerate(self.files):
            name = file.relative_to(self.root).as_posix()
            try:
                text = file.read_bytes().decode("utf-8")
            except UnicodeDecodeError as error:
                bad(BadRow(self.name, row, f"{name}: not UTF-8 at byte {error.start}"))
            except OSError as error:
                bad(BadRow(self.name, row, f"{name}: cannot be read: {error.strerror}"))
            else:
                yield row, Document(name, text)


class _Dataset(Shard):
    def __init__(self, config: DocumentsConfig, name: str, dataset: Any, start: int, stop: int):
        super().__init__(config)
        self.name = name
        self.dataset = dataset
        self.start = start
        self.stop = stop

    def fingerprint(self) -> str:
        return f"{self.dataset._fingerprint}-{self.start}-{self.stop}"

    def _rows(self, bad: OnBadRow) -> Iterator[tuple[int, Document]]:
        for row in range(self.stop - self.start):
            yield from self._document(row, self.dataset[self.start + row], bad)


def _dataset_shards(config: DocumentsConfig) -> list[Shard]:
    import datasets

    path = str(config.path)
    try:
        if Path(path).is_dir():
            dataset = datasets.load_from_disk(path)
            if isinstance(dataset, datasets.DatasetDict):
                if config.split not in dataset:
                    raise ConfigError(f"documents.split: {path} has {', '.join(dataset)}, not {config.split}")
                dataset = dataset[config.split]
        else:
            dataset = datasets.load_dataset(path, split=config.split)
    except ConfigError:
        raise
    except Exception as error:  # the library raises whatever its storage raises
        reason = str(error).strip().partition("\n")[0]
        raise PhfError(f"documents.path: cannot load the dataset {path}: {reason}") from error
    size = ROWS_PER_SHARD
    return [
        _Dataset(config, f"rows-{start:09d}", dataset, start, min(start + size, len(dataset)))
        for start in range(0, len(dataset), size)
    ]
