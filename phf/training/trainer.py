"""The trainer of a run: Lightning, set up as a run needs it."""

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

from objectives import Objective
from phf.config import Config
from phf.training.parallel import compile_blocks, strategy
from phf.training.plan import Plan


class HalfPrecision(LightningHalfPrecision):
    """All weights in bfloat16, and nothing else.

    Scores are as they are: a threshold needs their digits. So are buffers, such as the frequencies of rotary
    positions: a model that is loaded again has them in float32.
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
    """A trainer that does nothing but what a run asks for.

    Args:
        config: The configuration.
        plan: It in numbers.
        folder: Where Lightning may write.
        max_steps: Optimizer steps.
        loggers: Where metrics go.
        callbacks: What is done beside training.
        profiler: Is told what Lightning does.
    """
    plugins: list[Any] = []
    if plan.precision == "bf16-true":
        plugins.append(HalfPrecision("bf16-true"))
    elif plan.precision == "16-mixed":  # on a CPU Lightning would take bfloat16 instead
        plugins.append(MixedPrecision("16-mixed", "cuda" if plan.accelerator == "gpu" else "cpu"))
    precision = None if plugins else plan.precision
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # requeueing is ours: see Checkpoints
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
    """Of the libraries only what a user can act on; Lightning sets its own levels when it is imported."""
    disable_progress_bar()  # one for every file of weights
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers",
        ".*LeafSpec",
        ".*resuming from a checkpoint that ended",
        ".*`srun` command is available",  # one process is meant, on a node where SLURM is
        ".*Total length of `list` across ranks is zero",  # nothing is held out
    ):
        warnings.filterwarnings("ignore", message=message)


def compile_network(config: Config, plan: Plan, objective: Objective) -> None:
    """Compiles the transformer blocks (not the Lightning module, whose logging cannot be compiled)."""
    wanted = config.model.compile
    if wanted == "auto":
        # It takes some ten seconds, too long for a short run; on a CPU it gains nothing that was measured.
        wanted = plan.accelerator == "gpu" and plan.total_steps >= 200
    if wanted:
        compile_blocks(objective.model)
