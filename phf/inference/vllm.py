"""Samples with vLLM: the same prompts and settings, with random noise of its own. It has not been run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from phf.base.errors import ConfigError
from phf.inference.decoders.base import Request, until_done

# Requests passed to vLLM at a time, so that progress can be shown. vLLM forms its own batches.
CHUNK = 2048
TAG_RULE = "phf_tag_rule"
"""The extra argument of a request that holds the fields of its `TagRule`."""


def write_with_vllm(
    folder: Path, requests: Sequence[Request], done: Callable[[Request, list[int]], None]
) -> None:
    """Generates texts.

    Args:
        folder: The exported model, with its tokenizer.
        requests: The texts to generate.
        done: Called with each request and its new tokens, after every `CHUNK` requests.

    Raises:
        ConfigError: vLLM is not installed, or a decoder needs several rows for a text.
    """
    parameters = [sampling_parameters(request) for request in requests]
    try:
        from vllm import LLM, SamplingParams
    except ImportError:
        raise ConfigError(
            "evaluation.backend: vllm is not installed: pip install 'phf[vllm]', or set it to transformers"
        ) from None
    length = max(request.length for request in requests)
    llm = LLM(
        model=str(folder),
        max_model_len=length,
        enable_prefix_caching=True,
        generation_config="vllm",
        logits_processors=["phf.inference.vllm_tags:TagProcessor"],
    )
    for start in range(0, len(requests), CHUNK):
        chunk = requests[start : start + CHUNK]
        outputs = llm.generate(
            [{"prompt_token_ids": list(request.contexts[0])} for request in chunk],
            [SamplingParams(**one) for one in parameters[start : start + CHUNK]],
            use_tqdm=False,
        )
        for request, output in zip(chunk, outputs, strict=True):
            done(request, until_done(request, list(output.outputs[0].token_ids)))


def sampling_parameters(request: Request) -> dict[str, Any]:
    """The arguments of `vllm.SamplingParams` for a request.

    A banned token gets a logit bias of -100, the lowest possible.

    Raises:
        ConfigError: The request's decoder does not work with vLLM.
    """
    if not request.decoder.plain:
        raise ConfigError(
            f"evaluation.scenarios.{request.name}.decoder: {request.decoder.name} does not work with vllm; "
            "set evaluation.backend to transformers"
        )
    sampling = request.decoder.sampling
    scenario = sampling.scenario
    return {
        "temperature": scenario.temperature,
        "top_p": scenario.top_p,
        "top_k": -1 if scenario.top_k is None else scenario.top_k,
        "max_tokens": request.max_tokens,
        "min_tokens": scenario.min_new_tokens,
        "stop_token_ids": [sampling.eos_id],
        "logit_bias": dict.fromkeys(sampling.banned_ids, -100.0) or None,
        "extra_args": {TAG_RULE: asdict(sampling.rule)} if sampling.rule else None,
        "seed": request.key & 0x7FFFFFFF,
        "detokenize": False,
    }
