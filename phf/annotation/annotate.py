"""Scores every segment of every document: the verb `annotate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from phf.annotation.annotations import Annotations
from phf.annotation.manifest import Manifest
from phf.annotation.pool import Scoring
from phf.annotation.score_chunk import Chunk, Scored
from phf.annotation.sidecars import SidecarWriter
from phf.base.errors import ConfigError, PhfError
from phf.config import Config
from phf.documents.fingerprints import outputs
from phf.documents.formats.base import Document
from phf.documents.progress import ShardProgress
from phf.documents.shards import BadRow, Shard, bring_scores, list_shards
from scorers import Scorer, load_scorer

# What a process scores at a time: enough to outweigh the cost of sending it, and little enough to share the
# work evenly.
_CHUNK_CHARACTERS = 100_000
# Most documents that are being scored at a time. If the process ends, these and the documents that wait to be
# written (1000 together) are scored again.
_UNWRITTEN_DOCUMENTS = 500


def annotate(config: Config) -> Manifest:
    """Scores every segment of the configured documents; what is already scored is not scored again.

    Several scorers share one pass over the documents. Each writes its own annotations.

    Args:
        config: `documents`, `segmenter`, `scorer` and `annotations` are used.

    Returns:
        The manifest of `scorer`; its `counts` are `None` as long as other parts of the shards are not
            finished.

    Raises:
        ConfigError: There are no documents, they bring their scores, a folder holds other annotations, or two
            scorers have the same name.
        PhfError: More rows are bad than `documents.max_bad_rows`, or all rows are; a scorer is broken; or a
            process was killed.
        scorers.ScorerError: A scorer cannot be built.
    """
    if bring_scores(config.documents):
        raise ConfigError(
            f"documents.format={config.documents.format}: these documents bring their scores; go straight to "
            "`phf tokenize`"
        )
    configs = config.scorers()
    scorers = {name: load_scorer(scorer.name, **scorer.options) for name, scorer in configs.items()}
    shards = list_shards(config.documents, leave_out=outputs(config))
    mine = shards[config.annotations.part :: config.annotations.parts]
    annotators = [_Annotator(config, name, scorer, shards, mine) for name, scorer in scorers.items()]
    done = [shard for shard in mine if all(shard.name in annotator.done for annotator in annotators)]
    if len(done) < len(mine):
        with (
            Scoring(scorers, configs, config.segmenter, config.annotations.processes) as scoring,
            ShardProgress("annotate", mine, done) as progress,
        ):
            for shard in mine:
                missing = [annotator for annotator in annotators if shard.name not in annotator.done]
                if missing:
                    _annotate_shard(shard, missing, scoring, progress)
    manifests = [annotator.annotations.summarize() for annotator in annotators]
    return manifests[0]


class _Annotator:
    """The annotations of one scorer.

    Args:
        config: The configuration.
        name: Name of the scorer's scores.
        scorer: The scorer.
        shards: All shards.
        mine: The shards of this call.

    Attributes:
        name: Name of the scorer's scores.
        annotations: The annotations on disk.
        done: Names of the shards of this call that are annotated.
        num_bad: Bad rows in these shards.
    """

    def __init__(
        self, config: Config, name: str, scorer: Scorer, shards: Sequence[Shard], mine: Sequence[Shard]
    ):
        self.name = name
        self.annotations = Annotations(Path(config.annotations.path) / name)
        self.annotations.claim(Manifest.new(config, config.scorers()[name], scorer, shards), config)
        self._limit = config.documents.max_bad_rows
        self.done = {shard.name for shard in mine if self.annotations.is_done(shard.name)}
        for shard in self.done:
            self.annotations.clean_up(shard)
        self.num_bad = sum(len(self.annotations.bad_rows(shard)) for shard in self.done)
        if not self.may_have(self.num_bad):
            raise self.too_many(self.num_bad)

    def may_have(self, num_bad: int) -> bool:
        """Returns whether the configuration allows this many bad rows."""
        return self._limit is None or num_bad <= self._limit

    def too_many(self, num_bad: int, where: str = "") -> PhfError:
        """Builds the error for this many bad rows."""
        limit = f"documents.max_bad_rows={self._limit}"
        return PhfError(f"{num_bad} rows cannot be read or scored, more than {limit}{where}")


class _ShardAnnotator:
    """Writes the annotations of one scorer for one shard, continuing after the existing ones."""

    def __init__(self, annotator: _Annotator, shard: Shard):
        self._annotator, self._shard = annotator, shard
        self._writer = SidecarWriter(annotator.annotations, shard.name)
        self.name = annotator.name
        self.first_row = self._writer.next_row
        # Rows that the reader has rejected and that are not written yet: reading is ahead of scoring.
        self._rejected: list[BadRow] = []

    def __enter__(self) -> _ShardAnnotator:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    @property
    def num_bad(self) -> int:
        """Bad rows of this shard and of the finished shards."""
        return self._annotator.num_bad + len(self._writer.bad) + len(self._rejected)

    def reject(self, row: BadRow) -> None:
        """Records a row that cannot be read."""
        if row.row >= self.first_row:
            self._rejected.append(row)
            self._check()

    def write(self, scored: Scored, next_row: int) -> None:
        """Writes the results of a chunk, and the rows that were rejected before the end of the chunk."""
        bad = [row for row in self._rejected if row.row < next_row]
        self._rejected = self._rejected[len(bad) :]
        bad += [BadRow(self._shard.name, row, why) for row, why in scored.failed if row >= self.first_row]
        annotations = [annotation for annotation in scored.annotations if annotation.row >= self.first_row]
        self._writer.add(annotations, sorted(bad, key=lambda row: row.row), next_row)
        self._check()

    def finish(self) -> None:
        """Completes the annotations of a shard that has been read to its end."""
        if self._rejected:
            self._writer.add([], self._rejected, self._rejected[-1].row + 1)
            self._rejected = []
        self._check()
        self._annotator.num_bad = self.num_bad
        self._writer.finish()

    def _check(self) -> None:
        if self._annotator.may_have(self.num_bad):
            return
        rows = [*self._writer.bad, *self._rejected]
        path = self._writer.list_bad(rows)
        last = f"row {rows[-1].row} of shard {rows[-1].shard}: {rows[-1].reason}"
        raise self._annotator.too_many(self.num_bad, f"; the last is {last}; {path} lists them")


def _annotate_shard(
    shard: Shard, annotators: Sequence[_Annotator], scoring: Scoring, progress: ShardProgress
) -> None:
    with ExitStack() as stack:
        mine = [stack.enter_context(_ShardAnnotator(annotator, shard)) for annotator in annotators]
        first_row = min(one.first_row for one in mine)

        def reject(row: BadRow) -> None:
            for one in mine:
                one.reject(row)

        def num_bad() -> int:
            return max(one.num_bad for one in mine)

        documents = ((row, document) for row, document in shard.read(reject) if row >= first_row)
        for chunk, by_scorer in scoring.run(_chunks(documents, shard, mine, scoring.most_waiting)):
            for one in mine:
                if one.name in by_scorer:
                    one.write(by_scorer[one.name], chunk.next_row)
            progress.update(shard, chunk.position, len(chunk.documents), num_bad())
        for one in mine:
            one.finish()
        progress.finish(shard, max(annotator.num_bad for annotator in annotators))


def _chunks(
    documents: Iterator[tuple[int, Document]],
    shard: Shard,
    annotators: Sequence[_ShardAnnotator],
    most_waiting: int,
) -> Iterator[Chunk]:
    def chunk() -> Chunk:
        wanted = [one.name for one in annotators if one.first_row <= collected[-1][0]]
        return Chunk(collected, wanted, shard.position)

    most = max(1, _UNWRITTEN_DOCUMENTS // most_waiting)
    collected: list[tuple[int, Document]] = []
    characters = 0
    for item in documents:
        collected.append(item)
        characters += len(item[1].text)
        if len(collected) == most or characters >= _CHUNK_CHARACTERS:
            yield chunk()
            collected, characters = [], 0
    if collected:
        yield chunk()
