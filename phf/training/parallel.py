"""Sets up training on several processes: sharding and compiling of the transformer blocks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch._dynamo.exc import RestartAnalysis
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer
from transformers import PreTrainedModel

from objectives.engine import transformer_blocks

log = logging.getLogger("phf")


class FullyShardedStrategy(ModelParallelStrategy):
    """FSDP2: every process keeps a part of the weights and of the optimizer state.

    A checkpoint is one file, the same as without sharding. A run can therefore resume with any strategy and
    any number of processes.
    """

    def __init__(self, processes: int):
        super().__init__(
            data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=False
        )

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        # The step runs through `forward`, where FSDP2 gathers the weights outside of the blocks.
        return self._through_forward("training_step", *args, **kwargs)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._through_forward("validation_step", *args, **kwargs)

    def _through_forward(self, step: str, *args: Any, **kwargs: Any) -> Any:
        assert self.model is not None
        assert self.lightning_module is not None
        with self.precision_plugin.train_step_context():
            return self._forward_redirection(self.model, self.lightning_module, step, *args, **kwargs)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Returns the whole state on the first process, with the keys of an optimizer without sharding."""
        # Lightning's own method numbers the weights in another order than an optimizer with two groups.
        assert self.model is not None
        state: dict[str, Any] = get_optimizer_state_dict(
            self.model, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
        )
        number = {name: i for i, name in enumerate(self._parameter_names(optimizer))}
        return _rekeyed(state, number) if state else {}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads a checkpoint; every process reads the file and keeps its part."""
        checkpoint: dict[str, Any] = torch.load(
            Path(self.broadcast(checkpoint_path)), map_location="cpu", mmap=True, weights_only=weights_only
        )
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, checkpoint["state_dict"], options=options)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            name = dict(enumerate(self._parameter_names(optimizer)))
            set_optimizer_state_dict(self.model, optimizer, _rekeyed(state, name), options=options)
        return checkpoint

    def _parameter_names(self, optimizer: Optimizer) -> list[str]:
        """Returns the names of the optimizer's weights, in the optimizer's order."""
        assert self.model is not None
        name_of = {weight: name for name, weight in self.model.named_parameters()}
        return [name_of[weight] for group in optimizer.param_groups for weight in group["params"]]


def _rekeyed(state: dict[str, Any], key: Mapping[Any, Any]) -> dict[str, Any]:
    """Returns the state of an optimizer with its weights' keys replaced by `key[old]`."""
    return {
        "state": {key[weight]: values for weight, values in state["state"].items()},
        "param_groups": [
            {**group, "params": [key[weight] for weight in group["params"]]}
            for group in state["param_groups"]
        ],
    }


def strategy(name: Literal["ddp", "fsdp"], processes: int) -> str | FullyShardedStrategy:
    """Returns Lightning's strategy for this number of processes."""
    if processes == 1:
        return "auto"
    return FullyShardedStrategy(processes) if name == "fsdp" else "ddp"


def compile_blocks(model: PreTrainedModel) -> None:
    """Compiles the transformer blocks of a model in place. The names of the weights do not change.

    The network is not compiled as a whole, for two reasons. The blocks are alike, so compiling one is enough.
    And outside the compiled code, `transformers` can leave out the attention mask where it is causal, because
    kernels have a causal mode. A block that cannot be compiled runs uncompiled, with a warning.
    """
    for block in transformer_blocks(model) or [model.base_model]:
        block.compile(backend=_inductor_or_eager)


def _inductor_or_eager(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    """Compiles with the default compiler; returns the graph uncompiled if the compiler fails."""
    from torch._dynamo.backends.registry import lookup_backend

    try:
        # The backward pass is compiled now too: once the pass runs, a failure could no longer be handled.
        with torch._functorch.config.patch(force_non_lazy_backward_lowering=True):
            return lookup_backend("inductor")(graph, inputs)
    except RestartAnalysis:  # not a failure: dynamo traces the graph again with what it has learned
        raise
    except Exception as error:
        _warn(str(error).strip().partition("\n")[0])
        return graph.forward


@cache
def _warn(reason: str) -> None:
    """Warns once, and not for every graph of a block."""
    log.warning("model.compile: compiling fails on this machine, the run continues without it: %s", reason)
