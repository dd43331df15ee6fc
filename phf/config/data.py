"""From documents to a token store."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from phf.config.checks import check, home


@dataclass
class DocumentsConfig:
    """Where the documents are."""

    path: str | None = None
    """A file, a glob, a folder, the name of a Hugging Face dataset, or its `save_to_disk` folder."""
    format: Literal["auto", "jsonl", "parquet", "folder", "huggingface", "scored"] = "auto"
    """`auto` tells by the name. `folder`: one document a text file. `scored`: rows with `texts` and `scores`
    (jsonl, parquet or a Hugging Face dataset), already segmented and annotated."""
    text_field: str = "text"
    """The field (jsonl, parquet, Hugging Face) that holds the text."""
    texts_field: str = "texts"
    """`scored`: the field that holds a document's segments, a list; joined, they are its text."""
    scores_field: str = "scores"
    """`scored`: the field that holds their scores, a list as long; null: no score."""
    source_field: str | None = None
    """The field that names a document's source, for statistics; a dot goes into it: meta.pile_set_name."""
    pattern: str = "**/*"
    """Which files of a folder are read. With `format` jsonl or parquet, whatever they are called."""
    subset: str | None = None
    """The subset (Hugging Face: configuration) of a dataset that has several."""
    split: str = "train"
    """The split of a Hugging Face dataset."""
    limit: int | None = None
    """Read this many documents of each shard at the most; all if null."""
    max_bad_rows: int | None = None
    """Stop once more rows than this cannot be read or scored; null: any number. A side file lists them."""

    def __post_init__(self) -> None:
        self.path = self.path and home(self.path)
        check(
            self.limit is None or self.limit >= 1,
            f"documents.limit must be at least 1 or null, not {self.limit}",
        )
        check(
            self.max_bad_rows is None or self.max_bad_rows >= 0,
            f"documents.max_bad_rows must be 0 or more or null, not {self.max_bad_rows}",
        )


@dataclass
class SegmenterConfig:
    """How a document is cut into the segments that are scored."""

    name: Literal["line", "sentence", "paragraph", "document"] = "sentence"
    """The unit that gets a score of its own: a sentence of prose, a line of code."""
    max_chars: int | None = 2000
    """A longer segment is cut at white space (never for `line` and `document`); null for no limit."""

    def __post_init__(self) -> None:
        check(
            self.max_chars is None or self.max_chars >= 1,
            f"segmenter.max_chars must be at least 1, not {self.max_chars}",
        )


@dataclass
class ScorerConfig:
    """Which preference is measured."""

    name: str = "pep8"
    """A scorer from `phf scorers`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword options of that scorer."""
    column: str | None = None
    """Under which name its scores are kept; null: its own. For one scorer twice, with other options."""

    def __post_init__(self) -> None:
        check(
            self.column is None or re.fullmatch(r"\w[\w.:-]*", self.column) is not None,
            f"a scorer's column must be letters, digits and . : - _, not {self.column!r}",
        )

    @property
    def key(self) -> str:
        """The name of its scores; of a scorer in a file, without the folder."""
        return self.column or self.name.rpartition("/")[2]


@dataclass
class ExecutorConfig:
    """Who runs the parts of the annotation."""

    name: Literal["pool", "local", "slurm", "ray"] = "pool"
    """`pool`: this call, for `part` alone. `local`, `slurm`, `ray`: datatrove's executor of that name, each
    part as a task (extra `datatrove`)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword options of that executor."""

    def __post_init__(self) -> None:
        check(
            self.name != "pool" or not self.options,
            f"annotations.executor.options: pool has none, and not {', '.join(self.options)}; set "
            "annotations.executor.name",
        )


@dataclass
class AnnotationsConfig:
    """The scores of every segment, kept beside the documents."""

    path: str = "data/annotations"
    """The folder; each scorer has a folder of its own in it, with one file a shard."""
    also: list[ScorerConfig] = field(default_factory=list)
    """More scorers, each like `scorer`: the documents are read and cut once for all of them."""
    processes: int = 0
    """Scoring processes on this machine; 0 for one a core, or one a GPU for a scorer that computes there."""
    part: int = 0
    """Which part of the shards this call scores, from 0 (a job array's index)."""
    parts: int = 1
    """In how many parts the shards are divided (a job array's size)."""
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    """Who runs the parts; by default, this call runs one."""

    def __post_init__(self) -> None:
        self.path = home(self.path)
        check(self.processes >= 0, f"annotations.processes must be 0 or more, not {self.processes}")
        check(self.parts >= 1, f"annotations.parts must be at least 1, not {self.parts}")
        check(0 <= self.part < self.parts, f"annotations.part must lie in [0, {self.parts}), not {self.part}")
        check(
            self.executor.name == "pool" or not self.part,
            f"annotations.part={self.part}: annotations.executor.name={self.executor.name} runs every part",
        )


@dataclass
class TokenizerConfig:
    """The tokenizer."""

    name: str = "gpt2"
    """A Hugging Face tokenizer: a name or a folder. Not used if `train` is set."""
    train: bool = False
    """Train a byte-level BPE tokenizer on the documents that are not held out."""
    vocab_size: int = 8192
    """Size of the trained vocabulary, `<|endoftext|>` included."""

    def __post_init__(self) -> None:
        self.name = home(self.name)
        check(
            self.vocab_size >= 257,
            f"tokenizer.vocab_size must be at least 257 (256 bytes and one mark), not {self.vocab_size}",
        )


@dataclass
class StoreConfig:
    """The tokenized corpus, as memory-mapped arrays."""

    path: str = "data/store"
    """The folder."""
    heldout_fraction: float = 0.01
    """Share of the documents that is never trained on, chosen by a hash of the document."""

    def __post_init__(self) -> None:
        self.path = home(self.path)
        check(
            0 <= self.heldout_fraction < 1,
            f"store.heldout_fraction must lie in [0, 1), not {self.heldout_fraction}",
        )
