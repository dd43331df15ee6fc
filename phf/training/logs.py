"""Where the metrics of a run go: its own file, TensorBoard, wandb."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from phf.base.errors import PhfError

_HEADER = "step,tokens,name,value\n"


def due(step: int, every: int | None, total_steps: int, times: int = 1) -> bool:
    """Whether something is due after a step: every few steps or so many times a run, and after the last."""
    if every is not None:
        return step % every == 0 or step == total_steps
    return step * times // total_steps > (step - 1) * times // total_steps


class MetricsFile(Logger):
    """Appends to `metrics.csv`: one row (step, tokens, name, value) a metric.

    A run that resumes goes on after the last row of the step it resumes from.
    """

    def __init__(self, path: Path, tokens_per_step: int, tokens_before: int):
        super().__init__()
        self.path = path
        self.tokens_per_step = tokens_per_step
        self.tokens_before = tokens_before

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        pass  # the run folder's config.yaml has them

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        tokens = self.tokens_before + step * self.tokens_per_step
        new = not self.path.exists()
        with self.path.open("a") as file:
            file.write(_HEADER * new)
            file.writelines(f"{step},{tokens},{name},{float(value)!r}\n" for name, value in metrics.items())

    @rank_zero_only
    def resume_from(self, step: int) -> None:
        """Forgets what was measured after `step`: it will be measured again."""
        if not self.path.exists():
            return
        rows = self.path.read_text().splitlines(keepends=True)[1:]
        # The last line may have been cut by the end of the process that wrote it.
        kept = [row for row in rows if row.endswith("\n") and int(row.partition(",")[0]) <= step]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(_HEADER + "".join(kept))
        temporary.replace(self.path)


def log_metrics(trainer: L.Trainer, metrics: dict[str, float]) -> None:
    """Writes metrics of the current step to every logger of the run."""
    for logger in trainer.loggers:
        logger.log_metrics(metrics, step=trainer.global_step)


def loggers(names: list[str], folder: Path, name: str, metrics: MetricsFile) -> list[Logger]:
    """The loggers of a run, by their names in the configuration.

    Raises:
        PhfError: wandb is asked for and not installed.
    """
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

    made: list[Logger] = []
    for kind in names:
        if kind == "csv":
            made.append(metrics)
        elif kind == "tensorboard":
            made.append(TensorBoardLogger(folder, name="tensorboard", version=""))
        else:
            try:
                os.environ.setdefault("WANDB_SILENT", "true")
                made.append(WandbLogger(name=name, save_dir=folder, id=name, resume="allow"))
            except ModuleNotFoundError as error:
                raise PhfError("train.loggers: wandb is not installed: pip install 'phf[wandb]'") from error
    return made
