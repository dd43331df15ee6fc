"""An objective: what the model sees (a view), and what each token costs (a token loss).

This module has what all objectives share. A new objective is a new file: a subclass of `Objective` with a
name, a `token_loss`, and, if the model shall not see the whole corpus as it is, a `view`.

A batch is a dictionary of tensors, B blocks of T predictions:

    tokens       int64   [B, T + 1]   a position predicts the next one
    scores       float32 [B, T + 1]   score of each token's segment; NaN: could not be scored
    mask         bool    [B, T]       targets that count: no padding, and in held-out text no control token
    step_tokens  float                targets that count in the whole optimizer step, over all devices
    positions    int64   [B, T]       place in the document; only if attention shall not cross documents
"""

from __future__ import annotations

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

from objectives.head import fused_head, plain_head
from objectives.optimization import Optimization
from objectives.view import View


class Batch(TypedDict):
    """See the module's docstring."""

    tokens: Tensor
    scores: Tensor
    mask: Tensor
    step_tokens: float
    positions: NotRequired[Tensor]


class Objective(L.LightningModule):
    """A causal language model and what it is trained for.

    Args:
        model: A `transformers` causal language model.
        optimization: How its weights are updated; needed for training only.
        head: `fused` or `plain`, see `objectives.head`; the two agree.
        threshold: Scores up to it are good; held-out loss is split at it, or at 0 if there is none.
        seed: Decides dropout, together with the step and the process.
    """

    name: ClassVar[str]
    threshold_of: ClassVar[Literal["segments", "documents"]] = "segments"
    """What the threshold is held against."""
    NEVER: ClassVar[int] = 2**62
    """In `first_not_finite`: there was none."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        optimization: Optimization | None = None,
        head: Literal["fused", "plain"] = "fused",
        threshold: float | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.model = model
        self.optimization = optimization
        self.head = fused_head if head == "fused" else plain_head
        self.threshold = threshold
        self.seed = seed
        if not _head_is_linear(model):
            raise ValueError(
                f"{type(model).__name__} does more to its logits than one linear layer, "
                "and its loss cannot be computed from the last hidden state"
            )
        # Sums of the current optimizer step (loss, -log p); of held-out text, and of what is aligned and
        # misaligned in it (-log p, tokens).
        self.step_sums = torch.zeros(2)
        self.heldout_sums = torch.zeros(3, 2, dtype=torch.float64)
        self.gradient_norm = torch.zeros(())
        # The first micro-batch of the run, over all processes, whose loss (gradient) is not finite.
        self.first_not_finite = torch.full((2,), self.NEVER)

    def view(self) -> View:
        """Which documents and control tokens the model sees; by default every document, as it is."""
        return View()

    def token_loss(self, logp: Tensor, score: Tensor, value: Tensor) -> Tensor:
        """Loss of each token, elementwise over tensors of one shape, float32.

        Args:
            logp: Log-probability of the token.
            score: Score of the token's segment, never NaN.
            value: What `value` predicted before the token.
        """
        raise NotImplementedError

    def configure_model(self) -> None:
        """Shards the weights over the processes, if the trainer's strategy has a mesh of them (FSDP2)."""
        if self.device_mesh is None or isinstance(self, FSDPModule):
            return
        mesh = self.device_mesh["data_parallel"]
        for block in transformer_blocks(self.model):
            fully_shard(block, mesh=mesh)
        # Embedding, head and value head: whole during a step of training, as the fused head needs them.
        fully_shard(self, mesh=mesh, reshard_after_forward=False)

    def value(self, hidden: Tensor) -> Tensor:
        """Predicted value at each position [..., D] -> [...], float32; zero for objectives without one."""
        return hidden.new_zeros(hidden.shape[:-1], dtype=torch.float32)

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum of the token losses of a batch, and the log-probability of every target [B, T]."""
        tokens, scores, mask = batch["tokens"], batch["scores"], batch["mask"]
        # A copy: its rows follow each other in memory, which a compiled network expects.
        inputs = tokens[:, :-1].contiguous()
        # Where positions start again, `transformers` keeps attention from crossing.
        positions = {"position_ids": batch["positions"]} if "positions" in batch else {}
        hidden = self.model.base_model(inputs, use_cache=False, **positions).last_hidden_state
        output = self.model.get_output_embeddings()
        loss, logp = self.head(
            hidden.flatten(0, 1),
            output.weight,
            tokens[:, 1:].flatten(),
            self._any_token_loss,
            score_N=scores[:, 1:].flatten(),
            value_N=self.value(hidden).flatten(),
            mask_N=mask.flatten(),
            bias_V=output.bias,
        )
        return loss, logp.view_as(mask)

    def _any_token_loss(self, logp: Tensor, score: Tensor, value: Tensor) -> Tensor:
        """The token loss; a token that could not be scored is learned as in MLE."""
        unscored = score.isnan()
        return (-logp).where(unscored, self.token_loss(logp, score.nan_to_num(0.0), value))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout is a function of (seed, step, process): a resumed run draws what it would have drawn.
        micro_batch = batch_idx % self.trainer.accumulate_grad_batches
        torch.manual_seed(hash((self.seed, self.global_step, micro_batch, self.global_rank)) % 2**63)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss_sum, logp = self.losses(batch)
        loss = loss_sum / batch["step_tokens"]
        nll = -logp.where(batch["mask"], 0).sum() / batch["step_tokens"]
        self.step_sums = self.step_sums.to(self.device) + torch.stack((loss.detach(), nll))
        self._note(0, loss.detach(), batch_idx * self.trainer.world_size + self.trainer.global_rank)
        # Lightning divides by the batches of a step and DDP by the processes; the loss is already a share.
        return loss * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def _note(self, which: int, number: Tensor, micro_batch: int) -> None:
        """Remembers, on the device, when a number was not finite for the first time."""
        first = self.first_not_finite = self.first_not_finite.to(self.device)
        first[which] = first[which].where(number.isfinite() | (first[which] < micro_batch), micro_batch)

    def on_validation_epoch_start(self) -> None:
        self.heldout_sums = torch.zeros(3, 2, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        _, logp = self.losses(batch)
        mask, scores = batch["mask"], batch["scores"][:, 1:]
        threshold = 0.0 if self.threshold is None else self.threshold
        # A comparison with NaN is false, both ways.
        for part, counted in enumerate((mask, mask & (scores <= threshold), mask & (scores > threshold))):
            self.heldout_sums[part, 0] -= logp.where(counted, 0).double().sum()
            self.heldout_sums[part, 1] += counted.sum()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        assert self.optimization is not None, "an objective that is trained needs `optimization`"
        # Fused AdamW unscales 16-bit gradients in its own step, after they have been clipped: too late.
        fused = self.trainer.precision != "16-mixed"
        optimizer = self.optimization.build(self, fused=fused)
        schedule = LambdaLR(optimizer, self.optimization.factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        # Not Lightning's own, which refuses a fused optimizer; and the norm is wanted in the log anyway.
        assert self.optimization is not None
        limit = self.optimization.gradient_clip
        norm = nn.utils.clip_grad_norm_(self.parameters(), float("inf") if limit is None else limit)
        self.gradient_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if self.trainer.precision != "16-mixed":  # there, an overflow is the scaler's normal business
            step_start = self.global_step * self.trainer.accumulate_grad_batches * self.trainer.world_size
            self._note(1, self.gradient_norm, step_start)


def transformer_blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The layers of a model, first to last."""
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
    # A soft cap is linear near 0, where the logits of an untrained model are.
    if not isinstance(output, torch.nn.Linear) or getattr(model.config, "final_logit_softcapping", None):
        return False
    return bool((output(hidden) - logits).abs().max() <= 1e-2 * logits.abs().max())
