"""The fused head against the plain head and against float64, with an objective that uses everything."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from objectives.head import CPU_CHUNK_BYTES, chunk_size, fused_head, plain_head

N, D, V = 37, 16, 53


def weighted(logp: Tensor, score: Tensor, value: Tensor) -> Tensor:
    """Non-uniform weights, a term that is not linear in logp, and a term in the value."""
    p = logp.exp()
    return -(score * 3 - 1).exp() * logp + 0.3 * score * p.square() + (score + value).square() * (1 + logp)


def inputs(dtype: torch.dtype, *, bias: bool, seed: int = 0) -> dict[str, Tensor | None]:
    g = torch.Generator().manual_seed(seed)
    return {
        "hidden": torch.randn(N, D, generator=g).to(dtype).requires_grad_(),
        "weight": (torch.randn(V, D, generator=g) * 0.5).to(dtype).requires_grad_(),
        "bias": torch.randn(V, generator=g).to(dtype).requires_grad_() if bias else None,
        "value": (-torch.rand(N, generator=g))
        .to(torch.float64 if dtype == torch.float64 else torch.float32)
        .requires_grad_(),
        "labels": torch.randint(V, (N,), generator=g),
        "score": torch.rand(N, generator=g),
        "mask": torch.rand(N, generator=g) > 0.3,
    }


def run(head, x, token_loss=weighted, **options):
    loss, logp = head(
        x["hidden"], x["weight"], x["labels"], token_loss,
        score_N=x["score"], value_N=x["value"], mask_N=x["mask"], bias_V=x["bias"], **options,
    )  # fmt: skip
    (loss * 0.125).backward()
    grads = [x[k].grad for k in ("hidden", "weight", "bias", "value") if x[k] is not None]
    return loss.detach(), logp, grads


def reference(x, token_loss=weighted):
    """The same from the definition, in float64, without either head."""
    y = {k: v if v is None else v.detach().double() if v.is_floating_point() else v for k, v in x.items()}
    for k in ("hidden", "weight", "bias", "value"):
        if y[k] is not None:
            y[k].requires_grad_()
    logits = y["hidden"] @ y["weight"].T + (0 if y["bias"] is None else y["bias"])
    logp = torch.stack(
        [torch.log_softmax(row, -1)[label] for row, label in zip(logits, y["labels"], strict=True)]
    )
    loss = token_loss(logp, y["score"], y["value"])[y["mask"]].sum()
    (loss * 0.125).backward()
    return (
        loss.detach(),
        logp.detach(),
        [y[k].grad for k in ("hidden", "weight", "bias", "value") if y[k] is not None],
    )


@pytest.mark.parametrize("head", [fused_head, plain_head])
@pytest.mark.parametrize("bias", [False, True])
def test_float32_agrees_with_float64(head, bias):
    x = inputs(torch.float32, bias=bias)
    loss, logp, grads = run(head, x)
    loss64, logp64, grads64 = reference(x)
    torch.testing.assert_close(loss.double(), loss64, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logp.double(), logp64, rtol=1e-5, atol=1e-5)
    for grad, grad64 in zip(grads, grads64, strict=True):
        torch.testing.assert_close(grad.double(), grad64, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk_tokens", [1, 7, 36, 37, 1000])
def test_the_chunk_size_does_not_matter(chunk_tokens):
    loss, logp, grads = run(fused_head, inputs(torch.float32, bias=True), chunk_tokens=chunk_tokens)
    loss_plain, logp_plain, grads_plain = run(plain_head, inputs(torch.float32, bias=True))
    torch.testing.assert_close(loss, loss_plain)
    torch.testing.assert_close(logp, logp_plain)
    for grad, grad_plain in zip(grads, grads_plain, strict=True):
        torch.testing.assert_close(grad, grad_plain, rtol=1e-4, atol=1e-6)


def test_bfloat16_under_autocast_is_as_exact_as_the_plain_head():
    def error(head, **options):
        x = inputs(torch.float32, bias=False)
        with torch.autocast("cpu", torch.bfloat16):
            loss, logp, grads = run(head, x, **options)
        assert logp.dtype == loss.dtype == torch.float32
        assert all(grad.dtype == torch.float32 for grad in grads)
        _, logp64, grads64 = reference(x)
        pairs = zip([logp, *grads], [logp64, *grads64], strict=True)
        return [float((a - b).norm() / b.norm()) for a, b in pairs]

    # The last chunk is smaller than the buffers that all share.
    for fused, plain in zip(error(fused_head, chunk_tokens=10), error(plain_head), strict=True):
        assert fused < 0.02
        assert fused < 1.5 * plain + 1e-3


def test_a_chunk_is_as_large_as_its_memory_allows():
    cpu = torch.device("cpu")
    assert 4 * 50257 * chunk_size(50257, cpu) <= CPU_CHUNK_BYTES < 4 * 50257 * (chunk_size(50257, cpu) + 1)
    assert chunk_size(10**7, cpu) == 64  # never so few that the products are slow


def test_no_memory_grows_with_tokens_and_vocabulary():
    """But the gradients, and log-probabilities: whatever is allocated for logits is so for one chunk."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.numel())
            return result

    with Watch():
        run(fused_head, inputs(torch.float32, bias=False), chunk_tokens=5)
    assert largest == V * D  # the gradient of the weight


def test_bfloat16_weights():
    x = inputs(torch.bfloat16, bias=True)
    _, _, grads = run(fused_head, x)
    _, _, grads64 = reference(x)
    for grad, grad64, dtype in zip(grads, grads64, [torch.bfloat16] * 3 + [torch.float32], strict=True):
        assert grad.dtype == dtype
        assert float((grad - grad64).norm() / grad64.norm()) < 0.02


def test_the_loss_is_float32_whatever_the_default_type():
    x = inputs(torch.bfloat16, bias=False)
    torch.set_default_dtype(torch.bfloat16)
    try:
        loss, logp, _ = run(fused_head, x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert loss.dtype == logp.dtype == torch.float32


def test_float16_gradients_do_not_underflow():
    """A loss that is divided by many tokens and scaled up again, as with a gradient scaler."""
    x = inputs(torch.float32, bias=False)
    x16 = {k: v.detach().half().requires_grad_() if k in ("hidden", "weight") else v for k, v in x.items()}
    loss, _ = fused_head(
        x16["hidden"], x16["weight"], x16["labels"], weighted,
        score_N=x16["score"], value_N=x16["value"], mask_N=x16["mask"],
    )  # fmt: skip
    (loss / 1e6 * 65536).backward()
    _, _, grads64 = reference(x)
    expected = grads64[0] / 0.125 / 1e6 * 65536
    assert float((x16["hidden"].grad - expected).norm() / expected.norm()) < 0.01


@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_weights(tied):
    def gradients(head):
        torch.manual_seed(1)
        embedding, output = nn.Embedding(V, D), nn.Linear(D, V, bias=False)
        if tied:
            output.weight = embedding.weight
        ids, labels = torch.randint(V, (2, N))
        ones = torch.ones(N)
        loss, _ = head(
            embedding(ids).tanh(), output.weight, labels, weighted,
            score_N=ones * 0.2, value_N=-ones, mask_N=ones > 0,
        )  # fmt: skip
        loss.backward()
        return embedding.weight.grad, output.weight.grad

    for fused, plain in zip(gradients(fused_head), gradients(plain_head), strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)


def test_masked_tokens_have_no_influence():
    x = inputs(torch.float32, bias=False)
    x["mask"] = torch.arange(N) < 20
    loss, _, grads = run(fused_head, x)
    short = inputs(torch.float32, bias=False)
    short = {
        k: v if v is None or k in ("weight", "bias") else v.detach()[:20].requires_grad_(v.requires_grad)
        for k, v in short.items()
    }
    short["mask"] = torch.ones(20, dtype=torch.bool)
    loss_short, _, grads_short = run(fused_head, short)
    torch.testing.assert_close(loss, loss_short)
    torch.testing.assert_close(grads[0][:20], grads_short[0])
    assert not grads[0][20:].any()
    torch.testing.assert_close(grads[1], grads_short[1])


def test_all_tokens_masked_give_zero():
    x = inputs(torch.float32, bias=False)
    x["mask"] = torch.zeros(N, dtype=torch.bool)
    loss, _, grads = run(fused_head, x)
    assert loss == 0
    assert not any(grad.any() for grad in grads)


def test_log_probabilities_have_no_gradient_and_no_grad_mode_works():
    x = inputs(torch.float32, bias=False)
    arguments = (x["hidden"], x["weight"], x["labels"], weighted)
    options = {"score_N": x["score"], "value_N": x["value"], "mask_N": x["mask"]}
    loss, logp = fused_head(*arguments, **options)
    assert loss.requires_grad
    assert not logp.requires_grad
    with torch.no_grad():
        same, _ = fused_head(*arguments, **options)
    assert not same.requires_grad
    assert same == loss


def test_no_grad_mode_computes_no_gradient():
    x = inputs(torch.float32, bias=False)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        fused_head(
            x["hidden"], x["weight"], x["labels"], weighted,
            score_N=x["score"], value_N=x["value"], mask_N=x["mask"],
        )  # fmt: skip
    assert flops.get_total_flops() == 2 * N * D * V


def test_large_logits_stay_finite():
    x = inputs(torch.float32, bias=False)
    with torch.no_grad():
        x["hidden"] *= 300
    loss, _, grads = run(fused_head, x, token_loss=lambda logp, score, value: -logp)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(grad).all() for grad in grads if grad is not None)
