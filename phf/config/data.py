"""Defines the sections from documents to a token store."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from phf.config.checks import check
from phf.config.fields import option


@dataclass
class DocumentsConfig:
    """The source documents: where they are and how they are read."""

    path: str | None = option(None, path=True, free=True)
    """A file, a glob, a folder, the name of a Hugging Face dataset, or a folder that `save_to_disk` wrote."""
    format: str = option("auto", path=True, free=True)
    """How the documents are read: a format from `phf formats`, `package.module:Class` or `file.py:Class`.
    `auto` chooses a format by the file names."""
    options: dict[str, Any] = option(factory=dict, belongs_to="format")
    """Options of the format; `phf formats NAME` lists them."""
    text_field: str = "text"
    """The field that holds the text (jsonl, parquet, Hugging Face)."""
    source_field: str | None = option(None, free=True)
    """The field that names a document's source, for statistics. Dots lead into nested fields:
    `meta.pile_set_name`."""
    pattern: str = option("**/*", free=True)
    """A glob that selects the files of a folder. With format `jsonl` or `parquet`, files may have any
    extension."""
    subset: str | None = option(None, free=True)
    """The subset of a dataset that has several (Hugging Face calls it a configuration)."""
    split: str = option("train", free=True)
    """The split of a Hugging Face dataset."""
    limit: int | None = option(None, least=1)
    """Read at most this many documents from each shard; null reads all."""
    max_bad_rows: int | None = option(None, least=0, free=True)
    """Stop when more than this many rows cannot be read or scored; null never stops. A side file lists the
    rows."""


@dataclass
class SegmenterConfig:
    """How a document is cut into the segments that are scored."""

    name: Literal["line", "sentence", "paragraph", "document"] = "sentence"
    """The unit that gets its own score, for example a sentence of prose or a line of code."""
    max_chars: int | None = option(2000, least=1)
    """Segments longer than this are cut at white space; null sets no limit. `line` and `document` ignore
    it."""


@dataclass
class ScorerConfig:
    """The scorer, which measures the preference. Lower scores are better."""

    name: str = option("pep8", path=True)
    """A scorer from `phf scorers`, `package.module:Class` or `file.py:Class`."""
    options: dict[str, Any] = option(factory=dict, belongs_to="name")
    """Options of the scorer."""
    column: str | None = None
    """The name under which the scores are stored; null uses the scorer's name. Set it to use one scorer
    twice."""

    def __post_init__(self) -> None:
        check(
            self.column is None or re.fullmatch(r"\w[\w.:-]*", self.column) is not None,
            f"a scorer's column must be letters, digits and . : - _, not {self.column!r}",
        )

    @property
    def key(self) -> str:
        """The name under which the scores are stored. For a scorer in a file, the folder is left out."""
        return self.column or self.name.rpartition("/")[2]


@dataclass
class ExecutorConfig:
    """The executor that runs the parts of an annotation."""

    name: Literal["pool", "slurm", "ray"] = "pool"
    """`pool` runs only `part`, with processes of this command. `slurm` and `ray` run each part as a task of
    datatrove's executor of that name (needs the extra `datatrove`)."""
    options: dict[str, Any] = option(factory=dict, belongs_to="name")
    """Keyword arguments of datatrove's executor."""

    def __post_init__(self) -> None:
        check(
            self.name != "pool" or not self.options,
            f"annotations.executor.options: pool takes none, not {', '.join(self.options)}; set "
            "annotations.executor.name",
        )


@dataclass
class AnnotationsConfig:
    """The annotations: the scores of every segment, stored apart from the documents."""

    path: str = option("data/annotations", path=True)
    """The folder of the scores. Each scorer has its own subfolder, with one file for each shard."""
    also: list[ScorerConfig] = field(default_factory=list)
    """Additional scorers, each configured like `scorer`. The documents are read and segmented only once for
    all of them."""
    processes: int = option(0, least=0)
    """Scoring processes on this machine. 0 means one for each core, or for each GPU if the scorer uses
    GPUs."""
    part: int = option(0, least=0)
    """Which part of the shards this call scores, counted from 0 (the index in a job array)."""
    parts: int = option(1, least=1)
    """The number of parts into which the shards are divided (the size of the job array)."""
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    """The executor that runs the parts. By default, this call runs one part."""

    def __post_init__(self) -> None:
        check(
            self.part < max(1, self.parts),
            f"annotations.part must lie in [0, {self.parts}), not {self.part}",
        )
        check(
            self.executor.name == "pool" or not self.part,
            f"annotations.part={self.part}: annotations.executor.name={self.executor.name} runs every part",
        )


@dataclass
class TokenizerConfig:
    """The tokenizer of the corpus."""

    name: str = option("gpt2", path=True)
    """A Hugging Face tokenizer: a name or a folder. Ignored if `train` is true."""
    train: bool = False
    """Train a byte-level BPE tokenizer on the documents that are not held out."""
    vocab_size: int = option(8192, least=257)
    """Vocabulary size of the trained tokenizer: 256 bytes, `<|endoftext|>` and merges."""


@dataclass
class StoreConfig:
    """The token store: the tokenized corpus as memory-mapped arrays."""

    path: str = option("data/store", path=True, free=True)
    """The folder of the token store."""
    heldout_fraction: float = option(0.01, least=0, below=1)
    """Share of the documents that is held out, that is, never trained on. A hash of the text selects them."""
