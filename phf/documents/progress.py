"""Shows progress over shards: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from phf.documents.shards import Shard

log = logging.getLogger("phf")

_SECONDS_BETWEEN_LINES = 30.0


class ShardProgress:
    """Shows the progress of a verb over shards.

    Args:
        verb: Name of the verb.
        shards: All shards to process.
        done: Shards that are already finished.
    """

    def __init__(self, verb: str, shards: Sequence[Shard], done: Sequence[Shard] = ()):
        console = Console(stderr=True)
        columns = (TextColumn(verb), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[state]}"),
                   TimeRemainingColumn())  # fmt: skip
        self._verb = verb
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._begun = self._done = sum(shard.size for shard in done)
        self._total = max(1, sum(shard.size for shard in shards))
        self._task = self._bar.add_task("", total=self._total, completed=self._done, state="")
        self._num_shards, self._num_done = len(shards), len(done)
        self._num_documents = self._num_bad = 0
        self._start = self._last_line = time.monotonic()

    def __enter__(self) -> ShardProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, shard: Shard, position: int, num_documents: int, num_bad: int) -> None:
        """Records that some documents are finished.

        Args:
            shard: The shard of the documents.
            position: How far the shard has been read, in its own unit.
            num_documents: How many documents were finished since the last call.
            num_bad: Bad rows so far.
        """
        self._num_documents += num_documents
        self._num_bad = num_bad
        self._show(self._done + min(position, shard.size))

    def finish(self, shard: Shard, num_bad: int) -> None:
        """Records that a shard is finished."""
        self._done += shard.size
        self._num_done += 1
        self._num_bad = num_bad
        self._show(self._done)

    def _show(self, completed: int) -> None:
        seconds = time.monotonic() - self._start
        bad = f", {self._num_bad:,} bad rows" if self._num_bad else ""
        state = (
            f"{self._num_done} of {self._num_shards} shards, {self._num_documents:,} documents, "
            f"{self._num_documents / max(seconds, 1e-9):,.0f}/s{bad}"
        )
        self._bar.update(self._task, completed=completed, state=state)
        if self._bar.disable and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            left = seconds * (self._total - completed) / max(completed - self._begun, 1)
            log.info(
                "%s: %.0f %%, %s, %s left", self._verb, 100 * completed / self._total, state,
                timedelta(seconds=round(left)),
            )  # fmt: skip
