"""The fused output head against the ways that others ship: time, memory, error of the gradient.

    python benchmarks/head.py                           # 4096 tokens, width 768, vocabulary 50257, float32
    python benchmarks/head.py --tokens 1024 --vocabulary 8192 --repeats 9

A call is forward and backward, with the gradients of hidden states and weight. The ways take turns in one
process; a figure is the median over the turns, a ratio that of the ratios to the plain head in each turn.
Peak memory is that of a process which does nothing but two calls, and what it was more than before them; on a
GPU (`--device cuda`, where Liger is compared too if it is installed) that of the tensors.
Errors are those of the gradients against float64, relative to its norm, on 512 tokens.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from objectives.head import fused_head, plain_head

Head = Callable[[Tensor, Tensor, Tensor], Tensor]


def _minus_logp(logp: Tensor, score: Tensor, value: Tensor) -> Tensor:
    return -logp


def _ours(head: Callable[..., tuple[Tensor, Tensor]]) -> Head:
    def loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        zero = hidden.new_zeros(len(labels))
        mask = torch.ones_like(labels, dtype=torch.bool)
        total, _ = head(
            hidden, weight, labels, _minus_logp, score_N=zero, value_N=zero, mask_N=mask, bias_V=None
        )
        return total / len(labels)

    return loss


def _torch_plain(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight).float(), labels)


def _torch_chunked(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.linear_cross_entropy(hidden, weight, labels, options=torch.nn.LinearCrossEntropyOptions())


def _liger() -> Head:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss()
    return lambda hidden, weight, labels: loss(weight, hidden, labels)


HEADS: dict[str, Callable[[], Head]] = {
    "plain": lambda: _ours(plain_head),
    "fused": lambda: _ours(fused_head),
    "cross_entropy": lambda: _torch_plain,
    "cross_entropy, compiled": lambda: torch.compile(_torch_plain),
    "linear_cross_entropy": lambda: _torch_chunked,
}
if torch.cuda.is_available() and find_spec("liger_kernel"):  # its kernels are Triton's
    HEADS["Liger"] = _liger


def inputs(tokens: int, width: int, vocabulary: int, **kind: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, weight and labels, of the size they have in a model, of a type on a device."""
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width).to(**kind).requires_grad_()
    weight = (torch.randn(vocabulary, width) * 0.02).to(**kind).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (tokens,)).to(hidden.device)


def call(head: Head, made: tuple[Tensor, Tensor, Tensor]) -> None:
    """Forward and backward, to the end."""
    hidden, weight, labels = made
    hidden.grad = weight.grad = None
    head(hidden, weight, labels).backward()
    if hidden.is_cuda:
        torch.cuda.synchronize()


def peak_mib() -> float:
    """The most memory that this process has had, of the GPU if it uses one.

    Linux only; `ru_maxrss` would begin with that of its parent.
    """
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=7, help="turns that count (default: 7)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--peak", choices=HEADS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    kind = {"dtype": getattr(torch, arguments.dtype), "device": arguments.device}
    size = arguments.width, arguments.vocabulary
    if arguments.peak:
        made = inputs(arguments.tokens, *size, **kind)
        before = peak_mib()
        head = HEADS[arguments.peak]()
        call(head, made)
        call(head, made)
        print(json.dumps([before, peak_mib()]))
        return

    cpu = platform.processor() or platform.machine()
    machine = torch.cuda.get_device_name() if arguments.device == "cuda" else cpu
    print(
        f"{date.today()}, torch {torch.__version__}, {machine}, "
        f"{arguments.threads} threads; {arguments.tokens} tokens x {size[0]} x {size[1]}, {arguments.dtype}"
    )
    made = inputs(arguments.tokens, *size, **kind)
    heads = {name: HEADS[name]() for name in dict.fromkeys(["plain", *arguments.heads])}
    seconds: dict[str, list[float]] = {name: [] for name in heads}
    for turn in range(arguments.repeats + 1):
        for name, head in heads.items():
            start = time.perf_counter()
            call(head, made)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    peaks = {name: _peak(name, sys.argv[1:]) for name in heads}
    small = inputs(512, *size, **kind)
    hidden, weight, labels = small
    exact = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_(), labels
    call(HEADS["cross_entropy"](), exact)
    columns = ("seconds", "ratio", "peak MiB", "ratio", "added MiB", "grad hidden", "grad weight")
    print(f"{'head':<26}" + "".join(f"{column:>13}" for column in columns))
    for name, head in heads.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["plain"], strict=True))
        before, peak = peaks[name]
        call(head, small)
        errors = [
            float((mine.grad.double() - true.grad).norm() / true.grad.norm())
            for mine, true in zip(small[:2], exact[:2], strict=True)
        ]
        print(
            f"{name:<26}{statistics.median(seconds[name]):>13.2f}{ratio:>13.2f}{peak:>13,.0f}"
            f"{peak / peaks['plain'][1]:>13.2f}{peak - before:>13,.0f}{errors[0]:>13.1e}{errors[1]:>13.1e}"
        )


def _peak(name: str, arguments: list[str]) -> tuple[float, float]:
    """Peak memory before and after, of a process of its own."""
    output = subprocess.run(
        [sys.executable, __file__, *arguments, "--peak", name], capture_output=True, text=True, check=True
    ).stdout
    before, after = json.loads(output.splitlines()[-1])
    return before, after


if __name__ == "__main__":
    main()
