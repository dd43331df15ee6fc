"""Measures speed, memory and losses during a run, and prints them."""

from __future__ import annotations

import logging
import math
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.profilers import Profiler
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from objectives.engine import Objective
from phf.base.errors import PhfError
from phf.blocks.datamodule import Blocks
from phf.training.flops import flops_per_token, peak_flops
from phf.training.logs import due, log_metrics
from phf.training.plan import Plan

log = logging.getLogger("phf")


class DataWait(Profiler):
    """Counts the seconds that training waits for its next batch.

    This is a profiler, because Lightning tells profilers when the wait starts and stops.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._since = 0.0

    def start(self, action_name: str) -> None:
        if action_name.endswith("train_dataloader_next"):
            self._since = time.perf_counter()

    def stop(self, action_name: str) -> None:
        if action_name.endswith("train_dataloader_next"):
            self.seconds += time.perf_counter() - self._since


class NotFiniteError(PhfError):
    """A loss or gradient is infinite or NaN, and the weights soon will be too. All processes raise this."""

    def __init__(self, what: str):
        super().__init__(
            f"{what} is not finite. Try a lower train.learning_rate or a longer train.warmup, under another "
            "run.name; `phf export` writes the model of the last checkpoint"
        )


class Metrics(L.Callback):
    """Logs loss, gradient norm, learning rate, speed and memory every few steps, and each held-out loss.

    A loss or gradient that is not finite ends the run. The device records the first one. The record is read
    only when metrics are logged, which need a transfer from the device anyway, and before a checkpoint.

    Args:
        plan: The plan of the run.
        every: Steps between two log lines.
        data_wait: Counts the seconds that training waits for data.
        peak: Peak FLOP/s of a device; `None` for the value known for the device.
        heldout: Whether the held-out loss is measured at all.
    """

    def __init__(
        self, plan: Plan, every: int, data_wait: DataWait, peak: float | None = None, *, heldout: bool = True
    ):
        self.plan = plan
        self.heldout = heldout
        self.every = every
        self.data_wait = data_wait
        self.peak = peak
        self.flops = 0.0
        # Sums of loss and -log p over `steps` steps since the last log line. `timed_steps` of these steps ran
        # in this start of the run, so that their time is known.
        self.sums = torch.zeros(2)
        self.steps = 0
        self.timed_steps = 0
        self.checked_step = -1
        self.learning_rate = 0.0
        self.seconds_paused = 0.0
        self.bar: Progress | None = None
        self.latest: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums.tolist(), "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.sums = torch.tensor(state_dict["sums"])
        self.steps = state_dict["steps"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Objective)
        if not trainer.is_global_zero:  # the saved sums are already those of all processes
            self.sums = torch.zeros_like(self.sums)
        self.flops = flops_per_token(pl_module.model, self.plan.context_length)
        self.peak = self.peak or peak_flops(pl_module.device)
        self.since, self.data_wait.seconds = time.perf_counter(), 0.0
        console = Console(stderr=True)
        if trainer.is_global_zero and console.is_terminal:
            columns = (
                BarColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=console)
            self.bar.add_task("training", total=self.plan.total_steps, completed=trainer.global_step)
            self.bar.start()

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.learning_rate = optimizer.param_groups[0]["lr"]  # after the step, this is the next step's

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        assert isinstance(pl_module, Objective)
        self.sums = self.sums.to(pl_module.device) + pl_module.step_sums
        pl_module.step_sums = torch.zeros_like(pl_module.step_sums)
        self.steps += 1
        self.timed_steps += 1
        step, total_steps = trainer.global_step, self.plan.total_steps
        # Lightning validates when `val_check_batch` divides the number of micro-batches so far.
        measure = self.heldout and due(step, self.plan.heldout_every, total_steps, times=20)
        trainer.val_check_batch = trainer.accumulate_grad_batches if measure else float("inf")
        if due(step, self.every, total_steps):
            self._log(trainer, pl_module)

    def _log(self, trainer: L.Trainer, pl_module: Objective) -> None:
        """Logs the means over the steps since the last log line."""
        self.check(trainer, pl_module)
        loss, nll = (self.sums / self.steps).tolist()
        gradient_norm = float(pl_module.gradient_norm)
        now = time.perf_counter()
        seconds = now - self.since - self.seconds_paused
        speed = self.timed_steps * self.plan.tokens_per_step / seconds
        self.latest = {
            "train/loss": loss,
            "train/nll": nll,
            "train/gradient_norm": gradient_norm,
            "train/learning_rate": self.learning_rate,
            "train/tokens_per_second": speed,
            "train/data_wait": self.data_wait.seconds / seconds,
            "train/memory_gib": _peak_memory(pl_module.device) / 2**30,
        }
        if self.peak:
            self.latest["train/mfu"] = speed * self.flops / (self.peak * self.plan.processes)
        log_metrics(trainer, self.latest)
        self._show(trainer, self.latest)
        self.sums, self.steps, self.timed_steps = torch.zeros_like(self.sums), 0, 0
        self.since, self.seconds_paused, self.data_wait.seconds = now, 0.0, 0.0

    def check(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reduces the sums over the processes, and checks that all losses and gradients are finite.

        Raises:
            NotFiniteError: A loss or a gradient is not finite.
        """
        assert isinstance(pl_module, Objective)
        # The first process, which logs and saves, keeps the sums of all processes.
        sums = trainer.strategy.reduce(self.sums.clone(), reduce_op="sum")
        self.sums = sums if trainer.is_global_zero else torch.zeros_like(sums)
        # A copy, because the strategy reduces in place.
        first = trainer.strategy.reduce(pl_module.first_not_finite.clone(), reduce_op="min").tolist()
        blocks: Blocks = trainer.datamodule  # type: ignore[attr-defined]
        steps = [number * blocks.micro_batch // blocks.batch for number in first]
        which = 0 if steps[0] <= steps[1] else 1  # a loss comes before its gradient
        if first[which] != pl_module.NEVER:
            repeated = steps[which] % (blocks.distinct_steps or steps[which] + 1)
            start = blocks.first_block + repeated * blocks.batch
            name, size = "gradient", blocks.batch
            if which == 0:
                name, size = "loss", blocks.micro_batch
                start += first[0] * blocks.micro_batch % blocks.batch
            where = f"of blocks {start} to {start + size - 1} of the run"
            raise NotFiniteError(f"step {steps[which] + 1}: the {name} {where}")
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        # The scale is halved at each step whose gradients overflow, and that step is skipped.
        if scaler is not None and scaler.get_scale() < 1:
            raise NotFiniteError(f"step {trainer.global_step}: for many steps now the gradient")
        self.checked_step = trainer.global_step

    def _show(self, trainer: L.Trainer, metrics: dict[str, float]) -> None:
        line = (
            f"step {trainer.global_step}/{self.plan.total_steps}  loss {metrics['train/loss']:.4f}  "
            f"{metrics['train/tokens_per_second']:,.0f} tokens/s"
        )
        if "train/mfu" in metrics:
            line += f"  MFU {metrics['train/mfu']:.1%}"
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=trainer.global_step, description=line)
        elif trainer.is_global_zero:
            left = (self.plan.total_steps - trainer.global_step) * self.plan.tokens_per_step
            log.info("%s  %.0f s left", line, left / metrics["train/tokens_per_second"])

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time inside the context from the measured training speed."""
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
        if not all(map(math.isfinite, metrics.values())):
            raise NotFiniteError(f"step {trainer.global_step}: the held-out loss")
        if trainer.is_global_zero:
            log.info("step %d  held-out loss %.4f", trainer.global_step, metrics["heldout/loss"])
        self.seconds_paused += time.perf_counter() - self.pause

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.bar is not None:
            self.bar.stop()


def _peak_memory(device: torch.device) -> int:
    """Returns the peak memory in bytes: of the tensors on a GPU, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
