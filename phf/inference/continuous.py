"""Continuous batching: a text that is done makes room for one that waits, so that no row of a batch is idle.

A text takes as many rows as its decoder has contexts or beams. The tokens of a prompt are computed once for
all its samples. What comes out depends on the batch in nothing but the rounding of the model.

Shapes: N texts, W rows of a text, R = N W rows of a batch, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

import torch
from transformers import DynamicCache

from phf.inference.ragged_cache import RaggedCache

# Prompts whose keys and values are computed together, and kept until their samples have begun.
PROMPTS_AT_ONCE = 16


class Decoder(Protocol):
    """Chooses the next tokens of texts.

    Attributes:
        width: Rows of a text.
    """

    width: int

    def step(
        self, logits_NWV: torch.Tensor, texts: Sequence[Text]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Adds a token to each text, and says of each whether it is done.

        Args:
            logits_NWV: Of the next token, float32; may be overwritten.
            texts: The texts.

        Returns:
            The next token of each row, int64 [N, W], and which row of its text it follows, int64 [N, W]:
            `None` if each follows its own.
        """
        ...


@dataclass(frozen=True)
class Request:
    """A text to be written.

    Attributes:
        contexts: The tokens before it: one for all rows, or one a row.
        decoder: How it is decoded.
        max_new_tokens: Its longest length.
        key: A 64-bit number that decides the noise it is drawn with.
        name: The scenario it is for.
        index: Its number among the requests of that.
    """

    contexts: tuple[tuple[int, ...], ...]
    decoder: Decoder
    max_new_tokens: int
    key: int
    name: str
    index: int

    @property
    def length(self) -> int:
        """Tokens it may come to, the context included."""
        return max(map(len, self.contexts)) + self.max_new_tokens


@dataclass
class Text:
    """A text that is being written.

    Attributes:
        request: What is to be written.
        next_tokens: What goes through the model next, for each row.
        tokens: What has been written so far.
        done: There is nothing to add.
        state: The decoder's own.
    """

    request: Request
    next_tokens: list[int]
    tokens: list[int] = field(default_factory=list)
    done: bool = False
    state: Any = None

    def context_length(self, row: int) -> int:
        """Tokens before the text in a row."""
        return len(self.request.contexts[row % len(self.request.contexts)])


def write(
    model: Any,
    requests: Sequence[Request],
    cache: RaggedCache,
    done: Callable[[Request, list[int]], None],
) -> None:
    """Writes texts.

    Args:
        model: A causal LM of `transformers`, in evaluation mode.
        requests: What to write; decoders of one width. Begun in this order.
        cache: An empty one; as many texts are written at a time as it has rows for.
        done: Called with each request and its new tokens, as soon as they are there.
    """
    width = requests[0].decoder.width
    num_texts = cache.size[0] // width
    waiting = _with_prefixes(model, requests)
    texts: list[Text] = []
    while True:
        _replace_done(texts, waiting, num_texts, cache)
        if not texts:
            return
        positions_R = torch.tensor(
            [text.context_length(row) + len(text.tokens) - 1 for text in texts for row in range(width)],
            device=model.device,
        )
        end = int(positions_R.max()) + 1
        cache.write_at(positions_R, end)
        ids_R = torch.tensor([text.next_tokens for text in texts], device=model.device).flatten()
        logits_RV = model(
            input_ids=ids_R[:, None],
            attention_mask=(torch.arange(end, device=model.device) <= positions_R[:, None]).long(),
            position_ids=positions_R[:, None],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        _step(logits_RV.float().view(len(texts), width, -1), texts, cache)
        for text in texts:
            if text.done:
                done(text.request, text.tokens)


def _step(logits_NWV: torch.Tensor, texts: Sequence[Text], cache: RaggedCache) -> None:
    """Lets every decoder add to its texts."""
    places: dict[int, list[int]] = {}
    for place, text in enumerate(texts):
        places.setdefault(id(text.request.decoder), []).append(place)
    width = logits_NWV.shape[1]
    for mine in places.values():
        decoder = texts[mine[0]].request.decoder
        logits = logits_NWV if len(places) == 1 else logits_NWV[mine]
        tokens_NW, parents_NW = decoder.step(logits, [texts[place] for place in mine])
        for place, tokens in zip(mine, tokens_NW.tolist(), strict=True):
            texts[place].next_tokens = tokens
        if parents_NW is not None:
            pairs = [
                (place * width + parent, place * width + row)
                for place, parents in zip(mine, parents_NW.tolist(), strict=True)
                for row, parent in enumerate(parents)
                if parent != row and not texts[place].done
            ]
            if pairs:
                cache.copy(*map(list, zip(*pairs, strict=True)))


def _replace_done(
    texts: list[Text],
    waiting: Iterator[tuple[Request, DynamicCache, int]],
    num_texts: int,
    cache: RaggedCache,
) -> None:
    """Puts those that wait in the place of those that are done; where none wait, the last ones move up."""
    free = [place for place, text in enumerate(texts) if text.done]
    free += range(len(texts), num_texts)
    started = []
    while free and (next_one := next(waiting, None)):
        place, (request, prefix, prefix_row) = free.pop(0), next_one
        width, contexts = request.decoder.width, request.contexts
        # The last token of the context is the first to go through the model with the others.
        last = [contexts[row % len(contexts)][-1] for row in range(width)]
        texts[place : place + 1] = [Text(request, last)]
        pairs = [(place * width + row, prefix_row + row % len(contexts)) for row in range(width)]
        started.append((prefix, pairs))
    for _, together in groupby(started, key=lambda start: id(start[0])):
        group = list(together)
        rows, prefix_rows = zip(*(pair for _, pairs in group for pair in pairs), strict=True)
        cache.fill(rows, group[0][0], prefix_rows)
    moves = []
    for place in free:
        while texts and texts[-1].done:
            texts.pop()
        if place < len(texts):
            moves.append((len(texts) - 1, place))
            texts[place] = texts.pop()
    if moves:
        width = texts[0].request.decoder.width
        pairs = [(old * width + row, new * width + row) for old, new in moves for row in range(width)]
        cache.copy(*map(list, zip(*pairs, strict=True)))


def _with_prefixes(model: Any, requests: Sequence[Request]) -> Iterator[tuple[Request, DynamicCache, int]]:
    """Each request with a cache that holds its contexts but for the last token, and their first row there."""
    by_contexts = [list(same) for _, same in groupby(requests, key=lambda request: request.contexts)]
    for start in range(0, len(by_contexts), PROMPTS_AT_ONCE):
        chunk = by_contexts[start : start + PROMPTS_AT_ONCE]
        contexts = [ids for same in chunk for ids in same[0].contexts]
        prefix = _prefill(model, contexts)
        row = 0
        for same in chunk:
            yield from ((request, prefix, row) for request in same)
            row += len(same[0].contexts)


def _prefill(model: Any, contexts: Sequence[Sequence[int]]) -> DynamicCache:
    """The keys and values of all but the last token of each context.

    Padding is behind the tokens, where nothing that matters sees it.
    """
    length = max(1, max(map(len, contexts)) - 1)
    ids = [[*context[:-1], *[0] * length][:length] for context in contexts]
    prefix = DynamicCache(config=model.config)
    model.base_model(torch.tensor(ids, device=model.device), past_key_values=prefix, use_cache=True)
    return prefix
