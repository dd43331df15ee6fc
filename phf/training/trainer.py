"""Configures Lightning's trainer for a run."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins import HalfPrecision as LightningHalfPrecision
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.profilers import Profiler
from torch import nn
from transformers.utils.logging import disable_progress_bar

from objectives.engine import Objective
from phf.config import Config
from phf.training.parallel import compile_blocks, strategy
from phf.training.plan import Plan


class HalfPrecision(LightningHalfPrecision):
    """Converts all weights to bfloat16, and nothing else.

    Scores stay in float32, because comparing them with a threshold needs their precision. Buffers, such as
    the frequencies of rotary positions, also stay in float32, as in a model that is loaded again.
    """

    def convert_module(self, module: nn.Module) -> nn.Module:
        for parameter in module.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
        return module

    def convert_input(self, data: Any) -> Any:
        return data


def make_trainer(
    config: Config,
    plan: Plan,
    folder: Path,
    *,
    max_steps: int,
    loggers: list[Logger],
    callbacks: list[Callback],
    profiler: Profiler,
) -> L.Trainer:
    """Makes a trainer in which all optional features of Lightning are off, except those that a run needs.

    Args:
        config: The configuration.
        plan: The plan of the run.
        folder: The folder where Lightning may write.
        max_steps: Number of optimizer steps.
        loggers: The loggers of the metrics.
        callbacks: The callbacks of the run.
        profiler: A profiler, which Lightning notifies of its actions.
    """
    plugins: list[Any] = []
    if plan.precision == "bf16-true":
        plugins.append(HalfPrecision("bf16-true"))
    elif plan.precision == "16-mixed":  # on a CPU, Lightning by itself would use bfloat16 instead
        plugins.append(MixedPrecision("16-mixed", "cuda" if plan.accelerator == "gpu" else "cpu"))
    precision = None if plugins else plan.precision
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # `Checkpoints` handles requeueing
    return L.Trainer(
        accelerator=plan.accelerator,
        devices=plan.devices,
        num_nodes=config.train.nodes,
        strategy=strategy(config.train.strategy, plan.processes),
        precision=precision,
        plugins=plugins,
        max_steps=max_steps,
        max_epochs=-1,
        accumulate_grad_batches=plan.accumulate,
        num_sanity_val_steps=0,
        logger=loggers,
        callbacks=callbacks,
        profiler=profiler,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )


def quiet_libraries() -> None:
    """Silences messages of the libraries that a user cannot act on.

    This must run after Lightning is imported, because the import sets Lightning's log levels.
    """
    disable_progress_bar()  # transformers shows one for every file of weights
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers",
        ".*LeafSpec",
        ".*resuming from a checkpoint that ended",
        ".*`srun` command is available",  # a single process on a SLURM node is intended
        ".*Total length of `list` across ranks is zero",  # no documents are held out
    ):
        warnings.filterwarnings("ignore", message=message)


def compile_network(config: Config, plan: Plan, objective: Objective) -> None:
    """Compiles the transformer blocks, but not the Lightning module, whose logging cannot be compiled."""
    wanted = config.model.compile
    if wanted == "auto":
        # Compiling takes about ten seconds, too long for a short run. On a CPU it brought no measured gain.
        wanted = plan.accelerator == "gpu" and plan.total_steps >= 200
    if wanted:
        compile_blocks(objective.model)
