"""What writes texts: continuous batching; else batches of `generate`; or vLLM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from phf.inference.continuous import Request, write
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
    """Writes texts, the longest first, so that memory runs out at once or never.

    Args:
        model: A causal LM of `transformers`; its mode and generation config are as before afterwards.
        requests: What to write.
        batch_size: Rows written at a time.
        done: Called with each request and its new tokens.
        vllm_folder: Where the model is on disk, for vLLM.

    Raises:
        ConfigError: A decoder is not for this model, or not for vLLM.
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
    """Evaluation mode, and no generation config of the model's own, whose values `generate` would mix in.

    A compiled model runs as it was written: it was compiled for blocks, and here every step has a new shape.
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
