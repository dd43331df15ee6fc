"""Builds the tokens of a prompt: its text, its tags, and injected text that looks like a tag."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from phf.base.errors import ConfigError
from phf.config import InjectedTagConfig, ScenarioConfig
from phf.documents.segments import Segmenter
from phf.inference.decoders import DECODERS
from phf.model.control_tokens import ControlTokens

LOOK_ALIKES: dict[str, Callable[[str], str]] = {
    "text": str,
    "capitalized": str.title,
    "brackets": lambda name: "<" + re.sub(r"\W+", "", name) + ">",
    "spaced": lambda name: " ".join(re.findall(r"\w+|[^\w\s]", name)),
}
"""For each `inject.spelling` except `token`: spells the name of a tag in ordinary text."""


def inapplicable(scenario: ScenarioConfig, control: ControlTokens) -> str | None:
    """Returns the reason why a scenario makes no sense for a model; `None` if it does make sense.

    The good tag is the one that a model is deployed with. A model without tags is asked the same prompts
    without a tag.
    """
    if not control.tags and (scenario.tag == "bad" or scenario.inject):
        return "the model has no tags"
    if not control.tags and DECODERS.find(scenario.decoder.name).needs_tags:
        return f"the model has no tags, and the decoder {scenario.decoder.name} needs them"
    if control.tags_are_text and scenario.inject and scenario.inject.spelling == "text":
        return "the model's tags are ordinary text: this is inject.spelling=token"
    return None


def encode_prompt(
    tokenizer: Any,
    prompt: str,
    inject: InjectedTagConfig | None,
    control: ControlTokens,
    room: int,
    segment: Segmenter | None = None,
    before_each: Sequence[int] | None = None,
) -> tuple[list[int], bool]:
    """Tokenizes a prompt, and injects a tag if one is asked for and the model has tags.

    Each segment is tokenized on its own, as in the corpus. A control token spelled out in the prompt is
    ordinary text.

    Args:
        tokenizer: The tokenizer of the model.
        prompt: The text of the prompt.
        inject: The tag to inject, and where.
        control: The tokens of the model that are not text.
        room: The maximum number of tokens. A longer prompt loses its beginning, but never the injected tag.
        segment: Cuts the prompt into segments. `None`: the prompt is one segment.
        before_each: The tag before each segment except the first; the first segment's tag is not added here.
            If it is empty (a model without tags), room for a tag is still reserved, so that models with and
            without tags lose the same part of a prompt that is too long.

    Returns:
        The tokens, and whether the prompt lost its beginning.

    Raises:
        ConfigError: There is no room for the injected tag.
    """
    pieces = _encode(tokenizer, segment(prompt) if segment else [prompt]) if prompt else []
    tag = _tag_ids(tokenizer, inject, control) if inject and control.tags else []
    if len(tag) > room:
        raise ConfigError(f"inject: a tag of {len(tag)} tokens does not fit; set max_new_tokens lower")
    between = 0 if before_each is None else control.tag_length
    excess = sum(map(len, pieces)) + between * max(0, len(pieces) - 1) + len(tag) - room
    cut = excess > 0
    while excess > 0:
        dropped = min(excess, len(pieces[0]))
        pieces[0] = pieces[0][dropped:]
        excess -= dropped
        if not pieces[0]:
            pieces = pieces[1:]
            excess -= between
    pieces = [[*(before_each or ()), *piece] if i else piece for i, piece in enumerate(pieces)]
    if inject and tag:
        # In a prompt of one segment, `after_first` is its end and `before_last` is its start.
        places = {"start": 0, "after_first": min(1, len(pieces)), "before_last": max(0, len(pieces) - 1)}
        pieces.insert(places.get(inject.place, len(pieces)), tag)
    return list(chain.from_iterable(pieces)), cut


def _tag_ids(tokenizer: Any, inject: InjectedTagConfig, control: ControlTokens) -> list[int]:
    ids = control.tags[0 if inject.tag == "good" else -1]
    if inject.spelling == "token":
        return list(ids)
    name = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return _encode(tokenizer, [LOOK_ALIKES[inject.spelling](name)])[0]


def _encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)[
        "input_ids"
    ]
    return ids
