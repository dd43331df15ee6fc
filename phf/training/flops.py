"""Counts the FLOPs of a model, and the share of the device's peak that a run reaches (MFU)."""

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
"""Peak FLOP/s of dense 16-bit matrix products with float32 accumulation, from NVIDIA's data sheets. The first
name that occurs in the device's name applies. (Some values in Lightning's own table are for sparse products,
which are twice as high.)"""


def flops_per_token(model: PreTrainedModel, context_length: int) -> float:
    """FLOPs of forward and backward for one token: `6 N + 12 L D T` (PaLM, arXiv 2204.02311, appendix B).

    N is the number of parameters in matrix products. Position embeddings do not count, nor do token
    embeddings that are not tied to the head. L is the number of layers, D the total width of a layer's heads,
    and T the context length. As is usual, the attention term counts all T positions, though half of them are
    masked. A state-space model has no attention term.
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
    """Returns the peak FLOP/s of a device in 16-bit matrix products; `None` if the table lacks the device."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAKS.items() if re.search(rf"\b{part}\b", name)), None)
