"""Converts a configuration into step counts, batch sizes and a device layout for this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from objectives.optimization import Optimization
from phf.base.errors import ConfigError
from phf.config import Config, TrainConfig
from phf.config.checks import parse_span
from phf.training.profile import SKIPPED_STEPS


@dataclass(frozen=True)
class Plan:
    """The step counts, batch sizes and device layout of a run.

    Attributes:
        total_steps: Optimizer steps of the run.
        context_length: Tokens in a block.
        tokens_seen: Tokens that the model has seen before the run.
        tokens_per_step: Tokens in an optimizer step, over all devices.
        accelerator: `cpu` or `gpu`.
        devices: Devices on each node (on CPU: processes).
        processes: Processes on all nodes.
        precision: Lightning's name of the precision.
        micro_batch: Blocks in a forward pass.
        accumulate: Forward passes of a device in an optimizer step.
        optimization: How the weights are updated.
        heldout_every: Steps between two measurements of the held-out loss; `None` for twenty in a run.
        samples_every: Steps between two batches of samples; `None` for never.
        checkpoint_every: Steps between two checkpoints; `None` for ten in a run.
    """

    total_steps: int
    context_length: int
    tokens_seen: int
    tokens_per_step: int
    accelerator: str
    devices: int
    processes: int
    precision: Any
    micro_batch: int
    accumulate: int
    optimization: Optimization
    heldout_every: int | None
    samples_every: int | None
    checkpoint_every: int | None


def make_plan(config: Config) -> Plan:
    """Makes the plan of a configuration.

    Raises:
        ConfigError: The token budget is too small for one step, or for warm-up and decay. Or the machine
            lacks the devices, or the devices cannot share a step evenly.
    """
    train = config.train
    accelerator = _accelerator(train)
    devices = _devices(train, accelerator)
    processes = devices * train.nodes
    micro_batch = _micro_batch(train, processes)
    tokens_per_step = train.batch_size * config.model.context_length
    tokens = train.tokens - train.tokens_seen
    total_steps = tokens // tokens_per_step
    if total_steps < 1:
        raise ConfigError(f"train.tokens: {tokens:,} tokens are less than one step of {tokens_per_step:,}")

    if train.profile_steps and total_steps < SKIPPED_STEPS + train.profile_steps:
        raise ConfigError(
            f"train.profile_steps: {train.profile_steps} steps after {SKIPPED_STEPS} others are more than "
            f"the {total_steps} of the run"
        )

    def steps(span: float | str) -> int:
        number, unit = parse_span(span)
        return round({"share": number * total_steps, "tokens": number / tokens_per_step}.get(unit, number))

    def every(span: float | str | None) -> int | None:
        return max(1, steps(f"{span} steps" if isinstance(span, int) else span)) if span else None

    warmup_steps, decay_steps = steps(train.warmup), steps(train.decay)
    fall = decay_steps if train.schedule == "wsd" else 0
    if warmup_steps + fall > total_steps:
        options = "train.warmup and decay: " if fall else "train.warmup: "
        raise ConfigError(
            f"{options}{warmup_steps + fall:,} steps are more than the {total_steps:,} of the run"
        )
    optimization = Optimization(
        total_steps=total_steps,
        learning_rate=train.learning_rate,
        schedule=train.schedule,
        warmup_steps=warmup_steps,
        decay_steps=decay_steps,
        decay_shape=train.decay_shape,
        minimum=train.min_learning_rate,
        weight_decay=train.weight_decay,
        decay_embeddings=train.decay_embeddings,
        betas=(train.betas[0], train.betas[1]),
        gradient_clip=train.gradient_clip,
    )
    return Plan(
        total_steps=total_steps,
        context_length=config.model.context_length,
        tokens_seen=train.tokens_seen,
        tokens_per_step=tokens_per_step,
        accelerator=accelerator,
        devices=devices,
        processes=processes,
        precision=_precision(train, accelerator),
        micro_batch=micro_batch,
        accumulate=train.batch_size // (micro_batch * processes),
        optimization=optimization,
        heldout_every=every(train.heldout_every),
        samples_every=every(train.samples_every),
        checkpoint_every=every(train.checkpoint_every),
    )


def _accelerator(train: TrainConfig) -> str:
    accelerator = train.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("train.accelerator is gpu, but torch finds no GPU on this machine")
    if accelerator not in ("cpu", "gpu"):
        raise ConfigError(f"train.accelerator must be auto, cpu or gpu, not {accelerator!r}")
    return accelerator


def _devices(train: TrainConfig, accelerator: str) -> int:
    if train.devices == "auto":
        return torch.cuda.device_count() if accelerator == "gpu" else 1
    if train.devices < 1:
        raise ConfigError(f"train.devices must be at least 1, not {train.devices}")
    if accelerator == "gpu" and train.devices > torch.cuda.device_count():
        raise ConfigError(
            f"train.devices is {train.devices}, and torch finds {torch.cuda.device_count()} GPUs on this "
            "machine"
        )
    return train.devices


def _micro_batch(train: TrainConfig, processes: int) -> int:
    if train.batch_size % processes:
        raise ConfigError(
            f"train.batch_size: {train.batch_size} blocks cannot be shared by {processes} processes"
        )
    share = train.batch_size // processes
    if share % (train.micro_batch_size or share):
        raise ConfigError(
            f"train.micro_batch_size: {train.micro_batch_size} does not divide the {share} blocks per process"
        )
    return train.micro_batch_size or share


def _precision(train: TrainConfig, accelerator: str) -> Any:
    if train.precision != "auto":
        return train.precision
    if accelerator == "gpu":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    # bf16-mixed is twice as fast on a CPU with bfloat16 instructions, and slower than float32 on other CPUs.
    native = {"avx512_bf16", "amx_bf16", "sve_bf16"} & {
        k for k, v in torch.cpu.get_capabilities().items() if v
    }
    return "bf16-mixed" if native else "32-true"
