"""Implements the format `huggingface`: a dataset by name, or its `save_to_disk` folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from phf.base.errors import ConfigError, PhfError
from phf.base.files import is_file
from phf.config import DocumentsConfig
from phf.documents.formats.base import Format, Row, Source, present
from phf.documents.formats.parquet import BATCH, unpacked

ROWS_PER_SHARD = 50_000


class HuggingFace(Format):
    """A Hugging Face dataset by name, or its `save_to_disk` folder; a shard has 50,000 rows."""

    name = "huggingface"

    def sources(self, config: DocumentsConfig, leave_out: Sequence[Path]) -> list[tuple[str, Source]]:
        path, size = str(config.path), ROWS_PER_SHARD
        dataset = load_dataset(path, config.split, config.subset)
        return [
            (f"rows-{start:09d}", DatasetSlice(dataset, start, min(start + size, len(dataset)), path))
            for start in range(0, len(dataset), size)
        ]


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
        wanted = present(columns, self.dataset.column_names, self.place)
        table = self.dataset.select_columns(wanted).with_format("arrow")
        for start in range(self.start, self.stop, BATCH):
            batch = table[start : min(start + BATCH, self.stop)]
            yield from enumerate(unpacked(batch), start - self.start)
            self.position = start - self.start + batch.num_rows


def load_dataset(path: str, split: str, subset: str | None = None, *, option: str = "documents.path") -> Any:
    """Loads a split of a Hugging Face dataset, by name or from its `save_to_disk` folder.

    Args:
        path: Name or folder.
        split: The split.
        subset: The subset, if the dataset has several.
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
    except Exception as error:  # the library passes on any error of the storage
        reason, _, more = str(error).strip().partition("\n")
        if "Config name is missing" in reason:
            raise ConfigError(f"{section}.subset is not set: {path}: {more.partition(chr(10))[0]}") from error
        reason = reason or type(error).__name__
        raise PhfError(f"{option}: cannot load the dataset {path:.200}: {reason}") from error
    if not isinstance(dataset, datasets.DatasetDict):
        return dataset
    if split not in dataset:
        raise ConfigError(f"{section}.split: {path} has {', '.join(dataset)}, not {split}")
    return dataset[split]


def is_saved_dataset(path: Path) -> bool:
    """Returns whether a folder was written by `save_to_disk`."""
    return is_file(path / "dataset_dict.json") or is_file(path / "state.json")
