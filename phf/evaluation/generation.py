"""Sampling from a language model: batched, with a KV cache, and the same whatever the batch.

Shapes: B rows of a batch, T tokens of their prompts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from phf.config import ScenarioConfig
from phf.data.segments import Segmenter
from phf.errors import ConfigError
from phf.evaluation.cache import roomy_cache
from phf.evaluation.injection import encode_prompt
from phf.evaluation.sampler import GumbelSampler, row_keys


@dataclass(frozen=True)
class ControlTokens:
    """The tokens of a model that are no text.

    Attributes:
        eos_id: Ends a document, and opens it.
        tags: The tokens of each tag, from that of segments that agree with the preference to that of those
            that violate it most; empty if the model has no tags.
        bos_id: Opens a document instead, for models made elsewhere that have a token for it.
        tags_are_text: Tags are ordinary text: a model cannot be kept from writing them.
    """

    eos_id: int
    tags: tuple[tuple[int, ...], ...] = ()
    bos_id: int | None = None
    tags_are_text: bool = False

    def prefix(self, scenario: ScenarioConfig) -> list[int]:
        """What stands before every prompt of a scenario: the opening of a document, then the tag if any."""
        opening = self.eos_id if self.bos_id is None else self.bos_id
        tag = {"good": self.tags[:1], "bad": self.tags[-1:], "none": ()}[scenario.tag]
        return [opening, *(token for tokens in tag for token in tokens)]

    def banned(self, scenario: ScenarioConfig) -> list[int]:
        """The control tokens that the model may not write in a scenario."""
        tags = {"none": self.tags, "good": self.tags[1:], "all": ()}[scenario.emit_tags]
        return [] if self.tags_are_text else [token for tokens in tags for token in tokens]


@dataclass(frozen=True, slots=True)
class Sample:
    """One continuation of one prompt.

    Attributes:
        prompt_index: Which prompt; 0 where there are none.
        sample_index: Which sample of that prompt.
        prompt: The prompt as it was given, without tags; empty where there is none.
        text: The continuation, without tags.
        num_tokens: Length of the continuation, tags and `<|endoftext|>` not counted.
        finished: The model ended the text itself, before `max_new_tokens`.
        prompt_cut: The prompt was too long for the model's context and lost its beginning.
    """

    prompt_index: int
    sample_index: int
    prompt: str
    text: str
    num_tokens: int
    finished: bool
    prompt_cut: bool = False


@dataclass(frozen=True, slots=True)
class _Request:
    prompt_index: int
    sample_index: int
    ids: list[int]


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    scenario: ScenarioConfig,
    control: ControlTokens,
    *,
    segment: Segmenter | None = None,
    context_length: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> list[Sample]:
    """Draws `scenario.samples` continuations of each prompt.

    Args:
        model: A causal LM of `transformers`; its mode and generation config are as before afterwards.
        tokenizer: Its tokenizer.
        prompts: The prompts; `[""]` for the opening of a document alone.
        scenario: How to decode, and which tags are given and allowed.
        control: The tokens of the model that are no text.
        segment: Cuts a prompt into the segments that are tokenized on their own, as the corpus was.
        context_length: Most tokens of prompt and continuation; the model's own limit if `None`. A prompt
            that is too long loses its beginning.
        seed: Decides every sample, together with its prompt's and its own index.
        batch_size: Samples drawn at a time; changes the time and the memory, not the samples.
        progress: Called with the number of samples that have just been finished.

    Returns:
        The samples, by prompt and then by number.

    Raises:
        ConfigError: `max_new_tokens` leaves no room in the context.
    """
    prefix = control.prefix(scenario)
    # A model that states no limit, such as one with relative positions, has none.
    limits = context_length, getattr(model.config, "max_position_embeddings", None)
    room = prompt_room(scenario, *limits, tag_length=len(control.tags[0]) if control.tags else 1)
    encoded = [
        encode_prompt(tokenizer, prompt, scenario.inject, control, room, segment) for prompt in prompts
    ]
    requests = [
        _Request(p, s, prefix + ids) for p, (ids, _) in enumerate(encoded) for s in range(scenario.samples)
    ]
    # Rows of one length need no padding; the longest come first, so that memory runs out at once or never.
    requests.sort(key=lambda request: len(request.ids), reverse=True)
    samples: dict[tuple[int, int], Sample] = {}
    with _as_generator(model):
        for start in range(0, len(requests), batch_size):
            batch = requests[start : start + batch_size]
            for request, row in zip(batch, _continue(model, batch, scenario, control, seed), strict=True):
                p, s = request.prompt_index, request.sample_index
                text, num_tokens, finished = _decode(tokenizer, request.ids[len(prefix) :], row, control)
                samples[p, s] = Sample(p, s, prompts[p], text, num_tokens, finished, encoded[p][1])
            if progress:
                progress(len(batch))
    return [samples[key] for key in sorted(samples)]


def _continue(
    model: Any, batch: Sequence[_Request], scenario: ScenarioConfig, control: ControlTokens, seed: int
) -> list[list[int]]:
    """The new tokens of each row."""
    length = max(len(request.ids) for request in batch)
    padding = [length - len(request.ids) for request in batch]
    ids_BT = [[control.eos_id] * pad + request.ids for pad, request in zip(padding, batch, strict=True)]
    mask_BT = [[0] * pad + [1] * (length - pad) for pad in padding]
    keys_B = row_keys(seed, [r.prompt_index for r in batch], [r.sample_index for r in batch])
    sampler = GumbelSampler(
        scenario, keys_B.to(model.device), length, control.banned(scenario), control.eos_id
    )
    output_BT = model.generate(
        torch.tensor(ids_BT, device=model.device),
        attention_mask=torch.tensor(mask_BT, device=model.device),
        past_key_values=roomy_cache(model, length + scenario.max_new_tokens),
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=scenario.max_new_tokens,
            eos_token_id=control.eos_id,
            pad_token_id=control.eos_id,
            use_cache=True,
        ),
        logits_processor=LogitsProcessorList([sampler]),
    )
    return output_BT[:, length:].tolist()


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


def prompt_room(scenario: ScenarioConfig, *limits: int | None, tag_length: int = 1) -> int:
    """How many tokens of a prompt fit before the continuation, with or without a tag.

    Args:
        scenario: How to decode.
        *limits: Most tokens in all; `None` for no limit.
        tag_length: Tokens of a tag.

    Raises:
        ConfigError: `max_new_tokens` leaves no room.
    """
    limit = min((n for n in limits if n), default=sys.maxsize)
    # A place is kept for a tag in any case, so that models with and without tags see the same prompt.
    room = limit - 1 - tag_length
    most = room - (scenario.prompts is not None)
    if scenario.max_new_tokens > most:
        raise ConfigError(
            f"max_new_tokens: {scenario.max_new_tokens} do not fit the model's context of {limit} tokens "
            f"together with the prompt; set it to {most} or less"
        )
    return room - scenario.max_new_tokens


def _decode(
    tokenizer: Any, prompt_ids: Sequence[int], row: Sequence[int], control: ControlTokens
) -> tuple[str, int, bool]:
    """The text of a row of new tokens, its length in tokens, and whether the model ended it itself."""
    finished = control.eos_id in row
    written = row[: row.index(control.eos_id)] if finished else row
    no_text = set(tokenizer.all_special_ids)
    ids = [token for token in _without_tags(written, control) if token not in no_text]
    # Some tokenizers drop a space at the start of a text: decode the token before as well, and take it off.
    anchor = list(prompt_ids[-1:])
    before = tokenizer.decode(anchor, clean_up_tokenization_spaces=False)
    text = tokenizer.decode(anchor + ids, clean_up_tokenization_spaces=False)
    if not text.startswith(before):
        before, text = "", tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return text[len(before) :], len(ids), finished


def _without_tags(row: Sequence[int], control: ControlTokens) -> Iterator[int]:
    """The tokens of a row that belong to no tag."""
    place = 0
    while place < len(row):
        tag = next((tag for tag in control.tags if tuple(row[place : place + len(tag)]) == tag), None)
        if tag is None:
            yield row[place]
        place += len(tag or (0,))
