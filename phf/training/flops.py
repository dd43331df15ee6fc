"""How much a model computes, and how much of what the device can do that is (MFU)."""

from __future__ import annotations

import re

import torch
from transformers import PreTrainedModel

_PEAKS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10G": 70e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Dense matrix products in 16 bits with sums in float32, FLOP/s, from NVIDIA's data sheets; the first
name whose words are in the device's counts. (Some in Lightning's own table are for sparse ones: twice
that.)"""


def flops_per_token(model: PreTrainedModel, context_length: int) -> float:
    """FLOPs of forward and backward for one token: `6 N + 12 L D T` (PaLM, arXiv 2204.02311, appendix B).

    N are the parameters that are multiplied: not those of positions, nor, if it is not tied to the head, the
    table of token embeddings. L layers, D width of all heads of a layer, T tokens of context. The attention's
    part counts all T, as is usual, though half of them are masked; a state-space model has no such part.
    """
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", 0)
    width = heads and heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    looked_up = {
        id(module.weight): module.weight.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding)
    }
    looked_up.pop(id(model.get_output_embeddings().weight), None)
    multiplied = sum(p.numel() for p in model.parameters()) - sum(looked_up.values())
    return 6 * multiplied + 12 * config.num_hidden_layers * width * context_length


def peak_flops(device: torch.device) -> float | None:
    """FLOP/s of a device in 16-bit matrix products; `None` for one that is not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAKS.items() if re.search(rf"\b{part}\b", name)), None)
