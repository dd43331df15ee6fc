"""Runs one part of the shards as a task of a datatrove executor.

This module needs the extra `datatrove`.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path

from phf.annotation.annotate import annotate
from phf.base.errors import PhfError
from phf.config import Config, ExecutorConfig

try:
    import datatrove  # noqa: F401
    from loguru import logger
except ImportError as error:
    raise PhfError(
        f"annotations.executor needs {error.name}, which is not installed: pip install 'phf[datatrove]'"
    ) from error

log = logging.getLogger("phf")
logger.disable("datatrove")  # it logs many lines per task, and a traceback for each task that fails


class Part:
    """The one step of the pipeline: it runs `annotate` for the part of a task.

    Args:
        config: The configuration.
        parts: The part of each task.
        logs: datatrove's log folder.
        processes: Scoring processes per task; 0 for one per GPU or core.
    """

    def __init__(self, config: Config, parts: Sequence[int], logs: Path, processes: int):
        self._config, self._parts, self._logs, self._processes = config, parts, logs, processes
        self._folder = Path.cwd()  # relative paths start here, but Ray starts tasks in another folder

    def __repr__(self) -> str:
        return "phf annotate"

    def __call__(self, _: object, rank: int, world_size: int) -> None:
        part, settings = self._parts[rank], self._config.annotations
        settings = replace(settings, executor=ExecutorConfig(), part=part, processes=self._processes)
        with chdir(self._folder), _logged():
            log.info("part %d of %d, on %s", part, settings.parts, platform.node())
            try:
                annotate(replace(self._config, annotations=settings))
            except Exception as error:
                logger.opt(exception=True).debug("failed")  # for the log file only
                reason = str(error).partition("\n")[0] if isinstance(error, PhfError) else repr(error)
                path = self._logs / "logs" / f"task_{rank:05d}.log"
                raise PhfError(f"part {part}: {reason} ({path} has more)") from error


class _ToLoguru(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        logger.opt(depth=6).log(record.levelname, record.getMessage())  # depth 6 is the original caller


@contextmanager
def _logged() -> Iterator[None]:
    """Sends the project's log lines to the log of the task only."""
    before = log.handlers[:], log.level, log.propagate
    log.handlers[:], log.propagate = [_ToLoguru()], False
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.handlers[:], log.propagate = before[0], before[2]
        log.setLevel(before[1])
