"""The network of a run, block by block: compiled, and sharded over processes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

log = logging.getLogger("phf")


def compile_blocks(model: PreTrainedModel) -> None:
    """Compiles the transformer blocks of a model, in place; their names stay.

    Not the network as a whole: blocks are alike, so that one is compiled and not twelve; and the mask of
    attention is made outside, where it can be left out for the causal one that kernels know by themselves.
    What cannot be compiled runs as it is, with a warning.
    """
    for block in transformer_blocks(model):
        block.compile(backend=_inductor_or_eager)


def transformer_blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The layers of a model, first to last; the network as one if it has none that are known."""
    blocks = [
        module for module in model.base_model.modules() if isinstance(module, GradientCheckpointingLayer)
    ]
    return blocks or [model.base_model]


def _inductor_or_eager(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    """torch's default compiler, or, where it fails, the graph as it is."""
    from torch._dynamo.backends.registry import lookup_backend

    try:
        # The backward pass too, now: when it is needed it would be too late to go on without.
        with torch._functorch.config.patch(force_non_lazy_backward_lowering=True):
            return lookup_backend("inductor")(graph, inputs)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        log.warning("model.compile: this machine cannot, the run goes on without: %s", reason)
        return graph.forward
