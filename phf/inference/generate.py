"""Sampling from a language model: in continuous batches, and the same whatever the batch."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phf.base.errors import ConfigError
from phf.config import ScenarioConfig
from phf.documents.segments import Segmenter
from phf.inference.backends import write_texts
from phf.inference.continuous import Request
from phf.inference.decoders import find_decoder
from phf.inference.prompt_tokens import encode_prompt
from phf.inference.sampler import row_keys
from phf.model.control_tokens import ControlTokens


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


Choose = Callable[[str, list[Sample]], Sequence[float | None]]
"""Scores the samples of a scenario, given by its name, to keep the best of several."""


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    scenario: ScenarioConfig,
    control: ControlTokens,
    **options: Any,
) -> list[Sample]:
    """Draws the samples of one scenario; see `generate_all`."""
    return generate_all(model, tokenizer, {"": (prompts, scenario)}, control, **options)[""]


def generate_all(
    model: Any,
    tokenizer: Any,
    scenarios: Mapping[str, tuple[Sequence[str], ScenarioConfig]],
    control: ControlTokens,
    *,
    segment: Segmenter | None = None,
    context_length: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    choose: Choose | None = None,
    progress: Callable[[int], None] | None = None,
    vllm_folder: Path | None = None,
    tag_segments: bool = False,
) -> dict[str, list[Sample]]:
    """Draws `scenario.samples` continuations of each prompt of each scenario, all in the same batches.

    Args:
        model: A causal LM of `transformers`; its mode and generation config are as before afterwards.
        tokenizer: Its tokenizer.
        scenarios: By name, the prompts (`[""]` for the opening of a document alone), and how to decode and
            which tags are given and allowed.
        control: The tokens of the model that are no text.
        segment: Cuts a prompt into the segments that are tokenized on their own, as the corpus was.
        context_length: Most tokens of prompt and continuation; the model's own limit if `None`. A prompt
            that is too long loses its beginning.
        seed: Decides every sample, together with its prompt's and its own index.
        batch_size: Rows written at a time; changes the time and the memory, not the samples.
        choose: Scores what the best is kept of, in scenarios with `best_of`.
        progress: Called with the number of samples that have just been finished.
        vllm_folder: Where the model is on disk, to be sampled from by vLLM.
        tag_segments: Whether the tag stands before each segment of a prompt, as in training, or before the
            first alone.

    Returns:
        The samples of each scenario, by prompt and then by number.

    Raises:
        ConfigError: `max_new_tokens` leaves no room in the context, or the model lacks the tags that a
            decoder needs.
    """
    # A model that states no limit, such as one with relative positions, has none.
    limits = context_length, getattr(model.config, "max_position_embeddings", None)
    plans = {}
    for name, (prompts, scenario) in scenarios.items():
        try:
            plans[name] = _plan(
                tokenizer, prompts, scenario, control, segment, limits, seed, name, tag_segments
            )
        except ConfigError as error:
            raise ConfigError(f"evaluation.scenarios.{name}.{error}" if name else str(error)) from error
    drawn: dict[str, list[Sample]] = {name: [] for name in scenarios}

    def done(request: Request, tokens: list[int]) -> None:
        asked = plans[request.name][request.index]
        text, num_tokens, finished = _decode(tokenizer, asked.prompt_ids, tokens, control)
        drawn[request.name].append(replace(asked.sample, text=text, num_tokens=num_tokens, finished=finished))
        if progress:
            progress(1)

    requests = [asked.request for plan in plans.values() for asked in plan]
    write_texts(model, requests, batch_size, done, vllm_folder)
    for name, samples in drawn.items():
        samples.sort(key=lambda sample: (sample.prompt_index, sample.sample_index))
        scenario = scenarios[name][1]
        if scenario.best_of > 1:
            if choose is None:
                raise ConfigError("best_of: nothing says here which sample is best; set it to 1")
            drawn[name] = keep_best(samples, choose(name, samples), scenario.best_of)
    return drawn


@dataclass(frozen=True, slots=True)
class _Asked:
    """A sample before it is drawn, its prompt's tokens, and the request for it."""

    sample: Sample
    prompt_ids: list[int]
    request: Request


def _plan(
    tokenizer: Any,
    prompts: Sequence[str],
    scenario: ScenarioConfig,
    control: ControlTokens,
    segment: Segmenter | None,
    limits: tuple[int | None, ...],
    seed: int,
    name: str,
    tag_segments: bool,
) -> list[_Asked]:
    """What is to be drawn for a scenario, by prompt and then by number."""
    room = prompt_room(scenario, *limits, tag_length=control.tag_length)
    decoder = find_decoder(scenario, control)
    prefixes = [control.prefix(scenario)]
    if scenario.guidance:
        prefixes.append(control.prefix(replace(scenario, tag="bad", guidance=0.0)))
    plan: list[_Asked] = []
    for p, prompt in enumerate(prompts):
        encoded = [
            encode_prompt(
                tokenizer,
                prompt,
                scenario.inject,
                control,
                room,
                segment,
                prefix[1:] if tag_segments else None,
            )
            for prefix in prefixes
        ]
        contexts = tuple((*prefix, *ids) for prefix, (ids, _) in zip(prefixes, encoded, strict=True))
        ids, cut = encoded[0]
        numbers = range(scenario.samples * scenario.best_of)
        keys = row_keys(seed, [p] * len(numbers), numbers).tolist()
        for s in numbers:
            request = Request(contexts, decoder, scenario.max_new_tokens, keys[s], name, len(plan))
            plan.append(_Asked(Sample(p, s, prompt, "", 0, False, cut), ids, request))
    return plan


def keep_best(samples: Sequence[Sample], scores: Sequence[float | None], best_of: int) -> list[Sample]:
    """Of every `best_of` samples that follow each other the one with the lowest score, numbered anew.

    One whose score is unknown is kept only if all are.
    """
    kept = []
    for start in range(0, len(samples), best_of):
        known = [
            (math.inf if s is None else s, i) for i, s in enumerate(scores[start : start + best_of], start)
        ]
        best = samples[min(known)[1]]
        kept.append(replace(best, sample_index=best.sample_index // best_of))
    return kept


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
    ids = [token for token in _without_tags(written, control, finished) if token not in no_text]
    # Some tokenizers drop a space at the start of a text: decode the token before as well, and take it off.
    anchor = list(prompt_ids[-1:])
    before = tokenizer.decode(anchor, clean_up_tokenization_spaces=False)
    text = tokenizer.decode(anchor + ids, clean_up_tokenization_spaces=False)
    if not text.startswith(before):
        before, text = "", tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return text[len(before) :], len(ids), finished


def _without_tags(row: Sequence[int], control: ControlTokens, finished: bool) -> Iterator[int]:
    """The tokens of a row that belong to no tag, nor to one that the end of an unfinished row cuts."""
    place = 0
    while place < len(row):
        tag = next((tag for tag in control.tags if tuple(row[place : place + len(tag)]) == tag), None)
        if tag is None:
            rest = tuple(row[place:])
            if not finished and any(tag[: len(rest)] == rest for tag in control.tags):
                return
            yield row[place]
        place += len(tag or (0,))
