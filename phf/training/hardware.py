"""From the configuration to the machine: devices, precision, micro-batches, compilation."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.plugins import HalfPrecision as LightningHalfPrecision

from objectives import Objective
from phf.config import Config, TrainConfig
from phf.errors import ConfigError
from phf.model.build import can_compile


class HalfPrecision(LightningHalfPrecision):
    """All weights in bfloat16, and the scores as they are: a threshold needs their digits."""

    def convert_input(self, data: Any) -> Any:
        return data


def devices(train: TrainConfig) -> tuple[int, str]:
    accelerator = train.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("train.accelerator is gpu, and torch finds no GPU on this machine")
    if accelerator not in ("cpu", "gpu"):
        raise ConfigError(f"train.accelerator must be auto, cpu or gpu, not {accelerator!r}")
    if train.devices == "auto":
        return (torch.cuda.device_count() if accelerator == "gpu" else 1), accelerator
    if train.devices < 1:
        raise ConfigError(f"train.devices must be at least 1, not {train.devices}")
    return train.devices, accelerator


def micro_batch_size(train: TrainConfig, processes: int) -> int:
    if train.batch_size % processes:
        raise ConfigError(
            f"train.batch_size: {train.batch_size} blocks cannot be shared by {processes} processes"
        )
    share = train.batch_size // processes
    if share % (train.micro_batch_size or share):
        raise ConfigError(
            f"train.micro_batch_size: {train.micro_batch_size} does not divide the {share} of a process"
        )
    return train.micro_batch_size or share


def precision_of(train: TrainConfig, accelerator: str) -> Any:
    if train.precision != "auto":
        return train.precision
    if accelerator == "gpu":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    # Twice as fast on a CPU with bfloat16 instructions, slower than float32 on one without.
    native = {"avx512_bf16", "amx_bf16", "sve_bf16"} & {
        k for k, v in torch.cpu.get_capabilities().items() if v
    }
    return "bf16-mixed" if native else "32-true"


def compile_network(config: Config, objective: Objective, total_steps: int) -> None:
    """Compiles the inner network (not the Lightning module, whose logging cannot be compiled)."""
    wanted = config.model.compile
    # Compiling takes about a minute: not worth it for a short run.
    if not wanted or (wanted == "auto" and (total_steps < 200 or not can_compile())):
        return
    objective.model.base_model.compile()
