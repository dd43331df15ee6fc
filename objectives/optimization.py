"""Defines how weights are updated: AdamW, its parameter groups, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "sqrt": lambda done: 1 - math.sqrt(done),
    "square": lambda done: (1 - done) ** 2,
}
"""Functions from the completed share of the fall to the remaining share of the learning rate's height."""


@dataclass(frozen=True)
class Optimization:
    """AdamW and its schedule.

    Attributes:
        total_steps: Optimizer steps of the run.
        learning_rate: Peak learning rate.
        schedule: The learning rate after the warm-up: a `linear` or `cosine` fall over all remaining steps,
            `wsd` (constant, then a fall over the last `decay_steps`), or `constant`.
        warmup_steps: Steps in which the learning rate rises from 0 to its peak.
        decay_steps: Steps of the fall of `wsd`.
        decay_shape: The shape of the fall of `wsd`. After a share x of the fall, `linear` leaves 1 - x,
            `sqrt` leaves 1 - sqrt(x) (the best shape in Hägele et al. 2024, arXiv 2405.18392), and `square`
            leaves (1 - x)^2. The other choice is `cosine`.
        minimum: The learning rate at the end of the schedule, as a share of the peak.
        weight_decay: Weight decay of matrices; biases and norms have none.
        decay_embeddings: Whether weight decay also applies to embeddings (and to a head tied to them).
        betas: AdamW's betas.
        gradient_clip: Maximum norm of the gradient; `None` for no limit.
    """

    total_steps: int
    learning_rate: float = 5e-4
    schedule: Literal["linear", "cosine", "wsd", "constant"] = "linear"
    warmup_steps: int = 0
    decay_steps: int = 0
    decay_shape: Literal["linear", "cosine", "sqrt", "square"] = "linear"
    minimum: float = 0.0
    weight_decay: float = 0.1
    decay_embeddings: bool = True
    betas: tuple[float, float] = (0.9, 0.999)
    gradient_clip: float | None = 1.0

    def factor(self, step: int) -> float:
        """Returns the learning rate of a step (counted from 0), as a share of the peak."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        fall = self.decay_steps if self.schedule == "wsd" else self.total_steps - self.warmup_steps
        done = min(1.0, max(0.0, 1 - (self.total_steps - step) / max(1, fall)))
        shape = _SHAPES[self.decay_shape if self.schedule == "wsd" else self.schedule]
        return self.minimum + (1 - self.minimum) * shape(done)

    def build(self, module: nn.Module, *, fused: bool) -> torch.optim.AdamW:
        """Builds the optimizer of a module's parameters. A shared parameter is updated once."""
        embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}

        def decays(parameter: nn.Parameter) -> bool:
            return parameter.ndim >= 2 and (self.decay_embeddings or id(parameter) not in embeddings)

        parameters = [p for p in module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if decays(p)], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if not decays(p)], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=self.learning_rate,
            betas=self.betas,
            fused=fused,
        )
