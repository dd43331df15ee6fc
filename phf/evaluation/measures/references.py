"""Draws samples of a reference language model with their log-probabilities, once, and keeps them.

A reference is a model of `transformers`, or a model behind an OpenAI-compatible endpoint that gives
log-probabilities of completions (vLLM, llama.cpp and others do).

Shapes: B samples of a batch, T tokens of a sample.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from phf.base.errors import ConfigError, PhfError
from phf.base.files import is_folder, writing
from phf.base.locks import lock
from phf.base.progress import progress
from phf.config import ScenarioConfig
from phf.evaluation.measures.kl import KLOptions
from phf.inference.language_model import LanguageModel
from phf.inference.sampler import GumbelSampler, Sampling, row_keys
from phf.model.control_tokens import ControlTokens
from phf.model.model_folder import find_model
from phf.store.tokenizer import vocabulary_size
from scorers.endpoint import Endpoint, EndpointError

BATCH = 64
"""Samples that are drawn, and then written to the cache, at a time."""


@dataclass(frozen=True, slots=True)
class ReferenceSample:
    """A sample of a reference.

    Attributes:
        text: The text.
        logp: The log-probability of the text under the reference, in nats.
        finished: Whether the reference ended the text itself, before the token limit.
        ids: The tokens, including the end of the text, which then counts in `logp`. `None` from an endpoint,
            where the end does not count.
    """

    text: str
    logp: float
    finished: bool
    ids: list[int] | None


def reference_samples(config: KLOptions, seed: int) -> list[ReferenceSample]:
    """Returns the first `config.samples` samples of a reference, and draws those that the cache lacks.

    Args:
        config: The reference, and the number of samples.
        seed: Decides the samples, as far as an endpoint respects a seed.

    Raises:
        ConfigError: The reference cannot be loaded, or has control tokens.
        PhfError: The endpoint does not answer, or gives no log-probabilities; the cache cannot be written.
    """
    identity = {**reference_identity(config), "max_tokens": config.max_tokens, "seed": seed}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    path = Path(config.cache) / f"{digest}.jsonl"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path.with_suffix(".lock")):  # another evaluation may be drawing the same ones
            samples = list(_read(path, identity))
            if len(samples) < config.samples:
                samples += _draw(config, seed, path, len(samples))
    return samples[: config.samples]


def reference_identity(config: KLOptions) -> dict[str, Any]:
    """Identifies a reference, including the version of its weights if that can be seen.

    Raises:
        ConfigError: There is no model of this name.
    """
    if config.base_url is not None:
        return {"reference": config.reference, "base_url": config.base_url, "prompt": config.prompt}
    if is_folder(config.reference):
        files = sorted(p for p in find_model(Path(config.reference)).weights.iterdir() if p.is_file())
        return {"reference": {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}}
    commit = getattr(_pretrained(AutoConfig, config.reference), "_commit_hash", None)
    return {"reference": config.reference, "commit": commit}


def reference_tokenizer(config: KLOptions) -> Any:
    """Loads the tokenizer of a reference; `None` if the reference is behind an endpoint."""
    return None if config.base_url is not None else _pretrained(AutoTokenizer, _place(config.reference))


def _read(path: Path, identity: dict[str, Any]) -> Iterator[ReferenceSample]:
    """Yields the samples in a file, and cuts off a last line that an interrupted process left unfinished."""
    if not path.is_file():
        path.write_text(json.dumps(identity) + "\n")
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)
    for line in content[:end].splitlines()[1:]:
        yield ReferenceSample(**json.loads(line))


def _draw(config: KLOptions, seed: int, path: Path, first: int) -> list[ReferenceSample]:
    """Draws the samples from number `first` on, and appends each batch to the file at once."""
    draw = _local(config, seed) if config.base_url is None else _endpoint(config, seed)
    samples: list[ReferenceSample] = []
    with (
        path.open("a", encoding="utf-8") as file,
        progress("sampling the reference", config.samples) as advance,
    ):
        advance(first)
        for start in range(first, config.samples, BATCH):
            batch = draw(range(start, min(start + BATCH, config.samples)))
            file.write("".join(json.dumps(asdict(sample)) + "\n" for sample in batch))
            file.flush()
            samples += batch
            advance(len(batch))
    return samples


Draw = Callable[[range], list[ReferenceSample]]


def _local(config: KLOptions, seed: int) -> Draw:
    """Makes a function that draws from a model of `transformers`, at temperature 1 and from all tokens."""
    place = _place(config.reference)
    tokenizer = _pretrained(AutoTokenizer, place)
    network = _pretrained(AutoModelForCausalLM, place, dtype="auto").eval()
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    control = (
        find_model(Path(config.reference)).control(tokenizer)
        if is_folder(config.reference)
        else _control(config, tokenizer)
    )
    if control.tags:
        raise ConfigError(
            f"evaluation.measures.kl.reference: {config.reference} has tags; a reference must have none"
        )
    network.generation_config = GenerationConfig()  # its own settings would change the distribution
    # Token ids beyond the tokenizer's (a padded vocabulary) stand for no text, so they are banned too.
    padding = tuple((i,) for i in range(vocabulary_size(tokenizer), network.config.vocab_size))
    model = LanguageModel(network, tokenizer, replace(control, tags=padding))
    prefix = control.prefix(ScenarioConfig(tag="none"))
    if config.max_tokens + len(prefix) > model.limit:
        raise ConfigError(
            f"evaluation.measures.kl.max_tokens: {config.max_tokens} do not fit the context of "
            f"{config.reference}, {model.limit} tokens; set it to {model.limit - len(prefix)} or less"
        )
    plain = ScenarioConfig(temperature=1.0, top_p=1.0, min_new_tokens=0, max_new_tokens=config.max_tokens)
    sampling = Sampling(plain, tuple(model.control.tag_tokens), control.eos_id)

    def draw(numbers: range) -> list[ReferenceSample]:
        keys = row_keys(seed, [0] * len(numbers), list(numbers)).to(network.device)
        ids_BT = torch.tensor([prefix] * len(numbers), device=network.device)
        with torch.no_grad():
            output_BT = network.generate(
                ids_BT,
                attention_mask=torch.ones_like(ids_BT),
                generation_config=GenerationConfig(
                    do_sample=False,
                    max_new_tokens=config.max_tokens,
                    eos_token_id=control.eos_id,
                    pad_token_id=control.eos_id,
                ),
                logits_processor=[GumbelSampler(sampling, keys, len(prefix), control, config.max_tokens)],
            )
        rows = [_upto(row, control.eos_id) for row in output_BT[:, len(prefix) :].tolist()]
        logp = model.log_probabilities([model.row("none", [], [row]) for row in rows])
        samples = []
        for row, value in zip(rows, logp.tolist(), strict=True):
            finished = row[-1] == control.eos_id
            text = tokenizer.decode(row[:-1] if finished else row, clean_up_tokenization_spaces=False)
            samples.append(ReferenceSample(text, value, finished, row))
        return samples

    return draw


def _endpoint(config: KLOptions, seed: int) -> Draw:
    """Makes a function that draws from a model behind an OpenAI-compatible endpoint."""
    try:
        endpoint = Endpoint(
            config.reference, config.base_url, config.key, concurrency=config.concurrency, timeout=600.0
        )
    except ImportError:
        raise ConfigError("evaluation.measures.kl.base_url needs openai: pip install 'phf[judge]'") from None

    def ask(number: int) -> ReferenceSample:
        try:
            choice = endpoint.complete(
                config.prompt,
                max_tokens=config.max_tokens,
                temperature=1.0,
                top_p=1.0,
                logprobs=1,
                seed=(seed << 32 | number) % 2**31,
            )
        except EndpointError as error:
            raise PhfError(f"evaluation.measures.kl.base_url: {error}") from error
        finished = choice.finish_reason == "stop"
        logp = (choice.logprobs and choice.logprobs.token_logprobs) or []
        tokens = (choice.logprobs and choice.logprobs.tokens) or []
        # Some servers list the token that ended the text, and some do not.
        if finished and tokens and "".join(tokens[:-1]) == choice.text:
            logp = logp[:-1]
        if (choice.text and not logp) or None in logp:
            raise PhfError(
                f"evaluation.measures.kl.base_url: {config.base_url} gives no log-probabilities "
                f"with its completions"
            )
        return ReferenceSample(choice.text, float(sum(logp)), finished, None)

    return lambda numbers: endpoint.map(ask, numbers)


def _upto(row: list[int], eos_id: int) -> list[int]:
    return row[: row.index(eos_id) + 1] if eos_id in row else row


def _control(config: KLOptions, tokenizer: Any) -> ControlTokens:
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"evaluation.measures.kl.reference: {config.reference} has no token that ends a text"
        )
    return ControlTokens(tokenizer.eos_token_id, bos_id=tokenizer.bos_token_id)


def _place(reference: str) -> str:
    return str(find_model(Path(reference)).weights) if is_folder(reference) else reference


def _pretrained(kind: Any, name: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"evaluation.measures.kl.reference: {name} cannot be loaded: {reason}") from error
