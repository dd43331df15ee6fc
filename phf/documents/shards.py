"""Which documents a corpus has, and in which shards."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phf.base.errors import ConfigError
from phf.config import DocumentsConfig
from phf.documents.documents import Shard
from phf.documents.readers import (
    DatasetSlice,
    JsonlFile,
    ParquetFile,
    Source,
    TextFiles,
    is_saved_dataset,
    load_dataset,
)

# Files of a folder, and rows of a dataset, in a shard.
FILES_PER_SHARD = 1000
ROWS_PER_SHARD = 50_000

_JSONL = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_PARQUET = (".parquet",)


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
