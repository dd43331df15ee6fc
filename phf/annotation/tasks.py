"""A task of an executor of datatrove: it scores one part of the shards, and its lines go to datatrove's log.

Whoever imports this module needs the extra `datatrove`.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path

from phf.annotation.annotate import annotate
from phf.annotation.pool import num_cores
from phf.base.errors import PhfError
from phf.config import Config, ExecutorConfig

try:
    import datatrove  # noqa: F401
    import multiprocess  # datatrove's variant of multiprocessing
    from loguru import logger
except ImportError as error:
    raise PhfError(
        f"annotations.executor needs {error.name}, which is not installed: pip install 'phf[datatrove]'"
    ) from error

log = logging.getLogger("phf")
logger.disable("datatrove")  # many lines a task, and a traceback on the terminal for each that fails


class Part:
    """The one step of the pipeline: `annotate` for the part of a task.

    Args:
        config: As it was given.
        parts: Of each task, its part.
        logs: datatrove's folder.
        processes: That score in a task; 0 for one a GPU or core.
        workers: Tasks at a time on this machine; `None` on a cluster.
    """

    def __init__(self, config: Config, parts: Sequence[int], logs: Path, processes: int, workers: int | None):
        self._config, self._parts, self._logs = config, parts, logs
        self._processes, self._workers = processes, workers
        self._folder = Path.cwd()  # where relative paths start; Ray starts elsewhere

    def __repr__(self) -> str:
        return "phf annotate"

    def __call__(self, _: object, rank: int, world_size: int) -> None:
        part, settings = self._parts[rank], self._config.annotations
        if multiprocess.parent_process():
            self._settle_in()
        settings = replace(settings, executor=ExecutorConfig(), part=part, processes=self._processes)
        with chdir(self._folder), _logged():
            log.info("part %d of %d, on %s", part, settings.parts, platform.node())
            try:
                annotate(replace(self._config, annotations=settings))
            except Exception as error:
                logger.opt(exception=True).debug("failed")  # for the log's file only
                reason = str(error).partition("\n")[0] if isinstance(error, PhfError) else repr(error)
                path = self._logs / "logs" / f"task_{rank:05d}.log"
                raise PhfError(f"part {part}: {reason} ({path} has more)") from error

    def _settle_in(self) -> None:
        """Makes this process one of several that the main one has started."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends this one
        threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
        os.environ["TTY_COMPATIBLE"] = "0"  # no bars over each other: rich writes lines then
        if self._workers:
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // self._workers)))


def end_with_parent(parent: int) -> None:
    """Ends this process with the one that started it, which may be killed without a word."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


class _ToLoguru(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        logger.opt(depth=6).log(record.levelname, record.getMessage())  # from where it was logged


@contextmanager
def _logged() -> Iterator[None]:
    """The project's lines go to the log of the task, and nowhere else."""
    before = log.handlers[:], log.level, log.propagate
    log.handlers[:], log.propagate = [_ToLoguru()], False
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.handlers[:], log.propagate = before[0], before[2]
        log.setLevel(before[1])
