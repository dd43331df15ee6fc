"""Generates with `generate` of `transformers`, for models whose state is not a plain KV cache.

Such models have sliding windows shorter than the texts, recurrent states, or no `position_ids` input.
Finished rows wait for the longest row of their batch.

Shapes: B rows of a batch, T tokens of their padded prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from phf.base.errors import ConfigError
from phf.inference.decoders.base import Decoder, Request, until_done
from phf.inference.sampler import GumbelSampler


def write_batches(
    model: Any, requests: Sequence[Request], batch_size: int, done: Callable[[Request, list[int]], None]
) -> None:
    """Generates texts, with the arguments of `phf.inference.continuous.write`.

    Raises:
        ConfigError: A decoder needs several rows for a text, or rows that continue other rows.
    """
    by_decoder = sorted(requests, key=lambda request: id(request.decoder))
    for _, same in groupby(by_decoder, key=lambda request: id(request.decoder)):
        group = list(same)
        decoder = group[0].decoder
        if not decoder.plain:
            raise ConfigError(
                f"decoder: {decoder.name} needs a plain KV cache, which {type(model).__name__} does not have "
                "for texts of this length; set it to sampling"
            )
        for start in range(0, len(group), batch_size):
            batch = group[start : start + batch_size]
            for request, row in zip(batch, _continue(model, batch, decoder), strict=True):
                done(request, row)


def _continue(model: Any, batch: Sequence[Request], decoder: Decoder) -> list[list[int]]:
    """Generates the new tokens of each row, up to and including the end of the text."""
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
            max_new_tokens=max(request.max_tokens for request in batch),
            eos_token_id=eos_id,
            pad_token_id=eos_id,
            use_cache=True,
        ),
        logits_processor=LogitsProcessorList(
            [GumbelSampler(decoder.sampling, keys_B, length, decoder.control, batch[0].max_new_tokens)]
        ),
    )
    rows = output_BT[:, length:].tolist()
    return [until_done(request, row) for request, row in zip(batch, rows, strict=True)]
