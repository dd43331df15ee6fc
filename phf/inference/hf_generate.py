"""Batches of `generate` of `transformers`, for models whose state is no plain KV cache.

Sliding windows that are shorter than the texts, recurrent states, positions that cannot be given. Rows that
are done wait for the longest one.

Shapes: B rows of a batch, T tokens of their prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from phf.base.errors import ConfigError
from phf.inference.continuous import Request
from phf.inference.decoders import Sampler
from phf.inference.sampler import GumbelSampler


def write_batches(
    model: Any, requests: Sequence[Request], batch_size: int, done: Callable[[Request, list[int]], None]
) -> None:
    """Writes texts, as `phf.inference.continuous.write` does.

    Raises:
        ConfigError: A decoder needs rows that go on from one another, or several for a text.
    """
    by_decoder = sorted(requests, key=lambda request: id(request.decoder))
    for _, same in groupby(by_decoder, key=lambda request: id(request.decoder)):
        group = list(same)
        decoder = group[0].decoder
        if type(decoder) is not Sampler:
            raise ConfigError(
                f"guidance, safe_beams: {type(model).__name__} has no plain KV cache for texts of this "
                "length; leave them out"
            )
        for start in range(0, len(group), batch_size):
            batch = group[start : start + batch_size]
            for request, row in zip(batch, _continue(model, batch, decoder), strict=True):
                done(request, row)


def _continue(model: Any, batch: Sequence[Request], decoder: Sampler) -> list[list[int]]:
    """The new tokens of each row."""
    eos_id = decoder.sampling.eos_id
    length = max(len(request.contexts[0]) for request in batch)
    padding = [length - len(request.contexts[0]) for request in batch]
    ids_BT = [[eos_id] * pad + [*request.contexts[0]] for pad, request in zip(padding, batch, strict=True)]
    mask_BT = [[0] * pad + [1] * (length - pad) for pad in padding]
    keys_B = torch.tensor([request.key for request in batch], device=model.device)
    output_BT = model.generate(
        torch.tensor(ids_BT, device=model.device),
        attention_mask=torch.tensor(mask_BT, device=model.device),
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=batch[0].max_new_tokens,
            eos_token_id=eos_id,
            pad_token_id=eos_id,
            use_cache=True,
        ),
        logits_processor=LogitsProcessorList([GumbelSampler(decoder.sampling, keys_B, length)]),
    )
    rows: list[list[int]] = output_BT[:, length:].tolist()
    return [row[: row.index(eos_id) + 1] if eos_id in row else row for row in rows]
