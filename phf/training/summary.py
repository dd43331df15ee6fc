"""Describes a run in a few lines before it starts."""

from __future__ import annotations

import math
from datetime import timedelta

from objectives.engine import Objective
from phf.blocks.datamodule import Blocks
from phf.config import Config
from phf.training.flops import flops_per_token
from phf.training.plan import Plan

Lines = list[tuple[str, str]]
"""A label and a text for each line."""


def describe(config: Config, plan: Plan, objective: Objective, data: Blocks) -> Lines:
    """Returns the lines that are known before the first step."""
    train, model, view = config.train, objective.model, data.train
    flops = flops_per_token(model, plan.context_length)
    tokens = plan.total_steps * plan.tokens_per_step
    corpus = view.epoch_tokens
    heldout = data.heldout.num_tokens(0) if data.heldout else 0
    optimization = plan.optimization
    fall = f", fall {optimization.decay_steps:,} steps" if optimization.schedule == "wsd" else ""
    every = plan.checkpoint_every or max(1, plan.total_steps // 10)
    # A checkpoint holds the weights and AdamW's two moments, all in the type of the weights.
    trained = sum(p.numel() for p in objective.parameters())
    size = 3 * trained * (2 if plan.precision == "bf16-true" else 4)
    return [
        (
            "model",
            f"{model.num_parameters():,} parameters, {_unit(flops)}FLOPs per token, forward and backward",
        ),
        ("objective", f"{objective.name}, threshold {objective.threshold}"),
        (
            "data",
            f"{corpus:,} tokens in an epoch of the view, {heldout:,} held out; "
            f"the run reads {tokens / corpus:.2f} epochs",
        ),
        (
            "budget",
            f"{tokens:,} tokens = {plan.total_steps:,} steps of {plan.tokens_per_step:,} "
            f"({train.batch_size} blocks of {plan.context_length:,}), {_unit(tokens * flops)}FLOPs",
        ),
        (
            "machine",
            f"{plan.processes} x {plan.accelerator}, {plan.precision}, {plan.micro_batch} blocks per forward "
            f"pass, {plan.accumulate} forward passes per step",
        ),
        (
            "schedule",
            f"{optimization.schedule}, peak {optimization.learning_rate:g}, warm-up "
            f"{optimization.warmup_steps:,} steps{fall}",
        ),
        ("checkpoints", f"every {every:,} steps, {train.keep_checkpoints} kept, about {_unit(size)}B each"),
    ]


def measured(plan: Plan, metrics: dict[str, float]) -> Lines:
    """Returns the lines that follow from the metrics of a step.

    Args:
        plan: The plan of the run.
        metrics: The metrics of the step; see `phf.training.metrics`.
    """
    speed = metrics["train/tokens_per_second"]
    mfu = f", MFU {metrics['train/mfu']:.1%}" if "train/mfu" in metrics else ""
    seconds = plan.total_steps * plan.tokens_per_step / speed
    return [
        ("loss", f"{metrics['train/loss']:.4f}, gradient norm {metrics['train/gradient_norm']:.3g}"),
        ("speed", f"{speed:,.0f} tokens/s{mfu}, {metrics['train/data_wait']:.1%} of it waiting for data"),
        ("memory", f"{metrics['train/memory_gib']:.2f} GiB at most in one process"),
        (
            "time",
            f"about {timedelta(seconds=round(seconds))}, without held-out loss, samples and checkpoints",
        ),
    ]


def _unit(number: float) -> str:
    """Formats a number with a unit prefix, to be followed by the unit: `1.2 G`."""
    power = min(6, max(0, int(math.log10(max(number, 1)) // 3)))
    return f"{number / 1000**power:.3g} {' kMGTPE'[power].strip()}"
