"""Finds the segments of a corpus with the highest scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phf.annotation.annotations import Annotations
from phf.annotation.manifest import Manifest
from phf.base.errors import PhfError
from phf.config import Config
from phf.documents.fingerprints import outputs
from phf.documents.shards import list_shards


@dataclass(frozen=True, slots=True)
class _Example:
    """A segment: its score, shard, row in the shard, and start and end in the document, in characters."""

    score: float
    shard: str
    row: int
    start: int
    end: int


class Worst:
    """Keeps the segments with the highest scores above 0, at most one of each document and of each text.

    The texts are not read here. Segments with the same score and the same length are assumed to have the same
    text, and only the first of them is kept.

    Args:
        count: How many segments to keep.
    """

    def __init__(self, count: int):
        self._count = count
        self._found: list[_Example] = []

    def add(
        self,
        shard: str,
        rows: NDArray[np.int64],
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
        scores: NDArray[np.float32],
    ) -> None:
        """Adds the segments of whole documents, as arrays [S]; see `_Example`. NaN means no score."""
        least = self._found[-1].score if len(self._found) >= self._count > 0 else 0.0
        above = np.flatnonzero(scores > least)
        above = above[np.argsort(-scores[above], kind="stable")]
        for keys in (rows, np.stack([scores, ends - starts])):
            _, first = np.unique(keys[..., above], axis=-1, return_index=True)
            above = above[np.sort(first)]
        for i in above[: self._count].tolist():
            self._found.append(_Example(float(scores[i]), shard, int(rows[i]), int(starts[i]), int(ends[i])))
        self._found.sort(key=lambda example: -example.score)
        distinct: dict[tuple[float, int], _Example] = {}
        for example in self._found:
            distinct.setdefault((example.score, example.end - example.start), example)
        self._found = [*distinct.values()][: self._count]

    def read(self, annotations: Annotations, manifest: Manifest, config: Config) -> dict[str, Any]:
        """Returns the examples, with what the sidecars and the documents have on them.

        Args:
            annotations: The scorer's annotations.
            manifest: Their manifest.
            config: Its `documents` are read again for the texts.

        Returns:
            `worst`, the examples with the highest score first, and `no_text`, the reason why some have no
                text (`None` if all have).

        Raises:
            PhfError: A sidecar cannot be read.
        """
        wanted: dict[str, list[int]] = {}
        for example in self._found:
            wanted.setdefault(example.shard, []).append(example.row)
        rows = {shard: annotations.rows(shard, wanted[shard]) for shard in wanted}
        texts, no_text = _read_texts(config, manifest, wanted)
        worst = []
        for example in self._found:
            row, text = rows[example.shard][example.row], texts.get((example.shard, example.row))
            if text is not None and len(text) != row["segment_ends"][-1]:
                text, no_text = None, "the documents or their options have changed since they were annotated"
            segment = row["segment_ends"].index(example.end)
            worst.append(
                {
                    "score": example.score,
                    "shard": example.shard,
                    "row": example.row,
                    "id": row["id"],
                    "source": row.get("source"),
                    "characters": [example.start, example.end],
                    "labels": sorted({span["label"] for span in row["spans"] if span["segment"] == segment}),
                    "text": None if text is None else text[example.start : example.end],
                }
            )
        return {"worst": worst, "no_text": no_text}


def _read_texts(
    config: Config, manifest: Manifest, wanted: Mapping[str, Sequence[int]]
) -> tuple[dict[tuple[str, int], str], str | None]:
    """Reads the texts of documents by shard and row.

    Only the shards that hold an example are read, each up to its last example.

    Returns:
        The texts, and the reason why some are missing; `None` if none is.
    """
    texts: dict[tuple[str, int], str] = {}
    fingerprints = manifest.fingerprints
    no_text = None
    try:
        shards = {shard.name: shard for shard in list_shards(config.documents, outputs(config))}
    except PhfError as error:
        return {}, str(error)
    for name, rows in wanted.items():
        try:
            if name not in shards or shards[name].fingerprint() != fingerprints[name]:
                raise PhfError(f"shard {name} is not among the documents any more, or has changed since")
            for row, document in shards[name].read(lambda bad: None):
                if row in rows:
                    texts[name, row] = document.text
                if row >= max(rows):
                    break
        except PhfError as error:
            no_text = str(error)
    return texts, no_text
