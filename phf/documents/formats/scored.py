"""Implements the format `scored`: rows that bring their segments and scores, as in the paper's corpora."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phf.base.errors import ConfigError
from phf.base.files import exists
from phf.config import DocumentsConfig
from phf.documents.files import choose_files, shard_name
from phf.documents.formats.base import Document, Format, Source, checked_text
from phf.documents.formats.dataset import HuggingFace, is_saved_dataset
from phf.documents.formats.jsonl import Jsonl
from phf.documents.formats.parquet import Parquet

# Scores are stored as float32 and must be finite in it.
LARGEST_SCORE = 3.4e38


@dataclass
class ScoredOptions:
    """Options of `Scored`."""

    texts_field: str = "texts"
    """The field with the list of a document's segments; they join to its text."""
    scores_field: str = "scores"
    """The field with the list of the segments' scores, of the same length; null means no score."""


class Scored(Format):
    """Rows with a list of segments and a list of their scores: jsonl, parquet or a Hugging Face dataset."""

    name = "scored"
    Options = ScoredOptions
    options: ScoredOptions
    suffixes = ()
    brings_scores = True

    def sources(self, config: DocumentsConfig, leave_out: Sequence[Path]) -> list[tuple[str, Source]]:
        path = Path(str(config.path))
        suffixes = Jsonl.suffixes + Parquet.suffixes
        # The published corpora are datasets on the hub, with names such as owner/dataset.
        looks_like_name = re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and not path.name.endswith(suffixes)
        if is_saved_dataset(path) or (looks_like_name and not exists(path)):
            return HuggingFace().sources(config, leave_out)
        root, files = choose_files(config, leave_out, suffixes)
        sources: list[tuple[str, Source]] = []
        for file in files:
            by_suffix = [kind for kind in (Jsonl, Parquet) if file.name.endswith(kind.suffixes)]
            if not by_suffix:
                raise ConfigError(f"documents.path: {file} is neither .jsonl[.gz|.zst] nor .parquet")
            sources.append((shard_name(file.relative_to(root).as_posix()), by_suffix[0]().open(file)))
        return sources

    def columns(self, config: DocumentsConfig) -> list[str]:
        return [self.options.texts_field, self.options.scores_field]

    def document(
        self, fields: Mapping[str, Any], name: str, source: Source, config: DocumentsConfig
    ) -> Document:
        """Builds the document of a row; empty segments are left out.

        Raises:
            ValueError: The row is not a document; the message is the reason.
        """
        texts_field, scores_field = self.columns(config)
        for field in (texts_field, scores_field):
            if not isinstance(fields.get(field), list):
                raise ValueError(f"field {field!r} is not a list but {type(fields.get(field)).__name__}")
        texts = [checked_text(text, texts_field) for text in fields[texts_field]]
        scores = [None if score is None else _score(score) for score in fields[scores_field]]
        if len(texts) != len(scores):
            raise ValueError(f"{len(texts)} texts and {len(scores)} scores")
        kept = [(text, score) for text, score in zip(texts, scores, strict=True) if text]
        segments = tuple(text for text, _ in kept)
        return Document(name, "".join(texts), segments, tuple(score for _, score in kept))


def _score(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST_SCORE:
        raise ValueError(f"score {value!r:.40} is not a number of 0 or more that fits float32")
    return float(value)
