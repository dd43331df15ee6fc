"""Checkpoints at optimizer-step boundaries, and stopping so that the run can be continued elsewhere."""

from __future__ import annotations

import json
import logging
import math
import re
import signal
import time
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from types import FrameType
from typing import Any

import lightning as L
import torch

from phf.base.errors import PhfError
from phf.training.logs import due
from phf.training.metrics import Metrics
from phf.training.plan import Plan

log = logging.getLogger("phf")


class RequeueError(PhfError):
    """The run was asked to stop, has saved a checkpoint, and goes on when it is started again."""

    def __init__(self, step: int, signum: int):
        super().__init__(f"stopped by a signal after step {step}; the same command goes on from there")
        # As a shell has it for Ctrl-C; or EX_TEMPFAIL of sysexits.h: the same command, later.
        self.exit_code = 130 if signum == signal.SIGINT else 75


def checkpoint_name(step: int) -> str:
    """The file that holds the checkpoint after `step`."""
    return f"step-{step:08d}.ckpt"


def checkpoint_step(path: Path) -> int:
    """The step in a checkpoint's name."""
    match = re.fullmatch(r"step-(\d+)\.ckpt", path.name)
    return int(match[1]) if match else -1


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the last step, or `None`. One that was being written has another name."""
    return max(
        (path for path in folder.glob("step-*.ckpt") if checkpoint_step(path) >= 0),
        key=checkpoint_step,
        default=None,
    )


def check_checkpoint(path: Path) -> None:
    """Opens a checkpoint, without reading all of it.

    Raises:
        PhfError: It is none.
    """
    manifest = path.with_suffix(".json")
    try:
        if manifest.is_file() and json.loads(manifest.read_text())["bytes"] != path.stat().st_size:
            raise EOFError
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, UnpicklingError, ValueError) as error:
        others = len(list(path.parent.glob("step-*.ckpt"))) > 1
        instead = "go on from the one before" if others else "start again"
        raise PhfError(f"{path} is damaged and cannot be resumed from: delete it to {instead}") from error


class Checkpoints(L.Callback):
    """Saves every few steps, at the end and when asked to stop; keeps the latest.

    SIGTERM, SIGUSR1 (SLURM's warnings before preemption and the time limit) and SIGINT (Ctrl-C) only set a
    flag; the processes agree on it before the next step. Saving inside the handler would deadlock them.
    A step is saved when the next one starts: what is measured after it is measured by then. An older
    checkpoint is deleted only when the weights of the latest have done a step with a finite loss.
    """

    def __init__(self, folder: Path, plan: Plan, keep: int, metrics: Metrics):
        self.folder = folder
        self.plan = plan
        self.keep = keep
        self.metrics = metrics
        self.signum = 0
        self.last_saved = -1
        self.seconds = 0.0  # spent on this run before this start
        self.started: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.wall_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict["seconds"]

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Lightning counts in micro-batches, and these may be of another size now.
        micro_batches = checkpoint["global_step"] * trainer.accumulate_grad_batches
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts.update(dict.fromkeys(counts, micro_batches))

    @property
    def wall_seconds(self) -> float:
        """Time spent training, in this start of the run and in those before it."""
        return self.seconds + (0.0 if self.started is None else time.time() - self.started)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.last_saved = trainer.global_step
        self.started = time.time()

        def handler(signum: int, frame: FrameType | None) -> None:
            self.signum = signum
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # another Ctrl-C ends the process at once

        for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            # After Lightning's own, which act at once; it restores the older ones.
            signal.signal(signum, handler)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches:
            return
        if trainer.is_global_zero and self.metrics.checked_step > self.last_saved:
            self._prune()  # a step from the weights that were saved last has turned out finite
        stop = trainer.strategy.reduce_boolean_decision(self.signum > 0, all=False)
        if stop or due(trainer.global_step, self.plan.checkpoint_every, self.plan.total_steps, times=10):
            self.save(trainer, pl_module)
        if stop:
            raise RequeueError(trainer.global_step, self.signum)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save(trainer, pl_module)
        if trainer.is_global_zero:
            self._prune()

    def save(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes `step-N.ckpt` under its name only when it is complete.

        Raises:
            PhfError: The loss is not finite, and so the weights are of no use.
        """
        if trainer.global_step == self.last_saved:
            return
        self.metrics.check(trainer, pl_module)
        path = self.folder / checkpoint_name(trainer.global_step)
        temporary = path.with_suffix(".tmp")
        trainer.save_checkpoint(temporary, weights_only=False)
        if trainer.is_global_zero:
            self._write_manifest(path.with_suffix(".json"), trainer.global_step, temporary.stat().st_size)
            temporary.replace(path)
        trainer.strategy.barrier()
        self.last_saved = trainer.global_step

    def _prune(self) -> None:
        """Deletes all but the latest."""
        for old in sorted(self.folder.glob("step-*.ckpt"))[: -self.keep]:
            old.unlink()
            old.with_suffix(".json").unlink(missing_ok=True)

    def _write_manifest(self, path: Path, step: int, size: int) -> None:
        """Says beside a checkpoint what it is."""
        manifest = {
            "step": step,
            "tokens": self.plan.tokens_seen + step * self.plan.tokens_per_step,
            "bytes": size,
            "seconds": round(self.wall_seconds, 1),
            "versions": {name: version(name) for name in ("torch", "lightning", "transformers")},
            "metrics": {name: value for name, value in self.metrics.latest.items() if math.isfinite(value)},
        }
        temporary = path.with_suffix(".json.tmp")
        temporary.write_text(json.dumps(manifest, indent=2) + "\n")
        temporary.replace(path)
