"""Trains a model from a token store, or resumes a stopped run: the verb `pretrain`."""

from __future__ import annotations

import logging
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from objectives.engine import Objective
from phf.base.errors import PhfError
from phf.blocks.datamodule import Blocks
from phf.config import Config
from phf.model.build import configure
from phf.model.model_folder import RUN_FILE
from phf.store.store import TokenStore
from phf.training.build import build, training_data
from phf.training.checkpoints import (
    Checkpoints,
    RequeueError,
    check_checkpoint,
    checkpoint_step,
    latest_checkpoint,
)
from phf.training.claim import check_same_run, claim
from phf.training.export import finish
from phf.training.logs import MetricsFile, loggers
from phf.training.metrics import DataWait, Metrics, NotFiniteError
from phf.training.objective import check_objective
from phf.training.plan import Plan, make_plan
from phf.training.profile import Profile
from phf.training.summary import describe, measured
from phf.training.trainer import compile_network, make_trainer, quiet_libraries

log = logging.getLogger("phf")


def pretrain(config: Config) -> Path:
    """Trains a model, or resumes a stopped run, and exports the model.

    Args:
        config: The configuration; a copy is stored in the run folder.

    Returns:
        The run folder, with `config.yaml`, `run.json`, `metrics.csv`, `checkpoints/` and `model/`.

    Raises:
        ConfigError: The configuration contradicts itself, the store, or the run in the folder.
        PhfError: The store or the checkpoint cannot be used, or a loss or gradient is not finite.
        RequeueError: The run was asked to stop and has saved a checkpoint.
    """
    folder = Path(config.run.folder)
    config, store, plan = _check(config)
    if (folder / RUN_FILE).is_file():
        log.info("%s is finished: nothing to do", folder)
        return folder
    objective, tokenizer, data = _build(config, store, plan)
    claim(config, store, folder)

    train = config.train
    data_wait = DataWait()
    metrics = Metrics(plan, train.log_every, data_wait, train.peak_flops)
    checkpoints = Checkpoints(folder / "checkpoints", plan, train.keep_checkpoints, metrics)
    callbacks: list[Callback] = [metrics, checkpoints]
    if plan.samples_every:
        from phf.training.samples import Samples  # imports the packages for evaluation

        callbacks.append(Samples(config, plan.samples_every, store, objective.view(), tokenizer, metrics))
    if train.profile_steps:
        callbacks.append(Profile(folder / "profile", train.profile_steps))
    metrics_file = MetricsFile(folder / "metrics.csv", plan.tokens_per_step, train.tokens_seen)
    trainer = make_trainer(
        config,
        plan,
        folder,
        max_steps=plan.total_steps,
        loggers=loggers(train.loggers, folder, config.run.name, metrics_file),
        callbacks=callbacks,
        profiler=data_wait,
    )
    if trainer.is_global_zero:
        for what, text in describe(config, plan, objective, data):
            log.info("%s: %s", what, text)
    checkpoint = latest_checkpoint(folder / "checkpoints")
    if checkpoint is not None:
        check_checkpoint(checkpoint)
        log.info("resuming from %s", checkpoint)
    metrics_file.resume_from(0 if checkpoint is None else checkpoint_step(checkpoint))
    compile_network(config, plan, objective)
    _fit(trainer, objective, data, checkpoint)
    if trainer.is_global_zero:
        finish(config, folder, store, objective, tokenizer, plan.total_steps, checkpoints.wall_seconds)
    trainer.strategy.barrier()
    return folder


def dry_run(config: Config) -> list[tuple[str, str]]:
    """Builds everything that a run needs, trains two steps, and discards the model.

    Returns:
        A summary of the run: lines of a label and a text. Empty on all processes but the first.

    Raises:
        ConfigError: As in `pretrain`.
        PhfError: As in `pretrain`.
    """
    config, store, plan = _check(config)
    objective, _, data = _build(config, store, plan)
    data_wait = DataWait()
    metrics = Metrics(plan, 1, data_wait, config.train.peak_flops, heldout=False)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            config, plan, Path(folder), max_steps=2, loggers=[], callbacks=[metrics], profiler=data_wait
        )
        compile_network(config, plan, objective)
        _fit(trainer, objective, data, checkpoint=None)
    if not trainer.is_global_zero:
        return []
    return [*describe(config, plan, objective, data), *measured(plan, metrics.latest)]


def _check(config: Config) -> tuple[Config, TokenStore, Plan]:
    """Checks that the configuration can run here; returns it with its precision, the store, and the plan."""
    quiet_libraries()
    store = TokenStore(config.store.path)
    check_objective(config.objective)
    if config.model.start_from is None:
        configure(config.model)
    plan = make_plan(config)
    # Store the precision that `auto` chose here: the run would differ on a machine with another choice.
    config = replace(config, train=replace(config.train, precision=plan.precision))
    check_same_run(config, store, Path(config.run.folder))
    return config, store, plan


def _build(config: Config, store: TokenStore, plan: Plan) -> tuple[Objective, Any, Blocks]:
    objective, tokenizer = build(config, store, plan.optimization)
    return objective, tokenizer, training_data(config, store, objective, tokenizer, plan.micro_batch)


def _fit(trainer: L.Trainer, objective: Objective, data: Blocks, checkpoint: Path | None) -> None:
    try:
        trainer.fit(objective, data, ckpt_path=checkpoint, weights_only=True)
    except torch.OutOfMemoryError as error:
        raise PhfError(
            f"out of memory with micro-batches of {data.micro_batch} blocks: set a smaller "
            "train.micro_batch_size, model.activation_checkpointing=true or train.strategy=fsdp"
        ) from error
    except (RequeueError, NotFiniteError):
        # If a process that Lightning started ends with a nonzero code, Lightning kills the process that
        # started it.
        if trainer.local_rank > 0:
            sys.exit(0)
        raise
    except SystemExit as error:  # Lightning turns Ctrl-C into SystemExit
        raise KeyboardInterrupt from error
