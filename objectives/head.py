"""Computes the output head fused with the token loss, without the matrix of tokens x vocabulary.

The loss of a token is an elementwise function of the log-probability of the predicted token, its score, and a
predicted value. Therefore the gradient with respect to the logits of a few tokens is known as soon as their
log-probabilities are known. `fused_head` processes the tokens in chunks:

1. Compute `logits_CV = hidden_CD @ weight_VD.T` in the compute type (bf16 under autocast), and copy it into
   a float32 buffer that all chunks share.
2. Compute the log-probability of each label in place. The buffer then holds `exp(logits - max)`.
3. Compute the token loss and its slope `c = d loss / d logp`, by autograd on the chunk's log-probabilities
   alone.
4. Compute `d loss / d logits = c (onehot - softmax)` in place in the same buffer.
5. Compute the gradient of the chunk's hidden states, and add the chunk's part to the gradient of the weight.

This takes the three matrix products of the plain head, each computed once, with the memory of one chunk.

*Reduction.* The function returns a sum; the caller divides by a count. The slopes thus stay of order 1 in low
precision: the factor enters in `backward`, in float32.

*Autocast.* The weight is cast once per call, not once per chunk. Log-probabilities are always float32.

*Tied weights.* Autograd adds the head's part of the gradient to the embedding's, as usual.

Shapes: N tokens, C tokens of a chunk, D width, V vocabulary, S sequences.
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
    """Computes the sum of the token losses, with gradients for hidden states, weight, bias and value.

    Args:
        hidden_ND: Last hidden states at the predicting positions.
        weight_VD: Weight of the output embedding.
        labels_N: Token to predict at each position, int64.
        token_loss: The loss of each token.
        score_N: Score of the predicted token, float32.
        value_N: Value predicted at the position, float32. Objectives without a value ignore it.
        mask_N: True where the token counts.
        bias_V: Bias of the output embedding, if it has one.
        chunk_tokens: Tokens in a chunk; by default `chunk_size` decides.

    Returns:
        The sum over the tokens that count, a float32 scalar, and the log-probability of every label,
        float32 [N] without gradient.
    """
    if chunk_tokens is None:
        chunk_tokens = chunk_size(weight_VD.shape[0], hidden_ND.device)
    result: tuple[Tensor, Tensor] = _FusedHead.apply(
        hidden_ND, weight_VD, bias_V, value_N, labels_N, score_N, mask_N, token_loss, chunk_tokens,
        torch.is_grad_enabled(),
    )  # fmt: skip
    return result


def chunk_size(vocabulary: int, device: torch.device) -> int:
    """Returns the number of tokens in a chunk, so that the chunk's float32 logits fit into a memory limit.

    Every chunk reads and writes the whole gradient of the weight. With few tokens in a chunk, this traffic
    takes longer than the matrix products. On a CPU a few hundred tokens suffice (chunks of 128 and 512 tokens
    take the same time within 2 %, with GPT-2's vocabulary), and the limit of 64 MiB is small beside a model.
    A GPU computes many times more for each byte that it moves, so it needs thousands of tokens. Its limit is
    an estimate, 1/64 of its memory (1.25 GiB of 80 GiB: 6700 tokens with GPT-2's vocabulary).
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
    """Computes the same as `fused_head` with the whole matrix of logits; the reference implementation."""
    logits_NV = F.linear(hidden_ND, weight_VD, bias_V).float()
    logp_N = logits_NV.log_softmax(-1).gather(-1, labels_N[:, None])[:, 0]
    loss_N = token_loss(logp_N, score_N, value_N)
    return loss_N.where(mask_N, 0).sum(), logp_N.detach()


def sequence_head(
    head: Callable[..., tuple[Tensor, Tensor]],
    hidden_ND: Tensor,
    weight_VD: Tensor,
    labels_N: Tensor,
    sequence_loss: Callable[[Tensor], Tensor],
    *,
    sequence_N: Tensor,
    num_sequences: int,
    mask_N: Tensor,
    bias_V: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes a loss on the log-probabilities of sequences, without the whole matrix of logits.

    The head runs twice over the tokens. The first pass computes the log-probability of every token, and from
    these the log-probability of every sequence. The loss has the same slope in the log-probability of a
    sequence and in the log-probability of each of its tokens. Therefore the second pass, with the token loss
    `slope * logp`, has the gradients of the loss.

    Args:
        head: `fused_head` or `plain_head`.
        hidden_ND: Last hidden states at the predicting positions.
        weight_VD: Weight of the output embedding.
        labels_N: Token to predict at each position, int64.
        sequence_loss: Maps the log-probability of each sequence, float64 [S], to a scalar.
        sequence_N: Number of the sequence that contains each token; -1 for none.
        num_sequences: S.
        mask_N: True where the token counts.
        bias_V: Bias of the output embedding, if it has one.

    Returns:
        The loss, a float32 scalar, and the log-probability of every label, float32 [N] without gradient.
    """
    counts_N = mask_N & (sequence_N >= 0)
    owner_N = sequence_N.clamp(min=0)
    nothing_N = torch.zeros_like(labels_N, dtype=torch.float32)

    def walk(token_loss: TokenLoss, slope_N: Tensor) -> tuple[Tensor, Tensor]:
        return head(
            hidden_ND, weight_VD, labels_N, token_loss,
            score_N=slope_N, value_N=nothing_N, mask_N=counts_N, bias_V=bias_V,
        )  # fmt: skip

    with torch.no_grad():
        _, logp_N = walk(lambda logp, slope, value: slope * logp, nothing_N)
        zero_S = torch.zeros(num_sequences, dtype=torch.float64, device=logp_N.device)
        logp_S = zero_S.index_add(0, owner_N, logp_N.double().where(counts_N, 0))
    with torch.enable_grad():
        loss = sequence_loss(logp_S.requires_grad_())
        (slope_S,) = torch.autograd.grad(loss, logp_S)
    surrogate, _ = walk(lambda logp, slope, value: slope * logp, slope_S[owner_N].float())
    # This has the value of the loss and the gradients of the surrogate.
    return loss.detach().float() + (surrogate - surrogate.detach()), logp_N


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
        # `needs_input_grad` ignores `no_grad`, and gradients are always disabled inside `forward`. So the
        # caller passes whether gradients are enabled.
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

            # Matrix products write to `whole_product`, in the compute type. In float32 they write to the
            # buffer itself.
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

        # These are plain attributes and not saved tensors, because `backward` scales them in place.
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
    """Returns the summed loss of the tokens that count, and its slopes in log-probability and value."""
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
