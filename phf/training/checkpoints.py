"""Checkpoints at optimizer-step boundaries, and stopping so that the run can be continued elsewhere."""

from __future__ import annotations

import logging
import re
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L

from phf.errors import PhfError

log = logging.getLogger("phf")


class RequeueError(PhfError):
    """The run was asked to stop, has saved a checkpoint, and goes on when it is started again."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: the same command, later


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


class Checkpoints(L.Callback):
    """Saves every few steps, at the end and when asked to stop; keeps the latest.

    SIGTERM and SIGUSR1 (SLURM's warnings before preemption and the time limit) only set a flag; the processes
    agree on it at the end of a step. Saving inside the handler would deadlock them.
    """

    def __init__(self, folder: Path, every: int, keep: int):
        self.folder = folder
        self.every = every
        self.keep = keep
        self.asked_to_stop = False
        self.last_saved = -1
        self.seconds = 0.0  # spent on this run before this start
        self.started = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.wall_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict["seconds"]

    @property
    def wall_seconds(self) -> float:
        """Time spent training, in this start of the run and in those before it."""
        return self.seconds + time.time() - self.started

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.last_saved = trainer.global_step
        self.started = time.time()

        def handler(signum: int, frame: FrameType | None) -> None:
            self.asked_to_stop = True

        for signum in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(
                signum, handler
            )  # after Lightning's own, which act at once; it restores the older ones

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        stop = trainer.strategy.reduce_boolean_decision(self.asked_to_stop, all=False)
        if stop or trainer.global_step % self.every == 0:
            self.save(trainer)
        if stop and trainer.global_step < trainer.max_steps:
            raise RequeueError(
                f"stopped by a signal after step {trainer.global_step}, with a checkpoint; "
                "the same command goes on from there"
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Writes `step-N.ckpt` under its name only when it is complete, and deletes the oldest."""
        if trainer.global_step == self.last_saved:
            return
        path = self.folder / checkpoint_name(trainer.global_step)
        temporary = path.with_suffix(".tmp")
        trainer.save_checkpoint(temporary, weights_only=False)
        if trainer.is_global_zero:
            temporary.replace(path)
            for old in sorted(self.folder.glob("step-*.ckpt"))[: -self.keep]:
                old.unlink()
        trainer.strategy.barrier()
        self.last_saved = trainer.global_step
