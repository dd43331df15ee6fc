"""Samples texts from a language model; a sample does not depend on the batch it is drawn in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phf.base.errors import ConfigError
from phf.config import ScenarioConfig
from phf.inference.backends import write_texts
from phf.inference.decoders import find_decoder
from phf.inference.decoders.base import Request
from phf.inference.language_model import LanguageModel
from phf.inference.prompt_tokens import encode_prompt
from phf.inference.sampler import row_keys


@dataclass(frozen=True, slots=True)
class Sample:
    """One continuation of one prompt.

    Attributes:
        prompt_index: Index of the prompt; 0 if there are no prompts.
        sample_index: Index of the sample among those of its prompt.
        prompt: The prompt as it was given, without tags; empty if there is none.
        text: The continuation, without tags.
        num_tokens: Length of the continuation, not counting tags and `<|endoftext|>`.
        finished: Whether the model ended the text itself, before `max_new_tokens`.
        prompt_cut: Whether the prompt was too long for the model's context and lost its beginning.
    """

    prompt_index: int
    sample_index: int
    prompt: str
    text: str
    num_tokens: int
    finished: bool
    prompt_cut: bool = False


Choose = Callable[[str, list[Sample]], Sequence[float | None]]
"""Scores samples, given the name of their scenario, so that the best of several can be kept."""


def generate(
    model: LanguageModel, prompts: Sequence[str], scenario: ScenarioConfig, **options: Any
) -> list[Sample]:
    """Draws the samples of one scenario; see `generate_all`."""
    return generate_all(model, {"": (prompts, scenario)}, **options)[""]


def generate_all(
    model: LanguageModel,
    scenarios: Mapping[str, tuple[Sequence[str], ScenarioConfig]],
    *,
    seed: int = 0,
    batch_size: int = 64,
    choose: Choose | None = None,
    progress: Callable[[int], None] | None = None,
    vllm_folder: Path | None = None,
    tag_segments: bool = False,
) -> dict[str, list[Sample]]:
    """Draws `scenario.samples` continuations of each prompt of each scenario.

    All scenarios share the same batches. A prompt that is too long for the model loses its beginning.

    Args:
        model: The model. Its mode and generation config are restored afterwards.
        scenarios: For each name, the prompts (`[""]` to start from the opening of a document alone) and the
            scenario, which says how to decode and which tags are given and allowed.
        seed: Decides every sample, together with the indices of its prompt and of the sample.
        batch_size: Rows generated at a time. It changes time and memory, not the samples.
        choose: Scores the samples of scenarios with `best_of` above 1; the lowest score is kept.
        progress: Called with the number of samples just finished.
        vllm_folder: The model's folder on disk. If given, vLLM generates.
        tag_segments: Whether the tag stands before each segment of a prompt, as in training, or only before
            the first.

    Returns:
        The samples of each scenario, ordered by prompt and then by sample index.

    Raises:
        ConfigError: `max_new_tokens` leaves no room in the context, the model lacks the tags that a decoder
            needs, or a scenario has `best_of` above 1 and `choose` is missing.
    """
    plans = {}
    for name, (prompts, scenario) in scenarios.items():
        try:
            plans[name] = _plan(model, prompts, scenario, seed, name, tag_segments)
        except ConfigError as error:
            raise ConfigError(f"evaluation.scenarios.{name}.{error}" if name else str(error)) from error
    drawn: dict[str, list[Sample]] = {name: [] for name in scenarios}

    def done(request: Request, tokens: list[int]) -> None:
        asked = plans[request.name][request.index]
        text, num_tokens, finished = _decode(model, asked.prompt_ids, tokens)
        drawn[request.name].append(replace(asked.sample, text=text, num_tokens=num_tokens, finished=finished))
        if progress:
            progress(1)

    requests = [asked.request for plan in plans.values() for asked in plan]
    write_texts(model.network, requests, batch_size, done, vllm_folder)
    for name, samples in drawn.items():
        samples.sort(key=lambda sample: (sample.prompt_index, sample.sample_index))
        scenario = scenarios[name][1]
        if scenario.best_of > 1:
            if choose is None:
                raise ConfigError("best_of: no scorer is given to choose the best sample; set best_of to 1")
            drawn[name] = keep_best(samples, choose(name, samples), scenario.best_of)
    return drawn


@dataclass(frozen=True, slots=True)
class _Asked:
    """A sample that is still to be drawn, the tokens of its prompt, and the request for it."""

    sample: Sample
    prompt_ids: list[int]
    request: Request


def _plan(
    model: LanguageModel,
    prompts: Sequence[str],
    scenario: ScenarioConfig,
    seed: int,
    name: str,
    tag_segments: bool,
) -> list[_Asked]:
    """Lists the samples to draw for a scenario, ordered by prompt and then by sample index."""
    control = model.control
    room = prompt_room(scenario, model.limit, control.tag_length)
    decoder = find_decoder(scenario, control)
    prefixes = [
        model.control.prefix(replace(scenario, tag=tag)) for tag in decoder.context_tags or (scenario.tag,)
    ]
    plan: list[_Asked] = []
    for p, prompt in enumerate(prompts):
        encoded = [
            encode_prompt(
                model.tokenizer,
                prompt,
                scenario.inject,
                model.control,
                room,
                model.segment,
                prefix[1:] if tag_segments else None,
            )
            for prefix in prefixes
        ]
        contexts = tuple((*prefix, *ids) for prefix, (ids, _) in zip(prefixes, encoded, strict=True))
        ids, cut = encoded[0]
        max_tokens = max_new_tokens = scenario.max_new_tokens
        if (
            control.tags and scenario.emit_tags != "none"
        ):  # a tag may stand before each token, if there is room
            room_left = model.limit - max(map(len, contexts))
            max_tokens = min(room_left, max_new_tokens * (1 + control.tag_length))
        numbers = range(scenario.samples * scenario.best_of)
        keys = row_keys(seed, [p] * len(numbers), numbers).tolist()
        for s in numbers:
            request = Request(contexts, decoder, max_new_tokens, max_tokens, keys[s], name, index=len(plan))
            plan.append(_Asked(Sample(p, s, prompt, "", 0, False, cut), ids, request))
    return plan


def keep_best(samples: Sequence[Sample], scores: Sequence[float | None], best_of: int) -> list[Sample]:
    """Keeps the sample with the lowest score of each group of `best_of` consecutive samples.

    The kept samples are numbered anew. A sample without a score is kept only if its whole group has none.
    """
    kept = []
    for start in range(0, len(samples), best_of):
        known = [
            (math.inf if s is None else s, i) for i, s in enumerate(scores[start : start + best_of], start)
        ]
        best = samples[min(known)[1]]
        kept.append(replace(best, sample_index=best.sample_index // best_of))
    return kept


def prompt_room(scenario: ScenarioConfig, limit: int, tag_length: int = 1) -> int:
    """Computes how many tokens of a prompt fit before the continuation.

    Args:
        scenario: How to decode.
        limit: The model's context, in tokens.
        tag_length: Tokens of a tag.

    Raises:
        ConfigError: `max_new_tokens` leaves no room.
    """
    # Room for a tag is reserved even without tags, so that models with and without tags see the same prompt.
    room = limit - 1 - tag_length
    most = room - (scenario.prompts is not None)
    if scenario.max_new_tokens > most:
        raise ConfigError(
            f"max_new_tokens: {scenario.max_new_tokens} do not fit the model's context of {limit} tokens "
            f"together with the prompt; set it to {most} or less"
        )
    return room - scenario.max_new_tokens


def _decode(model: LanguageModel, prompt_ids: Sequence[int], row: Sequence[int]) -> tuple[str, int, bool]:
    """Returns the text of a row of new tokens, its length in tokens, and whether the model ended it."""
    tokenizer, control = model.tokenizer, model.control
    finished = control.eos_id in row
    written = row[: row.index(control.eos_id)] if finished else row
    no_text = set(tokenizer.all_special_ids)
    ids = [token for token in control.text(written, finished) if token not in no_text]
    # Some tokenizers drop a leading space. So the last prompt token is decoded too, and its text removed.
    anchor = list(prompt_ids[-1:])
    before = tokenizer.decode(anchor, clean_up_tokenization_spaces=False)
    text = tokenizer.decode(anchor + ids, clean_up_tokenization_spaces=False)
    if not text.startswith(before):
        before, text = "", tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return text[len(before) :], len(ids), finished
