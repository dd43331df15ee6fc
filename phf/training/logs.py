"""What a run writes down while it trains: metrics to files, progress to the terminal."""

from __future__ import annotations

import logging
import math
import os
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from objectives import Objective
from phf.errors import PhfError

log = logging.getLogger("phf")

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


def check_finite(metrics: dict[str, float], step: int, *, scaler: bool) -> None:
    """Ends a run that has left the numbers.

    Args:
        metrics: By name.
        step: The step they are of.
        scaler: Whether gradients are scaled: that one overflows is the scaler's normal business then.

    Raises:
        PhfError: One is infinite or no number.
    """
    for name, value in metrics.items():
        if not math.isfinite(value) and not (scaler and name == "train/gradient_norm"):
            raise PhfError(
                f"step {step}: {name} is {value}; the last checkpoint is kept. "
                "Try a lower train.learning_rate or a longer train.warmup"
            )


class Metrics(L.Callback):
    """Loss, gradient norm, learning rate and speed every few steps; held-out loss when it is measured.

    A loss or gradient that is not finite ends the run; it is looked at when it is logged, which is when it
    has to be brought from the device anyway, and before a checkpoint.
    """

    def __init__(self, every: int, heldout_every: int | None, tokens_per_step: int, total_steps: int):
        self.every = every
        self.heldout_every = heldout_every
        self.tokens_per_step = tokens_per_step
        self.total_steps = total_steps
        self.sums = torch.zeros(2)
        self.steps = 0
        self.learning_rate = 0.0
        self.seconds_paused = 0.0
        self.bar: Progress | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.since = time.perf_counter()
        console = Console(stderr=True)
        if trainer.is_global_zero and console.is_terminal:
            columns = (
                BarColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=console)
            self.bar.add_task("training", total=self.total_steps, completed=trainer.global_step)
            self.bar.start()

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.learning_rate = optimizer.param_groups[0]["lr"]  # after the step it is that of the next

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        assert isinstance(pl_module, Objective)
        self.sums = self.sums.to(pl_module.device) + pl_module.step_sums
        pl_module.step_sums = torch.zeros_like(pl_module.step_sums)
        self.steps += 1
        step = trainer.global_step
        # Lightning validates whenever this divides the number of micro-batches.
        measure = due(step, self.heldout_every, self.total_steps, times=20)
        trainer.val_check_batch = trainer.accumulate_grad_batches if measure else float("inf")
        if not due(step, self.every, self.total_steps):
            return
        metrics = self._measure(trainer, pl_module)
        now = time.perf_counter()
        seconds = now - self.since - self.seconds_paused
        metrics |= {
            "train/learning_rate": self.learning_rate,
            "train/tokens_per_second": self.steps * self.tokens_per_step / seconds,
        }
        log_metrics(trainer, metrics)
        check_finite(metrics, step, scaler=trainer.precision == "16-mixed")
        self._show(trainer, metrics)
        self.sums, self.steps = torch.zeros_like(self.sums), 0
        self.since, self.seconds_paused = now, 0.0

    def _measure(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, float]:
        """Means over the steps since the last line of the log."""
        assert isinstance(pl_module, Objective)
        sums = trainer.strategy.reduce(self.sums.clone(), reduce_op="sum")
        loss, nll = (sums / self.steps).tolist()
        return {
            "train/loss": loss,
            "train/nll": nll,
            "train/gradient_norm": float(pl_module.gradient_norm),
        }

    def check(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Looks at the steps that have not been logged yet.

        Raises:
            PhfError: Their loss, or the last one's gradient, is not finite.
        """
        if self.steps:
            metrics = self._measure(trainer, pl_module)
            check_finite(metrics, trainer.global_step, scaler=trainer.precision == "16-mixed")

    def _show(self, trainer: L.Trainer, metrics: dict[str, float]) -> None:
        line = (
            f"step {trainer.global_step}/{self.total_steps}  loss {metrics['train/loss']:.4f}  "
            f"{metrics['train/tokens_per_second']:,.0f} tokens/s"
        )
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=trainer.global_step, description=line)
        elif trainer.is_global_zero:
            left = (self.total_steps - trainer.global_step) * self.tokens_per_step
            log.info("%s  %.0f s left", line, left / metrics["train/tokens_per_second"])

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that does not count in the speed of training."""
        start = time.perf_counter()
        yield
        self.seconds_paused += time.perf_counter() - start

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.pause = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Objective)
        sums = trainer.strategy.reduce(pl_module.heldout_sums, reduce_op="sum").cpu()
        metrics = {
            f"heldout/{name}": float(nll / tokens)
            for name, (nll, tokens) in zip(("loss", "aligned", "misaligned"), sums, strict=True)
            if tokens > 0
        }
        log_metrics(trainer, metrics)
        if trainer.is_global_zero:
            log.info("step %d  held-out loss %.4f", trainer.global_step, metrics["heldout/loss"])
        self.seconds_paused += time.perf_counter() - self.pause

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.bar is not None:
            self.bar.stop()


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
