"""What the scores of a corpus are like, over the shards that are annotated to their end."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from phf.annotation.sidecars import count_bad, sidecar_path
from phf.annotation.status import num_segments, read_manifest
from phf.annotation.worst_segments import Worst
from phf.base.errors import PhfError
from phf.config import Config

_QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
_CURVE_POINTS = 256
_MOST_SOURCES = 1000
OTHER_SOURCES = "(other sources)"


def statistics(config: Config, worst: int = 10) -> list[dict[str, Any]]:
    """Statistics of the scores of each scorer of a configuration, over the shards that are done.

    They are written to `statistics.json` and drawn in `statistics.png` in the scorer's folder.

    Args:
        config: Its `annotations` and scorers; its `documents`, of which the text of examples is read again;
            its `objective.threshold`, or if that is no number `evaluation.threshold`.
        worst: How many examples of segments with high scores, each of another document.

    Returns:
        For each scorer what is in its `statistics.json`.

    Raises:
        PhfError: A scorer has not annotated a shard to its end yet, or a file cannot be read.
    """
    from phf.annotation.statistics_plot import draw

    threshold = config.objective.threshold
    if not isinstance(threshold, int | float):
        threshold = config.evaluation.threshold
    found = []
    for name in config.scorers():
        folder = Path(config.annotations.path) / name
        result = scorer_statistics(folder, sorted({0.0, float(threshold)}), config, worst)
        temporary = folder / ".statistics.tmp"
        temporary.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        temporary.replace(folder / "statistics.json")
        draw(result, folder / "statistics.png")
        found.append(result)
    return found


def scorer_statistics(
    folder: Path, thresholds: Sequence[float], config: Config, worst: int
) -> dict[str, Any]:
    """Statistics of a scorer's folder; see `statistics`.

    Raises:
        PhfError: No shard is done, or a file cannot be read.
    """
    manifest = read_manifest(folder)
    names = [shard["name"] for shard in manifest["shards"]]
    done = [name for name in names if sidecar_path(folder, name).is_file()]
    if not done:
        raise PhfError(f"{folder}: no shard is annotated to its end yet; `phf annotate --status` says more")
    scores, totals, examples = _collect(folder, done, thresholds, worst)
    scores.sort()
    return {
        "scorer": folder.name,
        "measures": manifest["scorer"]["measures"],
        "shards": {"done": len(done), "all": len(names)},
        "bad_rows": sum(count_bad(folder, name) for name in done),
        **_describe(sum(totals.values(), np.zeros(_num_columns(thresholds))), thresholds),
        "max": float(scores[-1]) if len(scores) else None,
        "quantiles": {str(share): _quantile(scores, share) for share in _QUANTILES} if len(scores) else {},
        "share_above": _curve(scores),
        "sources": [
            {"source": source, **_describe(total, thresholds)}
            for source, total in sorted(totals.items(), key=lambda item: -item[1][1])
            if set(totals) != {None}
        ],
        **examples.read(folder, manifest, config),
    }


@dataclass(frozen=True)
class _Batch:
    """Some documents of a sidecar, D of them with S segments.

    Attributes:
        rows: int64 [D], their rows in the shard.
        sources: int64 [D], places in `names`.
        names: Sources; the last one is `None`.
        documents: int64 [S], which document each segment is of, from 0.
        starts: int64 [S], where each segment starts in its document, in characters.
        ends: int64 [S], where it ends.
        scores: float32 [S], NaN = the scorer cannot say.
    """

    rows: NDArray[np.int64]
    sources: NDArray[np.int64]
    names: list[str | None]
    documents: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    scores: NDArray[np.float32]


def _read(path: Path) -> Iterator[_Batch]:
    try:
        with pq.ParquetFile(path) as file:
            columns = ["row", "segment_ends", "scores", *({"source"} & set(file.schema_arrow.names))]
            for batch in file.iter_batches(batch_size=4096, columns=columns):
                yield _unpacked(batch)
    except (pa.ArrowException, ValueError) as error:
        raise PhfError(f"{path} is broken: delete it, and its shard is scored again") from error


def _unpacked(batch: pa.RecordBatch) -> _Batch:
    counts = batch["segment_ends"].value_lengths().to_numpy(zero_copy_only=False)
    ends = batch["segment_ends"].flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    scores = batch["scores"].flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    documents = np.repeat(np.arange(len(counts)), counts)
    starts = np.where(np.diff(documents, prepend=-1) > 0, 0, np.concatenate(([0], ends[:-1]))[: len(ends)])
    names: list[str | None] = [None]
    sources = np.zeros(len(counts), np.int64)
    if "source" in batch.schema.names:
        encoded = batch["source"].dictionary_encode()
        names = [*encoded.dictionary.to_pylist(), None]
        codes = encoded.indices.fill_null(len(names) - 1)
        sources = codes.to_numpy(zero_copy_only=False).astype(np.int64)
    return _Batch(batch["row"].to_numpy(), sources, names, documents, starts, ends, scores)


def _num_columns(thresholds: Sequence[float]) -> int:
    return 6 + 2 * len(thresholds)


def _collect(
    folder: Path, shards: Sequence[str], thresholds: Sequence[float], worst: int
) -> tuple[NDArray[np.float32], dict[str | None, NDArray[np.float64]], Worst]:
    """All scores there are, a row of sums for each source, and the worst segments."""
    # One array as long as all the segments is all that grows with the corpus: 4 bytes a segment.
    count = sum(num_segments(pq.read_metadata(sidecar_path(folder, shard))) for shard in shards)
    scores = np.empty(count, np.float32)
    num_scores = 0
    totals: dict[str | None, NDArray[np.float64]] = {}
    examples = Worst(worst)
    for shard in shards:
        for batch in _read(sidecar_path(folder, shard)):
            known = batch.scores[~np.isnan(batch.scores)]
            scores[num_scores : num_scores + len(known)] = known
            num_scores += len(known)
            for source, sums in zip(batch.names, _sums(batch, thresholds), strict=True):
                if source not in totals and len(totals) >= _MOST_SOURCES:
                    source = OTHER_SOURCES
                if sums.any():
                    totals[source] = totals.get(source, 0) + sums
            examples.add(shard, batch.rows[batch.documents], batch.starts, batch.ends, batch.scores)
    return scores[:num_scores], totals, examples


def _sums(batch: _Batch, thresholds: Sequence[float]) -> NDArray[np.float64]:
    """For each source of a batch what `_describe` needs, float64 [sources, columns]."""
    lengths, known = batch.ends - batch.starts, ~np.isnan(batch.scores)
    columns = [np.ones(len(lengths)), ~known, lengths, lengths * known, np.where(known, batch.scores, 0)]
    for threshold in thresholds:
        above = batch.scores > threshold
        columns += [above, lengths * above]
    of_segments, count = batch.sources[batch.documents], len(batch.names)
    return np.stack(
        [np.bincount(batch.sources, minlength=count)]
        + [np.bincount(of_segments, weights=column, minlength=count) for column in columns],
        axis=1,
    )


def _describe(sums: NDArray[np.float64], thresholds: Sequence[float]) -> dict[str, Any]:
    """A row of sums, in words."""
    documents, segments, unscored, characters, scored_characters, total = sums[:6].tolist()
    scored = segments - unscored
    above = {
        f"{threshold:g}": {
            "segments": segments_above / scored if scored else None,
            "characters": characters_above / scored_characters if scored else None,
        }
        for threshold, (segments_above, characters_above) in zip(
            thresholds, sums[6:].reshape(-1, 2).tolist(), strict=True
        )
    }
    return {
        "documents": int(documents),
        "segments": int(segments),
        "unscored": int(unscored),
        "characters": int(characters),
        "mean": total / scored if scored else None,
        "above": above,
    }


def _quantile(scores: NDArray[np.float32], share: float) -> float:
    """The smallest of ascending scores that so much of them does not exceed."""
    counts = range(1, len(scores) + 1)
    return float(scores[bisect_left(counts, share, key=lambda count: count / len(scores))])


def _curve(scores: NDArray[np.float32]) -> list[list[float]]:
    """The share of ascending scores above a score, as a curve: where it falls, and what it falls to.

    A fall between two of some hundred points is put to the upper one; the last one is the highest score.
    """
    # A zero of another type would make a copy of the scores.
    positive = scores[np.searchsorted(scores, np.float32(0), side="right") :]
    if not len(positive):
        return []
    low, high = float(positive[0]), float(positive[-1])
    points = [0.0, low, high], np.linspace(0, high, _CURVE_POINTS), np.geomspace(low, high, _CURVE_POINTS)
    x = np.unique(np.concatenate(points).astype(np.float32))
    above = 1 - np.searchsorted(scores, x, side="right") / len(scores)
    falls = np.diff(above, prepend=2) < 0
    return np.stack([x, above], axis=1)[falls].tolist()
