"""Several processes, and the network's blocks: sharded, compiled."""

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

from objectives.base import transformer_blocks

log = logging.getLogger("phf")


class FullyShardedStrategy(ModelParallelStrategy):
    """FSDP2: every process keeps a part of all weights and of the optimizer's state.

    A checkpoint is one file, the same as without sharding: a run can go on with any strategy and any number
    of processes.
    """

    def __init__(self, processes: int):
        super().__init__(
            data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=False
        )

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        # Through `forward`, around which FSDP2 gathers the weights that are in no block.
        return self._through_forward("training_step", *args, **kwargs)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._through_forward("validation_step", *args, **kwargs)

    def _through_forward(self, step: str, *args: Any, **kwargs: Any) -> Any:
        assert self.model is not None
        assert self.lightning_module is not None
        with self.precision_plugin.train_step_context():
            return self._forward_redirection(self.model, self.lightning_module, step, *args, **kwargs)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state, on the first process, keyed as an optimizer of whole weights has it."""
        # Lightning's own numbers the weights in another order than an optimizer with two groups does.
        assert self.model is not None
        state: dict[str, Any] = get_optimizer_state_dict(
            self.model, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
        )
        number = {name: i for i, name in enumerate(self._parameter_names(optimizer))}
        return _rekeyed(state, number) if state else {}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Every process reads the file and keeps its part."""
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
        """Of the optimizer's weights, in its order."""
        assert self.model is not None
        name_of = {weight: name for name, weight in self.model.named_parameters()}
        return [name_of[weight] for group in optimizer.param_groups for weight in group["params"]]


def _rekeyed(state: dict[str, Any], key: Mapping[Any, Any]) -> dict[str, Any]:
    """The state of an optimizer with other keys for its weights."""
    return {
        "state": {key[weight]: values for weight, values in state["state"].items()},
        "param_groups": [
            {**group, "params": [key[weight] for weight in group["params"]]}
            for group in state["param_groups"]
        ],
    }


def strategy(name: Literal["ddp", "fsdp"], processes: int) -> str | FullyShardedStrategy:
    """Lightning's strategy for so many processes."""
    if processes == 1:
        return "auto"
    return FullyShardedStrategy(processes) if name == "fsdp" else "ddp"


def compile_blocks(model: PreTrainedModel) -> None:
    """Compiles the transformer blocks of a model, in place; the names of its weights stay.

    Not the network as a whole: blocks are alike, so that one is compiled and not twelve; and the mask of
    attention is made outside, where it can be left out for the causal one that kernels know by themselves.
    What cannot be compiled runs as it is, with a warning.
    """
    for block in transformer_blocks(model) or [model.base_model]:
        block.compile(backend=_inductor_or_eager)


def _inductor_or_eager(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    """The default compiler; where it fails, the graph as it is."""
    from torch._dynamo.backends.registry import lookup_backend

    try:
        # The backward pass too, now: when it is needed it would be too late to go on without.
        with torch._functorch.config.patch(force_non_lazy_backward_lowering=True):
            return lookup_backend("inductor")(graph, inputs)
    except RestartAnalysis:  # no failure: it is traced again, with what has been found out
        raise
    except Exception as error:
        _warn(str(error).strip().partition("\n")[0])
        return graph.forward


@cache
def _warn(reason: str) -> None:
    """Once, and not for every graph of a block."""
    log.warning("model.compile: this machine cannot, the run goes on without: %s", reason)
