"""The verb `annotate`: documents in, a score for every segment out, beside the documents."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from phf.config import Config
from phf.data.documents import BadRow, Document, Shard, list_shards
from phf.data.identity import outputs
from phf.data.manifest import claim, identity, summarize
from phf.data.progress import ShardProgress
from phf.data.scoring import Chunk, Scored, Scoring
from phf.data.sidecars import SidecarWriter, clean_up, count_bad, sidecar_path
from phf.errors import ConfigError, PhfError
from scorers import load_scorer

log = logging.getLogger("phf")

# What a process scores at a time: enough to outweigh sending it, and little enough to share out evenly.
_CHUNK_DOCUMENTS = 64
_CHUNK_CHARACTERS = 100_000


def annotate(config: Config) -> dict[str, Any]:
    """Scores every segment of the configured documents; what is already scored is not scored again.

    Args:
        config: `documents`, `segmenter`, `scorer` and `annotations` are used.

    Returns:
        The manifest; its `counts` are null as long as other parts of the shards are not done.

    Raises:
        ConfigError: There are no documents, or the folder holds other annotations.
        PhfError: More rows are bad than `documents.max_bad_rows`, or all of them; the scorer is broken; or a
            process was killed.
        scorers.ScorerError: The scorer cannot be built.
    """
    if config.documents.format == "scored":
        raise ConfigError(
            "documents.format=scored: these documents bring their scores; go straight to `phf tokenize`"
        )
    scorer = load_scorer(config.scorer.name, **config.scorer.options)
    shards = list_shards(config.documents, leave_out=outputs(config))
    folder = Path(config.annotations.path) / config.scorer.key
    manifest = claim(folder, identity(config, scorer, shards))
    mine = shards[config.annotations.part :: config.annotations.parts]
    done = [shard for shard in mine if sidecar_path(folder, shard.name).is_file()]
    for shard in done:
        clean_up(folder, shard.name)
    bad = _BadRows(config.documents.max_bad_rows, sum(count_bad(folder, shard.name) for shard in done))
    if len(done) < len(mine):
        with (
            Scoring(scorer, config.scorer, config.segmenter, config.annotations.processes) as scoring,
            ShardProgress("annotate", mine, done) as progress,
        ):
            for shard in mine:
                if shard not in done:
                    _annotate_shard(shard, folder, scoring, bad, progress)
    if not all(sidecar_path(folder, shard.name).is_file() for shard in shards):
        return manifest  # another part will be the last
    return summarize(folder, manifest)


class _BadRows:
    """Counts bad rows over shards, and stops where there are too many.

    Args:
        limit: How many there may be; `None` for any number.
        count: How many there are already, in shards that are done.
    """

    def __init__(self, limit: int | None, count: int):
        self._limit = limit
        self.count = count
        self._check(count, "")

    def check(self, writer: SidecarWriter, unwritten: Sequence[BadRow]) -> None:
        """Stops if with those of a shard there are too many; the shard's side file then lists them.

        Raises:
            PhfError: There are.
        """
        count = len(writer.bad) + len(unwritten)
        if self._limit is not None and self.count + count > self._limit:
            rows = [*writer.bad, *unwritten]
            path = writer.list_bad(rows)
            last = f"row {rows[-1].row} of shard {rows[-1].shard}: {rows[-1].reason}" if rows else ""
            self._check(self.count + count, f"; the last is {last}; {path} lists them")

    def _check(self, count: int, where: str) -> None:
        if self._limit is not None and count > self._limit:
            limit = f"documents.max_bad_rows={self._limit}"
            raise PhfError(f"{count} rows cannot be read or scored, more than {limit}{where}")


def _annotate_shard(
    shard: Shard, folder: Path, scoring: Scoring, bad: _BadRows, progress: ShardProgress
) -> None:
    with SidecarWriter(folder, shard.name) as writer:
        first_row = writer.next_row
        # Rows that the reader has rejected, ahead of what is scored and written.
        unwritten: list[BadRow] = []

        def reject(row: BadRow) -> None:
            if row.row >= first_row:
                unwritten.append(row)
                bad.check(writer, unwritten)

        documents = ((row, document) for row, document in shard.read(reject) if row >= first_row)
        for scored in scoring.run(_chunks(documents, shard)):
            _write(scored, unwritten, shard.name, writer)
            bad.check(writer, unwritten)
            progress.update(shard, scored.position, len(scored.annotations), bad.count + len(writer.bad))
        if unwritten:
            writer.add([], unwritten, unwritten[-1].row + 1)
        bad.check(writer, [])
        writer.finish()
        bad.count += len(writer.bad)
        progress.finish(shard, bad.count)


def _write(scored: Scored, unwritten: list[BadRow], shard: str, writer: SidecarWriter) -> None:
    """Writes a chunk, and the rows that were rejected before its end."""
    rejected = [row for row in unwritten if row.row < scored.next_row]
    unwritten[:] = unwritten[len(rejected) :]
    rejected += [BadRow(shard, row, reason) for row, reason in scored.failed]
    writer.add(scored.annotations, sorted(rejected, key=lambda row: row.row), scored.next_row)


def _chunks(documents: Iterator[tuple[int, Document]], shard: Shard) -> Iterator[Chunk]:
    chunk: list[tuple[int, Document]] = []
    characters = 0
    for item in documents:
        chunk.append(item)
        characters += len(item[1].text)
        if len(chunk) == _CHUNK_DOCUMENTS or characters >= _CHUNK_CHARACTERS:
            yield Chunk(chunk, shard.position)
            chunk, characters = [], 0
    if chunk:
        yield Chunk(chunk, shard.position)
