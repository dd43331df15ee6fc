"""Computes statistics of the scores of a corpus, over the shards that are annotated to their end."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phf.annotation.annotations import Annotations, SidecarBatch
from phf.annotation.worst_segments import Worst
from phf.base.errors import PhfError
from phf.base.files import write_json
from phf.config import Config

_QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
_CURVE_POINTS = 256
_MOST_SOURCES = 1000
OTHER_SOURCES = "(other sources)"


def statistics(config: Config, worst: int = 10) -> list[dict[str, Any]]:
    """Computes statistics of the scores of each configured scorer, over the finished shards.

    They are written to `statistics.json` and drawn in `statistics.png` in the scorer's folder.

    Args:
        config: `annotations` and the scorers are used; `documents` to read the texts of the examples; and the
            threshold `objective.threshold`, or `evaluation.threshold` if the former is not a number.
        worst: Number of example segments with high scores, each of another document.

    Returns:
        For each scorer the content of its `statistics.json`.

    Raises:
        PhfError: A scorer has not annotated any shard to its end yet, or a file cannot be read.
    """
    from phf.annotation.statistics_plot import draw

    threshold = config.objective.threshold
    if not isinstance(threshold, int | float):
        threshold = config.evaluation.threshold
    found = []
    for name in config.scorers():
        annotations = Annotations(Path(config.annotations.path) / name)
        result = scorer_statistics(annotations, sorted({0.0, float(threshold)}), config, worst)
        write_json(annotations.folder / "statistics.json", result)
        draw(result, annotations.folder / "statistics.png")
        found.append(result)
    return found


def scorer_statistics(
    annotations: Annotations, thresholds: Sequence[float], config: Config, worst: int
) -> dict[str, Any]:
    """Computes the statistics of a scorer's annotations; see `statistics`.

    Raises:
        PhfError: No shard is finished, or a file cannot be read.
    """
    manifest = annotations.manifest()
    names = [shard.name for shard in manifest.shards]
    done = [name for name in names if annotations.is_done(name)]
    if not done:
        raise PhfError(
            f"{annotations.folder}: no shard is annotated to its end yet; `phf annotations status` says more"
        )
    scores, totals, examples = _collect(annotations, done, thresholds, worst)
    scores.sort()
    return {
        "scorer": annotations.name,
        "measures": manifest.scorer.measures,
        "shards": {"done": len(done), "all": len(names)},
        "bad_rows": sum(len(annotations.bad_rows(name)) for name in done),
        **_describe(sum(totals.values(), np.zeros(_num_columns(thresholds))), thresholds),
        "max": float(scores[-1]) if len(scores) else None,
        "quantiles": {str(share): _quantile(scores, share) for share in _QUANTILES} if len(scores) else {},
        "share_above": _curve(scores),
        "sources": [
            {"source": source, **_describe(total, thresholds)}
            for source, total in sorted(totals.items(), key=lambda item: -item[1][1])
            if set(totals) != {None}
        ],
        **examples.read(annotations, manifest, config),
    }


def _num_columns(thresholds: Sequence[float]) -> int:
    return 6 + 2 * len(thresholds)


def _collect(
    annotations: Annotations, shards: Sequence[str], thresholds: Sequence[float], worst: int
) -> tuple[NDArray[np.float32], dict[str | None, NDArray[np.float64]], Worst]:
    """Returns all scores, a row of sums for each source, and the worst segments."""
    # Only the array of scores grows with the corpus: 4 bytes per segment.
    parts = [annotations.done_part(shard) for shard in shards]
    scores = np.empty(sum(part.segments for part in parts if part is not None), np.float32)
    num_scores = 0
    totals: dict[str | None, NDArray[np.float64]] = {}
    examples = Worst(worst)
    for shard in shards:
        for batch in annotations.batches(shard, sources=True):
            known = batch.scores[~np.isnan(batch.scores)]
            scores[num_scores : num_scores + len(known)] = known
            num_scores += len(known)
            documents = np.repeat(np.arange(len(batch.counts)), batch.counts)
            starts = _starts(batch, documents)
            for source, sums in _sums(batch, documents, starts, thresholds):
                if source not in totals and len(totals) >= _MOST_SOURCES:
                    source = OTHER_SOURCES
                if sums.any():
                    totals[source] = totals.get(source, 0) + sums
            examples.add(shard, batch.rows[documents], starts, batch.ends.astype(np.int64), batch.scores)
    return scores[:num_scores], totals, examples


def _starts(batch: SidecarBatch, documents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the start of each segment in its document, in characters, int64 [S]."""
    before = np.concatenate(([0], batch.ends[:-1].astype(np.int64)))[: len(batch.ends)]
    return np.where(np.diff(documents, prepend=-1) > 0, 0, before)


def _sums(
    batch: SidecarBatch,
    documents: NDArray[np.int64],
    starts: NDArray[np.int64],
    thresholds: Sequence[float],
) -> list[tuple[str | None, NDArray[np.float64]]]:
    """Returns for each source of a batch the sums that `_describe` needs, float64 [columns]."""
    encoded = batch.sources.dictionary_encode()
    names: list[str | None] = [*encoded.dictionary.to_pylist(), None]
    sources = encoded.indices.fill_null(len(names) - 1).to_numpy(zero_copy_only=False).astype(np.int64)
    lengths, known = batch.ends - starts, ~np.isnan(batch.scores)
    columns = [np.ones(len(lengths)), ~known, lengths, lengths * known, np.where(known, batch.scores, 0)]
    for threshold in thresholds:
        above = batch.scores > threshold
        columns += [above, lengths * above]
    of_segments, count = sources[documents], len(names)
    sums = np.stack(
        [np.bincount(sources, minlength=count)]
        + [np.bincount(of_segments, weights=column, minlength=count) for column in columns],
        axis=1,
    )
    return list(zip(names, sums, strict=True))


def _describe(sums: NDArray[np.float64], thresholds: Sequence[float]) -> dict[str, Any]:
    """Converts a row of sums to named statistics."""
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
    """Returns the smallest of ascending scores that this share of them does not exceed."""
    counts = range(1, len(scores) + 1)
    return float(scores[bisect_left(counts, share, key=lambda count: count / len(scores))])


def _curve(scores: NDArray[np.float32]) -> list[list[float]]:
    """Returns the share of segments above a score as points (score, share), one for each fall of the share.

    `scores` are ascending. The share is computed at some hundred scores, and a fall between two of them is
    placed at the higher one. The last point is at the highest score.
    """
    # With a zero of another type, numpy would copy the scores.
    positive = scores[np.searchsorted(scores, np.float32(0), side="right") :]
    if not len(positive):
        return []
    low, high = float(positive[0]), float(positive[-1])
    points = [0.0, low, high], np.linspace(0, high, _CURVE_POINTS), np.geomspace(low, high, _CURVE_POINTS)
    x = np.unique(np.concatenate(points).astype(np.float32))
    above = 1 - np.searchsorted(scores, x, side="right") / len(scores)
    falls = np.diff(above, prepend=2) < 0
    return np.stack([x, above], axis=1)[falls].tolist()
