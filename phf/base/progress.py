"""Shows the progress of long work: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger("phf")


def sampling_progress(scenario: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Shows the progress of sampling a scenario; see `progress`."""
    return progress(f"sampling {scenario}", total)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar in a terminal; elsewhere logs a line about every 30 seconds.

    Yields:
        A function to call with the number of items that have just been finished.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(what, total=total)
            yield lambda count: bar.advance(task, count)
        return
    done, started = 0, time.monotonic()
    told = started

    def advance(count: int) -> None:
        nonlocal done, told
        done += count
        if done == total or time.monotonic() - told > 30:
            told = time.monotonic()
            left = timedelta(seconds=round((told - started) * (total - done) / done))
            log.info("%s: %d of %d, %s left", what, done, total, left)

    yield advance
