"""The output head fused with the token loss: the gradient without the tokens x vocabulary matrix.

An objective is an elementwise function of the log-probability of the token that is predicted (and of its
score, and of a predicted value). So the gradient of the loss with respect to the logits of a few tokens is
known as soon as their log-probabilities are. `fused_head` walks the tokens in chunks:

1. `logits_CV = hidden_CD @ weight_VD.T` in the compute type (bf16 under autocast), then in float32 in a
   buffer that all chunks share;
2. log-probability of each label, from the same buffer, in place: it now holds `exp(logits - max)`;
3. the token loss and its slope `c = d loss / d logp`, by autograd on the chunk's log-probabilities alone;
4. `d loss / d logits = c (onehot - softmax)`, in place in the same buffer;
5. the chunk's gradient of the hidden states, and its share of the weight's; the buffer is used again.

These are the three matrix products of the plain head, none twice, with the memory of one chunk.

*Reduction.* The function returns a sum. Dividing by a count is the caller's, so that the slopes stay of
order 1 in low precision: the factor enters in `backward`, in float32.

*Autocast.* The weight is cast once a call, not once a chunk. Log-probabilities are float32 always.

*Tied weights.* The head's share of the gradient is added to the embedding's by autograd, as usual.

Shapes: N tokens, C tokens of a chunk, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

TokenLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logp_N, score_N, value_N) -> loss_N, elementwise, differentiable in logp and value."""

CPU_CHUNK_BYTES = 2**26
GPU_CHUNK_SHARE = 1 / 64


def fused_head(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    labels_N: Tensor,
    token_loss: TokenLoss,
    *,
    score_N: Tensor,
    value_N: Tensor,
    mask_N: Tensor,
    bias_V: Tensor | None = None,
    chunk_tokens: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum of the token losses, with gradients for hidden states, weight, bias and value.

    Args:
        hidden_ND: Last hidden states, at the positions that predict.
        weight_VD: Weight of the output embedding.
        labels_N: Token to predict at each position, int64.
        token_loss: The objective.
        score_N: Score of the token that is predicted, float32.
        value_N: Value predicted at the position, float32; anything for objectives without one.
        mask_N: True where the token counts.
        bias_V: Bias of the output embedding, if it has one.
        chunk_tokens: Tokens at a time; by default see `chunk_size`.

    Returns:
        The sum over the tokens that count, a float32 scalar, and the log-probability of every label,
        float32 of shape N and without gradient.
    """
    if chunk_tokens is None:
        chunk_tokens = chunk_size(weight_VD.shape[0], hidden_ND.device)
    result: tuple[Tensor, Tensor] = _FusedHead.apply(
        hidden_ND, weight_VD, bias_V, value_N, labels_N, score_N, mask_N, token_loss, chunk_tokens,
        torch.is_grad_enabled(),
    )  # fmt: skip
    return result


def chunk_size(vocabulary: int, device: torch.device) -> int:
    """Tokens of a chunk, so that its float32 logits have the memory that they may take.

    Every chunk reads and writes the whole gradient of the weight, whatever its size: a few tokens make
    that, and not the matrix products, the work. On a CPU some hundred are enough (128 and 512 of
    GPT-2's vocabulary take the same time, to 2 %), and 64 MiB is little beside a model. A GPU computes many
    times more for each byte that it moves, so that it takes thousands: a sixty-fourth of its memory, as
    an estimate (1.25 GiB of 80 GiB: 6700 tokens of GPT-2's vocabulary).
    """
    memory: float = CPU_CHUNK_BYTES
    if device.type == "cuda":
        memory = GPU_CHUNK_SHARE * torch.cuda.get_device_properties(device).total_memory
    return max(64, int(memory) // (4 * vocabulary))


def plain_head(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    labels_N: Tensor,
    token_loss: TokenLoss,
    *,
    score_N: Tensor,
    value_N: Tensor,
    mask_N: Tensor,
    bias_V: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same as `fused_head`, through the whole matrix of logits: the reference."""
    logits_NV = F.linear(hidden_ND, weight_VD, bias_V).float()
    logp_N = logits_NV.log_softmax(-1).gather(-1, labels_N[:, None])[:, 0]
    loss_N = token_loss(logp_N, score_N, value_N)
    return loss_N.where(mask_N, 0).sum(), logp_N.detach()


class _FusedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        value_N: Tensor,
        labels_N: Tensor,
        score_N: Tensor,
        mask_N: Tensor,
        token_loss: TokenLoss,
        chunk_tokens: int,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor]:
        device = hidden_ND.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
        # `needs_input_grad` knows nothing of `no_grad`, and in here gradients are disabled always.
        needs_hidden, needs_weight, needs_bias, needs_value = (
            needed and grad_enabled for needed in ctx.needs_input_grad[:4]
        )
        with torch.autocast(device, enabled=False):
            weight = weight_VD.to(dtype)
            logp_N = torch.empty_like(labels_N, dtype=torch.float32)
            loss = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
            grad_hidden = torch.empty_like(hidden_ND, dtype=dtype) if needs_hidden else None
            grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if needs_weight else None
            grad_bias = (
                torch.zeros_like(bias_V, dtype=torch.float32) if bias_V is not None and needs_bias else None
            )
            grad_value = torch.zeros_like(value_N) if needs_value else None

            # What a matrix product writes to, in the compute type; in float32 that is the buffer itself.
            shape = min(chunk_tokens, len(labels_N)), len(weight)
            whole_buffer = torch.empty(shape, dtype=torch.float32, device=weight.device)
            whole_product = torch.empty_like(whole_buffer, dtype=dtype) if dtype != torch.float32 else None
            weight_product = torch.empty_like(weight) if dtype != torch.float32 and needs_weight else None
            for start in range(0, len(labels_N), chunk_tokens):
                chunk = slice(start, start + chunk_tokens)
                hidden, labels = hidden_ND[chunk].to(dtype), labels_N[chunk, None]
                product_CV = buffer_CV = whole_buffer[: len(labels)]
                if whole_product is not None:
                    product_CV = whole_product[: len(labels)]
                torch.mm(hidden, weight.T, out=product_CV)
                buffer_CV.copy_(product_CV)
                if bias_V is not None:
                    buffer_CV += bias_V
                label_logit = buffer_CV.gather(-1, labels)
                top = buffer_CV.amax(-1, keepdim=True)
                total = buffer_CV.sub_(top).exp_().sum(-1, keepdim=True)
                logp = (label_logit - top - total.log())[:, 0]
                logp_N[chunk] = logp
                loss_C, slope_logp, slope_value = _slopes(
                    token_loss, logp, score_N[chunk], value_N[chunk], mask_N[chunk]
                )
                loss += loss_C
                if grad_value is not None:
                    grad_value[chunk] = slope_value
                if not (needs_hidden or needs_weight or needs_bias):
                    continue
                # c (onehot - softmax); the buffer holds softmax * total.
                buffer_CV.mul_(-slope_logp[:, None] / total)
                buffer_CV.scatter_add_(-1, labels, slope_logp[:, None])
                if grad_bias is not None:
                    grad_bias += buffer_CV.sum(0)
                grad_logits = product_CV.copy_(buffer_CV)
                if grad_hidden is not None:
                    torch.mm(grad_logits, weight, out=grad_hidden[chunk])
                if grad_weight is not None:
                    if weight_product is None:
                        grad_weight.addmm_(grad_logits.T, hidden)
                    else:
                        grad_weight += torch.mm(grad_logits.T, hidden, out=weight_product)

        # Plain attributes, not saved tensors: backward scales them in place.
        ctx.gradients = grad_hidden, grad_weight, grad_bias, grad_value
        ctx.dtypes = hidden_ND.dtype, weight_VD.dtype
        ctx.mark_non_differentiable(logp_N)
        ctx.set_materialize_grads(False)
        return loss, logp_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        scale = grad_outputs[0]
        if scale is None:
            return (None,) * 10
        grad_hidden, grad_weight, grad_bias, grad_value = ctx.gradients
        ctx.gradients = None
        hidden_dtype, weight_dtype = ctx.dtypes
        if grad_hidden is not None:
            grad_hidden = grad_hidden.float().mul_(scale).to(hidden_dtype)
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(scale).to(weight_dtype)
        if grad_bias is not None:
            grad_bias = grad_bias.mul_(scale).to(weight_dtype)
        if grad_value is not None:
            grad_value = grad_value * scale
        return grad_hidden, grad_weight, grad_bias, grad_value, None, None, None, None, None, None


def _slopes(
    token_loss: TokenLoss, logp: Tensor, score: Tensor, value: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the losses of the tokens that count, and the loss's slopes in log-probability and value."""
    with torch.enable_grad():
        logp = logp.detach().requires_grad_()
        value = value.detach().requires_grad_()
        loss = token_loss(logp, score, value).where(mask, 0).sum()
        slope_logp, slope_value = torch.autograd.grad(loss, (logp, value), allow_unused=True)
    zero = torch.zeros_like
    return (
        loss.detach(),
        zero(logp) if slope_logp is None else slope_logp,
        zero(value) if slope_value is None else slope_value,
    )
