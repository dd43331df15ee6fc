"""The verb `pretrain`: a token store in, a run folder with an exported model out."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Callback
from transformers.utils.logging import disable_progress_bar

from objectives import Objective
from phf.config import Config
from phf.data.module import Blocks
from phf.data.store import TokenStore
from phf.errors import ConfigError, PhfError
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
from phf.training.hardware import HalfPrecision, compile_network, devices, micro_batch_size, precision_of
from phf.training.logs import Metrics, MetricsFile, loggers
from phf.training.objective import objective_class
from phf.training.samples import Samples

log = logging.getLogger("phf")


def pretrain(config: Config) -> Path:
    """Trains a model, or goes on with a run that was stopped, and exports it.

    Args:
        config: The configuration; it is kept in the run folder.

    Returns:
        The run folder: `config.yaml`, `run.json`, `metrics.csv`, `checkpoints/`, `model/`.

    Raises:
        ConfigError: The configuration contradicts itself, the store, or the run in the folder.
        PhfError: Store or checkpoint cannot be used, or the loss is not finite.
        RequeueError: The run was asked to stop and has saved a checkpoint.
    """
    _quiet()
    folder = Path(config.run.folder)
    store = TokenStore(config.store.path)
    objective_class(config)
    check_same_run(config, store, folder)
    if (folder / "run.json").is_file():
        log.info("%s is finished: nothing to do", folder)
        return folder
    train = config.train
    num_devices, accelerator = devices(train)
    micro_batch = micro_batch_size(train, num_devices * train.nodes)
    tokens_per_step = train.batch_size * config.model.context_length
    total_steps = (train.tokens - train.tokens_seen) // tokens_per_step
    if total_steps < 1:
        raise ConfigError(
            f"train.tokens: {train.tokens - train.tokens_seen:,} tokens are less than one step "
            f"of {tokens_per_step:,}"
        )
    objective, tokenizer = build(config, store, total_steps)
    data = training_data(config, store, objective, tokenizer, micro_batch)
    claim(config, store, folder)

    metrics_file = MetricsFile(folder / "metrics.csv", tokens_per_step, train.tokens_seen)
    metrics = Metrics(train.log_every, train.heldout_every, tokens_per_step, total_steps)
    checkpoints = Checkpoints(folder / "checkpoints", train.checkpoint_every, train.keep_checkpoints, metrics)
    callbacks: list[Callback] = [metrics, checkpoints]
    if train.samples_every:
        callbacks.append(Samples(config, store, tokenizer, metrics))
    precision = precision_of(train, accelerator)
    plugins: list[Any] = [HalfPrecision("bf16-true")] if precision == "bf16-true" else []
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # requeueing is ours: see Checkpoints
    accumulate = train.batch_size // (micro_batch * num_devices * train.nodes)
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=num_devices,
        num_nodes=train.nodes,
        strategy="ddp" if num_devices * train.nodes > 1 else "auto",
        precision=None if precision == "bf16-true" else precision,
        plugins=plugins,
        max_steps=total_steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        num_sanity_val_steps=0,
        logger=loggers(train.loggers, folder, config.run.name, metrics_file),
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    checkpoint = latest_checkpoint(folder / "checkpoints")
    if checkpoint is not None:
        check_checkpoint(checkpoint)
        log.info("going on from %s", checkpoint)
    metrics_file.resume_from(0 if checkpoint is None else checkpoint_step(checkpoint))
    compile_network(config, objective, total_steps)
    _fit(trainer, objective, data, checkpoint)
    if trainer.is_global_zero:
        finish(config, folder, store, objective, tokenizer, total_steps, checkpoints.wall_seconds)
    trainer.strategy.barrier()
    return folder


def _quiet() -> None:
    """Of the libraries only what a user can act on; Lightning sets its own levels when it is imported."""
    disable_progress_bar()  # one for every file of weights
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers",
        ".*LeafSpec",
        ".*resuming from a checkpoint that ended",
        ".*`srun` command is available",  # one process is meant, on a node where SLURM is
    ):
        warnings.filterwarnings("ignore", message=message)


def _fit(trainer: L.Trainer, objective: Objective, data: Blocks, checkpoint: Path | None) -> None:
    try:
        trainer.fit(objective, data, ckpt_path=checkpoint, weights_only=True)
    except torch.OutOfMemoryError as error:
        raise PhfError(f"out of memory: set train.micro_batch_size below {data.micro_batch}") from error
    except RequeueError:
        # Lightning kills the process that started the others when one of them ends with another code.
        if trainer.local_rank > 0:
            sys.exit(0)
        raise
    except SystemExit as error:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from error
