"""Writes the metrics of a run to its own file, TensorBoard and Weights & Biases."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from phf.base.errors import PhfError
from phf.base.files import write_text

_HEADER = "step,tokens,name,value\n"


def due(step: int, every: int | None, total_steps: int, times: int = 1) -> bool:
    """Whether an action is due after a step.

    The action is due every `every` steps, or `times` times in a run if `every` is `None`. It is also due
    after the last step.
    """
    if every is not None:
        return step % every == 0 or step == total_steps
    return step * times // total_steps > (step - 1) * times // total_steps


class MetricsFile(Logger):
    """Appends to `metrics.csv`: one row (step, tokens, name, value) for each metric.

    A resumed run continues after the last row of the step from which it resumes.
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
        """Deletes the rows of later steps than `step`, which will be measured again."""
        if not self.path.exists():
            return
        rows = self.path.read_text().splitlines(keepends=True)[1:]
        # The last line is incomplete if the process ended while it wrote the line.
        kept = [row for row in rows if row.endswith("\n") and int(row.partition(",")[0]) <= step]
        write_text(self.path, _HEADER + "".join(kept))


def log_metrics(trainer: L.Trainer, metrics: dict[str, float]) -> None:
    """Writes metrics of the current step to every logger of the run."""
    for logger in trainer.loggers:
        logger.log_metrics(metrics, step=trainer.global_step)


def loggers(names: list[str], folder: Path, name: str, metrics: MetricsFile) -> list[Logger]:
    """Makes the loggers of a run from their names in the configuration.

    Raises:
        PhfError: wandb is configured but not installed.
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
