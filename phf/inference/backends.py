"""Chooses the engine that generates: continuous batching, batches of `generate`, or vLLM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from phf.inference.continuous import write
from phf.inference.decoders.base import Request
from phf.inference.hf_generate import write_batches
from phf.inference.ragged_cache import ragged_cache
from phf.inference.vllm import write_with_vllm


def write_texts(
    model: Any,
    requests: list[Request],
    batch_size: int,
    done: Callable[[Request, list[int]], None],
    vllm_folder: Path | None = None,
) -> None:
    """Generates all requested texts, the longest first, so that a lack of memory shows at the start.

    Args:
        model: A causal LM of `transformers`. Its mode and generation config are restored afterwards.
        requests: The texts to generate.
        batch_size: Rows generated at a time.
        done: Called with each request and its new tokens.
        vllm_folder: The model's folder on disk. If given, vLLM generates.

    Raises:
        ConfigError: A decoder does not work with this model, or with vLLM.
    """
    by_length = sorted(requests, key=lambda request: (request.length, request.contexts), reverse=True)
    if vllm_folder is not None:
        write_with_vllm(vllm_folder, by_length, done)
        return
    by_length.sort(key=lambda request: request.decoder.width)
    with _as_generator(model):
        for width, same in groupby(by_length, key=lambda request: request.decoder.width):
            group = list(same)
            num_texts = min(max(1, batch_size // width), len(group))
            cache = ragged_cache(model, num_texts * width, group[0].length)
            if cache is None:
                write_batches(model, group, batch_size, done)
            else:
                write(model, group, cache, done)


@contextmanager
def _as_generator(model: Any) -> Iterator[None]:
    """Puts a model into evaluation mode, and restores its former state on exit.

    Its own generation config is removed, because `generate` would mix in the values. A compiled model runs
    in eager mode: it was compiled for blocks of one shape, and every step of generation has a new shape.
    """
    training, own = model.training, model.generation_config
    model.eval()
    model.generation_config = GenerationConfig()
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.generation_config = own
        model.train(training)
