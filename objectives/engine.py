"""Implements the engine of every objective: a Lightning module that trains a causal language model.

The engine runs the network, shards the weights, seeds dropout, sets up the optimizer, clips gradients, checks
that losses and gradients are finite, and sums up the losses that are logged. The loss of a batch is
`head_loss`. The two kinds of objectives define it: `objectives.token` (a loss for each token) and
`objectives.sequence` (a loss for whole sequences).

A batch is a dictionary of tensors, B blocks of T predictions::

    tokens       int64   [B, T + 1]   each position predicts the next one
    scores       float32 [B, T + 1]   score of each token's segment; NaN if it could not be scored
    mask         bool    [B, T]       targets that count: no padding, and in held-out text no control token
    step_tokens  float                divisor of the losses: the number of targets that count in the whole
                                      optimizer step, over all devices
    positions    int64   [B, T]       position in the document; only if attention must not cross documents
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NotRequired, TypedDict

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from objectives.head import fused_head, plain_head
from objectives.optimization import Optimization
from objectives.rewards import ScoreStatistics
from objectives.view import View


class Batch(TypedDict):
    """A batch; the module's docstring lists the fields."""

    tokens: Tensor
    scores: Tensor
    mask: Tensor
    step_tokens: float
    positions: NotRequired[Tensor]


@dataclass(frozen=True)
class Needs:
    """What an objective needs to know about the scores of its corpus.

    Attributes:
        scores: Whether the objective needs scores at all.
        threshold: What the threshold is compared with: the scores of `segments`, or the mean scores of
            `documents`. `None` if the objective needs no threshold.
        levels: Whether the objective accepts several thresholds, in ascending order.
        statistics: Whether the objective needs `ScoreStatistics`.
    """

    scores: bool = True
    threshold: Literal["segments", "documents"] | None = None
    levels: bool = False
    statistics: bool = False


@dataclass
class NoOptions:
    """The options of an objective that has none."""


class Objective(L.LightningModule):
    """A causal language model together with its training objective.

    Args:
        model: A `transformers` causal language model.
        options: An instance of `Options`; `None` for the default options.
        thresholds: Scores up to the first threshold are good. The held-out loss is split there, or at 0 if
            there is no threshold.
        statistics: The distribution of the corpus scores.
        optimization: How the weights are updated; needed only for training.
        head: `fused` or `plain`; see `objectives.head`. Both compute the same loss.
        seed: Decides dropout, together with the step and the process.

    Raises:
        ValueError: The model's logits are not one linear function of its last hidden state, or the options
            contradict the thresholds or the statistics.
    """

    name: ClassVar[str]
    Options: ClassVar[type] = NoOptions
    """A dataclass of the objective's own options, with a sentence under each field."""
    trunk_outputs: ClassVar[tuple[str, ...]] = ()
    """Outputs of the network that `auxiliary_loss` needs besides the last hidden state: `hidden_states`,
    `attentions`."""
    NEVER: ClassVar[int] = 2**62
    """Value of `first_not_finite` while all losses and gradients have been finite."""

    def __init__(
        self,
        model: PreTrainedModel,
        options: Any = None,
        *,
        thresholds: tuple[float, ...] = (),
        statistics: ScoreStatistics | None = None,
        optimization: Optimization | None = None,
        head: Literal["fused", "plain"] = "fused",
        seed: int = 0,
    ):
        super().__init__()
        self.model = model
        self.options = self.Options() if options is None else options
        self.thresholds = thresholds
        self.statistics = statistics
        self.optimization = optimization
        self.head = fused_head if head == "fused" else plain_head
        self.seed = seed
        needs = self.needs(self.options)
        if needs.threshold and not thresholds:
            raise ValueError(f"{self.name} needs a threshold")
        if needs.statistics and statistics is None:
            raise ValueError(f"{self.name} needs the statistics of the corpus with these options")
        if not _head_is_linear(model):
            raise ValueError(
                f"{type(model).__name__} does more to its logits than one linear layer, "
                "and its loss cannot be computed from the last hidden state"
            )
        # Sums over the current optimizer step: (loss, -log p).
        self.step_sums = torch.zeros(2)
        # Sums (-log p, tokens) over all held-out text, its aligned part and its misaligned part.
        self.heldout_sums = torch.zeros(3, 2, dtype=torch.float64)
        self.gradient_norm = torch.zeros(())
        # Number of the first micro-batch of the run whose loss [0] or gradient [1] is not finite, counted
        # over all processes.
        self.first_not_finite = torch.full((2,), self.NEVER)

    @classmethod
    def needs(cls, options: Any) -> Needs:
        """Returns what the objective needs to know about the scores, given these options."""
        return Needs()

    @property
    def threshold(self) -> float | None:
        """The first threshold; `None` if there is none."""
        return self.thresholds[0] if self.thresholds else None

    def view(self) -> View:
        """Returns which documents and control tokens the model sees; by default every document, unchanged."""
        return View()

    def head_loss(self, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Computes the sum of the losses of a batch, and the log-probability of every target.

        Args:
            hidden: Last hidden states [B, T, D].
            batch: The batch.

        Returns:
            The sum, a float32 scalar, and the log-probabilities, float32 [B, T] without gradient.
        """
        raise NotImplementedError

    def auxiliary_loss(self, trunk: ModelOutput, batch: Batch) -> Tensor | None:
        """Computes a loss on the network's outputs, which is added to the loss of the head.

        Args:
            trunk: The network's output: `last_hidden_state`, and the outputs that `trunk_outputs` names.
            batch: The batch.

        Returns:
            A scalar, the sum over the targets of the batch. `None` for an objective without auxiliary loss.
        """
        return None

    def configure_model(self) -> None:
        """Shards the weights over the processes if the trainer's strategy has a device mesh (FSDP2)."""
        if self.device_mesh is None or isinstance(self, FSDPModule):
            return
        mesh = self.device_mesh["data_parallel"]
        for block in transformer_blocks(self.model):
            fully_shard(block, mesh=mesh)
        # Embedding, head and value head stay gathered during a training step: the fused head needs them.
        fully_shard(self, mesh=mesh, reshard_after_forward=False)

    def trunk(self, batch: Batch) -> ModelOutput:
        """Runs the network, without its head, on the inputs of a batch."""
        # A compiled network expects rows that follow each other in memory.
        inputs = batch["tokens"][:, :-1].contiguous()
        # `transformers` keeps attention from crossing the places where positions restart.
        positions = {"position_ids": batch["positions"]} if "positions" in batch else {}
        more = {f"output_{name}": True for name in self.trunk_outputs}
        output: ModelOutput = self.model.base_model(inputs, use_cache=False, **positions, **more)
        return output

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Computes the sum of all losses of a batch, and the log-probability of every target [B, T]."""
        trunk = self.trunk(batch)
        loss, logp = self.head_loss(trunk.last_hidden_state, batch)
        extra = self.auxiliary_loss(trunk, batch)
        return loss if extra is None else loss + extra, logp

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout depends only on (seed, step, micro-batch, process), so a resumed run repeats the same masks.
        micro_batch = batch_idx % self.trainer.accumulate_grad_batches
        torch.manual_seed(hash((self.seed, self.global_step, micro_batch, self.global_rank)) % 2**63)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss_sum, logp = self.losses(batch)
        loss = loss_sum / batch["step_tokens"]
        nll = -logp.where(batch["mask"], 0).sum() / batch["step_tokens"]
        self.step_sums = self.step_sums.to(self.device) + torch.stack((loss.detach(), nll))
        self._note(0, loss.detach(), batch_idx * self.trainer.world_size + self.trainer.global_rank)
        # The loss is already divided by the tokens of the whole step. This undoes two further divisions:
        # Lightning's by the micro-batches of a step, and DDP's by the processes.
        return loss * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def _note(self, which: int, number: Tensor, micro_batch: int) -> None:
        """Records, on the device, the first micro-batch in which a number is not finite."""
        first = self.first_not_finite = self.first_not_finite.to(self.device)
        first[which] = first[which].where(number.isfinite() | (first[which] < micro_batch), micro_batch)

    def on_validation_epoch_start(self) -> None:
        self.heldout_sums = torch.zeros(3, 2, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        _, logp = self.losses(batch)
        mask, scores = batch["mask"], batch["scores"][:, 1:]
        threshold = 0.0 if self.threshold is None else self.threshold
        # Unscored tokens (NaN) are in neither part: both comparisons are false for them.
        for part, counted in enumerate((mask, mask & (scores <= threshold), mask & (scores > threshold))):
            self.heldout_sums[part, 0] -= logp.where(counted, 0).double().sum()
            self.heldout_sums[part, 1] += counted.sum()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        assert self.optimization is not None, "an objective that is trained needs `optimization`"
        # Gradients are clipped before the step, but fused AdamW unscales 16-bit gradients only inside it.
        fused = self.trainer.precision != "16-mixed"
        optimizer = self.optimization.build(self, fused=fused)
        schedule = LambdaLR(optimizer, self.optimization.factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        # Lightning's own clipping refuses a fused optimizer. The norm is also needed for the log.
        assert self.optimization is not None
        limit = self.optimization.gradient_clip
        norm = nn.utils.clip_grad_norm_(self.parameters(), float("inf") if limit is None else limit)
        self.gradient_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if self.trainer.precision != "16-mixed":  # with 16-mixed, the scaler handles overflows
            step_start = self.global_step * self.trainer.accumulate_grad_batches * self.trainer.world_size
            self._note(1, self.gradient_norm, step_start)


def transformer_blocks(model: PreTrainedModel) -> list[nn.Module]:
    """Returns the transformer blocks of a model, from first to last."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@torch.no_grad()
def _head_is_linear(model: PreTrainedModel) -> bool:
    """Whether the logits are one linear function of the last hidden state (no scaling, no soft cap)."""
    output = model.get_output_embeddings()
    training = model.training
    model.eval()
    inputs = torch.zeros((1, 2), dtype=torch.long, device=model.device)
    hidden = model.base_model(inputs, use_cache=False).last_hidden_state
    logits = model(inputs, use_cache=False).logits
    model.train(training)
    # The comparison below would miss a soft cap: it is nearly linear close to 0, where the logits of an
    # untrained model are.
    if not isinstance(output, torch.nn.Linear) or getattr(model.config, "final_logit_softcapping", None):
        return False
    return bool((output(hidden) - logits).abs().max() <= 1e-2 * logits.abs().max())
