"""How weights are updated: AdamW, its groups, and the course of the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True)
class Optimization:
    """AdamW and its schedule.

    Attributes:
        total_steps: Optimizer steps of the run.
        learning_rate: Peak.
        schedule: What follows the warm-up: a `linear` or `cosine` fall over all the steps that are left,
            `wsd` (level, then a linear fall over the last `decay_steps`), or `constant`.
        warmup_steps: Steps in which the learning rate rises from 0 to its peak.
        decay_steps: See `wsd`.
        minimum: Where the schedule ends, as a share of the peak.
        weight_decay: On matrices and embeddings; never on biases and norms.
        betas: AdamW's.
        gradient_clip: Largest norm of the gradient; `None` for no limit.
    """

    total_steps: int
    learning_rate: float = 5e-4
    schedule: Literal["linear", "cosine", "wsd", "constant"] = "linear"
    warmup_steps: int = 0
    decay_steps: int = 0
    minimum: float = 0.0
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    gradient_clip: float | None = 1.0

    def factor(self, step: int) -> float:
        """Learning rate of a step (the first is 0), as a share of the peak."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        fall = self.decay_steps if self.schedule == "wsd" else self.total_steps - self.warmup_steps
        done = min(1.0, max(0.0, 1 - (self.total_steps - step) / max(1, fall)))
        shape = 0.5 * (1 + math.cos(math.pi * done)) if self.schedule == "cosine" else 1 - done
        return self.minimum + (1 - self.minimum) * shape

    def build(self, module: nn.Module, *, fused: bool) -> torch.optim.AdamW:
        """The optimizer of a module's parameters; a shared parameter is updated once."""
        parameters = [p for p in module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=self.learning_rate,
            betas=self.betas,
            fused=fused,
        )
