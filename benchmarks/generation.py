"""Sampling by `phf evaluate` against a loop of `generate` of `transformers` in batches of 32.

    python benchmarks/generation.py                       # GPT-2 small (124M), vocabulary 50257
    python benchmarks/generation.py --model tiny --samples 1024
    python benchmarks/generation.py --mean-tokens 0       # no text ends before the limit

The mix is that of an evaluation: half of the samples from the opening of a document alone, half from prompts
of 8 to 128 tokens, four of each; up to 128 new tokens at temperature 0.7 and top-p 0.9. The weights are
random, and the distribution of the next token about as peaked as a trained model's. From the 10th token on a
text ends at each with the same probability, so that lengths differ; `--mean-tokens` is their mean, were it
not for the limit. Both take turns in one process, on the same prompts; the first turn, a short one, does not
count. A figure is the median over the turns, the ratio that of the ratios in each turn: by the clock, and by
the second of the CPU, which others on the machine do not change.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from phf.config import ScenarioConfig
from phf.inference.generate import generate_all
from phf.inference.language_model import LanguageModel
from phf.model.control_tokens import ControlTokens

SIZES = {
    "tiny": {"n_layer": 4, "n_embd": 256, "n_head": 4, "vocab_size": 8192},
    "small": {"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257},
}
DECODING = {"max_new_tokens": 128, "min_new_tokens": 10, "temperature": 0.7, "top_p": 0.9}
PEAKED = 3.5
"""Standard deviation of the logits: top-p then leaves some dozens of tokens."""

Scenarios = dict[str, tuple[list[str], ScenarioConfig]]


def make_model(size: str, mean_tokens: int) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast, ControlTokens]:
    """A model of random weights, a tokenizer of numbers, and the token that ends a text."""
    torch.manual_seed(0)
    eos_id = SIZES[size]["vocab_size"] - 1
    config = GPT2Config(
        **SIZES[size], n_positions=512, tie_word_embeddings=False, bos_token_id=eos_id, eos_token_id=eos_id
    )
    model = GPT2LMHeadModel(config).eval()
    final, head = model.transformer.ln_f, model.lm_head.weight.data
    head.normal_(std=PEAKED / config.n_embd**0.5)
    # The end depends on a feature that is always 1, as nothing else does.
    final.weight.data[0], final.bias.data[0] = 0, 1
    head[:, 0] = head[eos_id] = 0
    likely = (torch.randn(512, config.n_embd) @ head.T / DECODING["temperature"]).logsumexp(-1).mean()
    probability = DECODING["top_p"] / (mean_tokens - DECODING["min_new_tokens"]) if mean_tokens else 1e-30
    head[eos_id, 0] = DECODING["temperature"] * (likely + math.log(probability))
    words = {str(i): i for i in range(eos_id)} | {"<eos>": eos_id}
    raw = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<eos>", pad_token="<eos>", padding_side="left"
    )
    return model, tokenizer, ControlTokens(eos_id)


def make_scenarios(samples: int, vocabulary: int) -> Scenarios:
    """Half of the samples without a prompt, half with one."""
    generator = torch.Generator().manual_seed(0)
    prompts = []
    for _ in range(samples // 8):
        length = int(torch.randint(8, 129, (), generator=generator))
        prompts.append(" ".join(map(str, torch.randint(vocabulary, (length,), generator=generator).tolist())))
    return {
        "unconditional": ([""], ScenarioConfig(samples=samples // 2, **DECODING)),
        "prompted": (prompts, ScenarioConfig(prompts=prompts, samples=4, **DECODING)),
    }


def loop_of_generate(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, scenarios: Scenarios, seed: int
) -> list[int]:
    """The lengths of samples drawn in batches of 32, padded on the left."""
    torch.manual_seed(seed)
    lengths = []
    eos_id = tokenizer.eos_token_id
    config = GenerationConfig(do_sample=True, top_k=0, eos_token_id=eos_id, pad_token_id=eos_id, **DECODING)
    for prompts, scenario in scenarios.values():
        texts = [f"<eos> {prompt}" for prompt in prompts for _ in range(scenario.samples)]
        for start in range(0, len(texts), 32):
            batch = tokenizer(texts[start : start + 32], padding=True, return_tensors="pt").to(model.device)
            with torch.no_grad():
                output = model.generate(
                    input_ids=batch.input_ids, attention_mask=batch.attention_mask, generation_config=config
                )
            new = output[:, batch.input_ids.shape[1] :]
            tokenizer.batch_decode(new, skip_special_tokens=True)
            lengths += (new != eos_id).sum(1).tolist()
    return lengths


def ratio(base: list[float], ours: list[float]) -> float:
    """How many times as long the one took, the median over the turns."""
    return statistics.median(a / b for a, b in zip(base, ours, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=SIZES, default="small")
    parser.add_argument("--samples", type=int, default=256, help="of a turn (default: 256)")
    parser.add_argument("--mean-tokens", type=int, default=64, help="0: all texts reach the limit")
    parser.add_argument("--batch", type=int, default=64, help="rows at a time of ours (default: 64)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--turns", type=int, default=3, help="that count (default: 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="a file for the figures, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, tokenizer, control = make_model(arguments.model, arguments.mean_tokens)
    model = model.to(arguments.device, getattr(torch, arguments.dtype))

    language_model = LanguageModel(model, tokenizer, control)

    def ours(scenarios: Scenarios, seed: int) -> list[int]:
        drawn = generate_all(language_model, scenarios, batch_size=arguments.batch, seed=seed)
        return [sample.num_tokens for samples in drawn.values() for sample in samples]

    contenders: dict[str, Callable[[Scenarios, int], list[int]]] = {
        "loop of generate": lambda scenarios, seed: loop_of_generate(model, tokenizer, scenarios, seed),
        "ours": ours,
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in contenders}
    lengths: dict[str, list[int]] = {name: [] for name in contenders}
    for turn in range(arguments.turns + 1):
        scenarios = make_scenarios(arguments.samples if turn else 8, control.eos_id)
        for name, contender in contenders.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            drawn = contender(scenarios, turn)
            if turn:
                seconds[name].append(time.perf_counter() - start)
                cpu_seconds[name].append(time.process_time() - cpu_start)
                lengths[name] += drawn
    found: dict[str, Any] = {"ratio": ratio(*seconds.values()), "ratio, CPU": ratio(*cpu_seconds.values())}
    machine = torch.cuda.get_device_name() if arguments.device == "cuda" else platform.machine()
    print(
        f"{date.today()}, torch {torch.__version__}, {machine}, {arguments.threads} threads; "
        f"{arguments.model}, {arguments.dtype}, {arguments.turns} turns"
    )
    for name in contenders:
        num_samples = len(lengths[name]) // arguments.turns
        found[name] = {
            "samples": num_samples,
            "samples/s": num_samples / statistics.median(seconds[name]),
            "tokens/s": sum(lengths[name]) / sum(seconds[name]),
            "mean tokens": statistics.mean(lengths[name]),
        }
        print(f"{name:<18}" + "".join(f"{value:>9.1f} {what}" for what, value in found[name].items()))
    print(f"ours: {found['ratio']:.2f} x as fast, {found['ratio, CPU']:.2f} x by the second of the CPU")
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
