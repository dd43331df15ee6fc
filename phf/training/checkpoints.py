"""Saves checkpoints at optimizer steps, and stops a run so that it can go on elsewhere."""

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
from phf.base.files import write_json
from phf.training.logs import due
from phf.training.metrics import Metrics
from phf.training.plan import Plan

log = logging.getLogger("phf")


class RequeueError(PhfError):
    """The run was asked to stop and has saved a checkpoint. It resumes when it is started again."""

    def __init__(self, step: int, signum: int):
        super().__init__(f"stopped by a signal after step {step}; run the same command again to resume")
        # 130 is the shell's code for Ctrl-C. 75 is EX_TEMPFAIL of sysexits.h, which asks to try again later.
        self.exit_code = 130 if signum == signal.SIGINT else 75


def checkpoint_name(step: int) -> str:
    """Returns the name of the file that holds the checkpoint after `step`."""
    return f"step-{step:08d}.ckpt"


def checkpoint_step(path: Path) -> int:
    """Returns the step in a checkpoint's file name; -1 if the file is not a checkpoint."""
    match = re.fullmatch(r"step-(\d+)\.ckpt", path.name)
    return int(match[1]) if match else -1


def latest_checkpoint(folder: Path) -> Path | None:
    """Finds the checkpoint of the last step, or `None`. An unfinished checkpoint has another name."""
    return max(
        (path for path in folder.glob("step-*.ckpt") if checkpoint_step(path) >= 0),
        key=checkpoint_step,
        default=None,
    )


def check_checkpoint(path: Path) -> None:
    """Checks that a checkpoint can be opened, without reading all of it.

    Raises:
        PhfError: The file is damaged.
    """
    manifest = path.with_suffix(".json")
    try:
        if manifest.is_file() and json.loads(manifest.read_text())["bytes"] != path.stat().st_size:
            raise EOFError
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, UnpicklingError, ValueError) as error:
        others = len(list(path.parent.glob("step-*.ckpt"))) > 1
        instead = "resume from the previous one" if others else "start again"
        raise PhfError(f"{path} is damaged and cannot be resumed from: delete it to {instead}") from error


class Checkpoints(L.Callback):
    """Saves checkpoints every few steps, at the end, and when the run is asked to stop; keeps the latest.

    SIGTERM, SIGUSR1 (SLURM's warnings before preemption and the time limit) and SIGINT (Ctrl-C) only set a
    flag. The processes agree on the flag before the next step, because saving inside the handler would
    deadlock them. A step is saved when the next step starts, so that all measurements after the step are
    complete. An older checkpoint is deleted only when a step from the weights of the latest checkpoint has
    had a finite loss.
    """

    def __init__(self, folder: Path, plan: Plan, keep: int, metrics: Metrics):
        self.folder = folder
        self.plan = plan
        self.keep = keep
        self.metrics = metrics
        self.signum = 0
        self.last_saved = -1
        self.seconds = 0.0  # training time before this start of the run
        self.started: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.wall_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict["seconds"]

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Lightning counts micro-batches, whose size may have changed since the checkpoint was saved.
        micro_batches = checkpoint["global_step"] * trainer.accumulate_grad_batches
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts.update(dict.fromkeys(counts, micro_batches))

    @property
    def wall_seconds(self) -> float:
        """Time spent training, over all starts of the run."""
        return self.seconds + (0.0 if self.started is None else time.time() - self.started)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.last_saved = trainer.global_step
        self.started = time.time()

        def handler(signum: int, frame: FrameType | None) -> None:
            self.signum = signum
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the process at once

        for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            # This replaces Lightning's handlers, which act at once. Lightning restores the original handlers.
            signal.signal(signum, handler)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches:
            return
        if trainer.is_global_zero and self.metrics.checked_step > self.last_saved:
            self._prune()  # a step from the weights saved last has had a finite loss
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
        """Saves a checkpoint. `step-N.ckpt` appears under its name only when it is complete.

        Raises:
            PhfError: The loss is not finite, so the weights are of no use.
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
        """Deletes all but the latest checkpoints."""
        for old in sorted(self.folder.glob("step-*.ckpt"))[: -self.keep]:
            old.unlink()
            old.with_suffix(".json").unlink(missing_ok=True)

    def _write_manifest(self, path: Path, step: int, size: int) -> None:
        """Writes a sidecar that describes a checkpoint."""
        manifest = {
            "step": step,
            "tokens": self.plan.tokens_seen + step * self.plan.tokens_per_step,
            "bytes": size,
            "seconds": round(self.wall_seconds, 1),
            "versions": {name: version(name) for name in ("torch", "lightning", "transformers")},
            "metrics": {name: value for name, value in self.metrics.latest.items() if math.isfinite(value)},
        }
        write_json(path, manifest)
