"""Defines the manifest of annotations: which scorer scored which shards, with counts and quantiles.

The first process in a folder writes the manifest, which fixes the list of shards. All other processes must
agree with it. The counts are filled in when all shards are annotated.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from phf.base.version import __version__
from phf.config import Config, ScorerConfig
from phf.documents.fingerprints import documents_difference, shards_difference
from phf.documents.segments import segmenter_identity
from phf.documents.shards import Shard
from scorers import Scorer


@dataclass(frozen=True)
class ScorerRecord:
    """What is stored about a scorer with its scores.

    Attributes:
        name: Name in the configuration.
        measures: Meaning of a score, with its unit.
        options: Options in the configuration.
        version: See `scorers.Scorer`; `None` if the documents came with their scores.
        fingerprint: Equal for scorers that give every text the same score; `None` if it is unknown.
        settings: Everything that decides a score.
        range: Smallest and largest score; `None` for no bound, because JSON has no infinity.
        column: Name of the scores; `None` in annotations, whose folder has that name.
    """

    name: str
    measures: str = "scores"
    options: dict[str, Any] = field(default_factory=dict)
    version: str | None = None
    fingerprint: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    range: list[float | None] = field(default_factory=lambda: [0.0, None])
    column: str | None = None

    @classmethod
    def of(cls, config: ScorerConfig, scorer: Scorer) -> ScorerRecord:
        """Builds the record of a scorer."""
        return cls(
            config.name,
            scorer.measures,
            dict(config.options),
            str(scorer.version),
            scorer.fingerprint,
            dict(scorer.settings()),
            [bound if math.isfinite(bound) else None for bound in scorer.range],
        )

    @property
    def key(self) -> str:
        """Name of the scorer's scores."""
        return self.column or ScorerConfig(self.name).key


@dataclass(frozen=True)
class ShardRecord:
    """A shard as it was annotated."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class Counts:
    """How much was annotated.

    Attributes:
        documents: Documents that could be scored.
        segments: Their segments.
        unscored: Segments without a score.
        bad_rows: Rows that could not be read or scored.
    """

    documents: int
    segments: int
    unscored: int
    bad_rows: int


@dataclass(frozen=True)
class Manifest:
    """The manifest of a scorer's annotations.

    Attributes:
        documents: The section `documents` of the configuration.
        segmenter: The settings that decide where a text is cut.
        scorer: The scorer.
        shards: The shards, in order.
        versions: Versions of the software.
        counts: `None` until all shards are annotated.
        mean: Mean score; `None` until all shards are annotated, or if no segment has a score.
        quantiles: Scores at the quantiles 0.01 to 0.99; empty until all shards are annotated.
        format: Version of the layout.
    """

    documents: dict[str, Any]
    segmenter: dict[str, Any]
    scorer: ScorerRecord
    shards: list[ShardRecord]
    versions: dict[str, str] = field(default_factory=dict)
    counts: Counts | None = None
    mean: float | None = None
    quantiles: dict[str, float] = field(default_factory=dict)
    format: int = 1

    @classmethod
    def new(
        cls, config: Config, scorer_config: ScorerConfig, scorer: Scorer, shards: Sequence[Shard]
    ) -> Manifest:
        """Builds the manifest of annotations that are about to begin."""
        documents = asdict(config.documents)
        del documents["max_bad_rows"]
        return cls(
            documents,
            segmenter_identity(config.segmenter),
            ScorerRecord.of(scorer_config, scorer),
            [ShardRecord(shard.name, shard.fingerprint()) for shard in shards],
            {"phf": __version__, "python": platform.python_version()},
        )

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of each shard, by name."""
        return {shard.name: shard.fingerprint for shard in self.shards}

    def without_summary(self) -> Manifest:
        """Returns the manifest as it was before all shards were annotated."""
        return replace(self, counts=None, mean=None, quantiles={})

    def difference(self, wanted: Manifest, config: Config) -> str | None:
        """Returns the first difference, in words; `None` if these annotations can be continued as wanted."""
        if changed := documents_difference(self.documents, config.documents):
            return changed
        if self.segmenter != wanted.segmenter:
            return "another segmenter: " + _changed(self.segmenter, wanted.segmenter)
        if self.scorer.fingerprint != wanted.scorer.fingerprint:
            old, new = ({"version": s.version} | s.settings for s in (self.scorer, wanted.scorer))
            return "another scorer: " + _changed(old, new)
        return shards_difference(self.fingerprints, wanted.fingerprints)


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return ", ".join(f"{key}={old.get(key)}, not {new.get(key)}" for key in keys) or "of the same settings"
