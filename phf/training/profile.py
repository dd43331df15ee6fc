"""Profiles a few steps of a run with torch's profiler."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.profiler import ProfilerActivity, profile, schedule

log = logging.getLogger("phf")

SKIPPED_STEPS = 5
"""Steps before the recorded ones. The first steps allocate memory and compile kernels."""


class Profile(L.Callback):
    """Records some steps of the first process.

    Writes `trace.json`, which chrome://tracing and https://ui.perfetto.dev open, and `table.txt`, a table of
    operations sorted by self time.

    Args:
        folder: The folder to write to.
        steps: The number of optimizer steps to record.
    """

    def __init__(self, folder: Path, steps: int):
        self.folder = folder
        self.steps = steps
        self.recorded = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        activities = [ProfilerActivity.CPU]
        if pl_module.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self.profiler = profile(
            activities=activities,
            schedule=schedule(skip_first=SKIPPED_STEPS - 1, wait=0, warmup=1, active=self.steps, repeat=1),
            on_trace_ready=self._write,
            record_shapes=True,
        )
        self.profiler.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.profiler.step()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.is_global_zero and hasattr(self, "profiler"):
            self.profiler.stop()
            if not self.recorded:
                log.warning("no profile: the run ended before step %d after its start", SKIPPED_STEPS + 1)

    def _write(self, profiler: torch.profiler.profile) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        on_gpu = ProfilerActivity.CUDA in profiler.activities
        sort_by = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
        table = profiler.key_averages(group_by_input_shape=True).table(
            sort_by=sort_by, row_limit=50, max_name_column_width=50, max_shapes_column_width=50
        )
        (self.folder / "table.txt").write_text(table)
        profiler.export_chrome_trace(str(self.folder / "trace.json"))
        self.recorded = True
        log.info("profile of %d steps: %s", self.steps, self.folder)
