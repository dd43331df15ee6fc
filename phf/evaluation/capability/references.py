"""Samples of a reference language model with their log-probabilities, drawn once and kept.

A reference is a model of `transformers`, or one behind an OpenAI-compatible endpoint that gives
log-probabilities of completions (vLLM, llama.cpp and others do).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from phf.base.errors import ConfigError, PhfError, writing
from phf.base.progress import progress
from phf.config import KLConfig, ScenarioConfig
from phf.inference.likelihood import Reader
from phf.inference.sampler import GumbelSampler, Sampling, row_keys
from phf.model.control_tokens import ControlTokens
from phf.model.loaded_model import find_subject

BATCH = 64
"""Samples drawn, and then written down, at a time."""
RETRIES = 5
"""How often a request to an endpoint is sent again, after longer and longer waits."""


@dataclass(frozen=True, slots=True)
class ReferenceSample:
    """One text of a reference.

    Attributes:
        text: The text.
        logp: Its log-probability under the reference, in nats.
        finished: The reference ended it, before the limit.
        ids: Its tokens, the one that ends it included, which then counts in `logp`; `None` from an endpoint,
            which gives neither.
    """

    text: str
    logp: float
    finished: bool
    ids: list[int] | None


def reference_samples(config: KLConfig, seed: int) -> list[ReferenceSample]:
    """The first `config.samples` samples of a reference; those that the cache lacks are drawn and added.

    Args:
        config: The reference, and how many of its samples.
        seed: Decides them, as far as an endpoint can be told.

    Raises:
        ConfigError: The reference cannot be loaded, or has control tokens.
        PhfError: The endpoint does not answer, or gives no log-probabilities; the cache cannot be written.
    """
    identity = {**reference_identity(config), "max_tokens": config.max_tokens, "seed": seed}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    path = Path(config.cache) / f"{digest}.jsonl"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as held:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(held, fcntl.LOCK_EX)  # another evaluation may be drawing the same ones
            samples = list(_read(path, identity))
            if len(samples) < config.samples:
                samples += _draw(config, seed, path, len(samples))
    return samples[: config.samples]


def reference_identity(config: KLConfig) -> dict[str, Any]:
    """Which reference it is, down to its weights where they can be seen.

    Raises:
        ConfigError: There is none of this name.
    """
    if config.base_url is not None:
        return {"reference": config.reference, "base_url": config.base_url, "prompt": config.prompt}
    folder = Path(config.reference)
    if folder.is_dir():
        files = sorted(path for path in find_subject(folder).model_folder.iterdir() if path.is_file())
        return {"reference": {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}}
    commit = getattr(_pretrained(AutoConfig, config.reference), "_commit_hash", None)
    return {"reference": config.reference, "commit": commit}


def reference_tokenizer(config: KLConfig) -> Any:
    """The tokenizer of a reference; `None` if it is behind an endpoint."""
    return None if config.base_url is not None else _pretrained(AutoTokenizer, _place(config.reference))


def _read(path: Path, identity: dict[str, Any]) -> Iterator[ReferenceSample]:
    """The samples in a file; a line that an interrupted process did not finish is taken away."""
    if not path.is_file():
        path.write_text(json.dumps(identity) + "\n")
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)
    for line in content[:end].splitlines()[1:]:
        yield ReferenceSample(**json.loads(line))


def _draw(config: KLConfig, seed: int, path: Path, first: int) -> list[ReferenceSample]:
    """Samples from number `first` on, added to the file as soon as they are there."""
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


def _local(config: KLConfig, seed: int) -> Draw:
    """Draws from a model of `transformers`, at temperature 1 and from all tokens."""
    place = _place(config.reference)
    tokenizer = _pretrained(AutoTokenizer, place)
    model = _pretrained(AutoModelForCausalLM, place, dtype="auto").eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    folder = Path(config.reference)
    control = find_subject(folder).control(tokenizer) if folder.is_dir() else _control(config, tokenizer)
    if control.tags:
        raise ConfigError(f"evaluation.kl.reference: {config.reference} has tags; a reference must have none")
    model.generation_config = GenerationConfig()  # nothing of its own: the samples are of the plain model
    # Numbers beyond the tokenizer's (a padded vocabulary) stand for no text, and are not written either.
    padding = tuple((i,) for i in range(len(tokenizer), model.config.vocab_size))
    reader = Reader(model, tokenizer, replace(control, tags=padding))
    prefix = control.prefix(ScenarioConfig(tag="none"))
    if config.max_tokens + len(prefix) > reader.limit:
        raise ConfigError(
            f"evaluation.kl.max_tokens: {config.max_tokens} do not fit the context of {config.reference}, "
            f"{reader.limit} tokens; set it to {reader.limit - len(prefix)} or less"
        )
    plain = ScenarioConfig(temperature=1.0, top_p=1.0, min_new_tokens=0, max_new_tokens=config.max_tokens)
    sampling = Sampling(plain, tuple(reader.control.banned(plain)), control.eos_id)

    def draw(numbers: range) -> list[ReferenceSample]:
        keys = row_keys(seed, [0] * len(numbers), list(numbers)).to(model.device)
        ids_BT = torch.tensor([prefix] * len(numbers), device=model.device)
        with torch.no_grad():
            output_BT = model.generate(
                ids_BT,
                attention_mask=torch.ones_like(ids_BT),
                generation_config=GenerationConfig(
                    do_sample=False,
                    max_new_tokens=config.max_tokens,
                    eos_token_id=control.eos_id,
                    pad_token_id=control.eos_id,
                ),
                logits_processor=[GumbelSampler(sampling, keys, len(prefix))],
            )
        rows = [_upto(row, control.eos_id) for row in output_BT[:, len(prefix) :].tolist()]
        logp = reader.log_probabilities([reader.row("none", [], [row]) for row in rows])
        samples = []
        for row, value in zip(rows, logp.tolist(), strict=True):
            finished = row[-1] == control.eos_id
            text = tokenizer.decode(row[:-1] if finished else row, clean_up_tokenization_spaces=False)
            samples.append(ReferenceSample(text, value, finished, row))
        return samples

    return draw


def _endpoint(config: KLConfig, seed: int) -> Draw:
    """Draws from a model behind an OpenAI-compatible endpoint."""
    try:
        import openai
    except ImportError:
        raise ConfigError("evaluation.kl.base_url needs openai: pip install 'phf[judge]'") from None
    client = openai.OpenAI(
        base_url=config.base_url, api_key=os.environ.get(config.key) or "none", max_retries=RETRIES
    )

    def ask(number: int) -> ReferenceSample:
        try:
            choice = client.completions.create(
                model=config.reference,
                prompt=config.prompt,
                max_tokens=config.max_tokens,
                temperature=1.0,
                top_p=1.0,
                logprobs=1,
                seed=(seed << 32 | number) % 2**31,
            ).choices[0]
        except openai.OpenAIError as error:
            reason = str(error).partition("\n")[0]
            raise PhfError(f"evaluation.kl.base_url: {config.base_url} does not answer: {reason}") from error
        finished = choice.finish_reason == "stop"
        logp = (choice.logprobs and choice.logprobs.token_logprobs) or []
        tokens = (choice.logprobs and choice.logprobs.tokens) or []
        # Some servers list the token that ended the text, and some do not.
        if finished and tokens and "".join(tokens[:-1]) == choice.text:
            logp = logp[:-1]
        if (choice.text and not logp) or None in logp:
            raise PhfError(
                f"evaluation.kl.base_url: {config.base_url} gives no log-probabilities with its completions"
            )
        return ReferenceSample(choice.text, float(sum(logp)), finished, None)

    def draw(numbers: range) -> list[ReferenceSample]:
        with ThreadPoolExecutor(config.concurrency) as pool:
            return list(pool.map(ask, numbers))

    return draw


def _upto(row: list[int], eos_id: int) -> list[int]:
    return row[: row.index(eos_id) + 1] if eos_id in row else row


def _control(config: KLConfig, tokenizer: Any) -> ControlTokens:
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"evaluation.kl.reference: {config.reference} has no token that ends a text")
    return ControlTokens(tokenizer.eos_token_id, bos_id=tokenizer.bos_token_id)


def _place(reference: str) -> str:
    folder = Path(reference)
    return str(find_subject(folder).model_folder) if folder.is_dir() else reference


def _pretrained(kind: Any, name: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"evaluation.kl.reference: {name} cannot be loaded: {reason}") from error
