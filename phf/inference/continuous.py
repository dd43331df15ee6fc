"""Generates in continuous batches: a finished text makes room for a waiting one, so that no row is idle.

A text takes one row for each context or beam of its decoder. The tokens of a prompt are computed once for all
its samples. The batch affects a text only through rounding differences in the model.

Shapes: N texts of a batch, W rows of a text, R = N W rows of a batch, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from transformers import DynamicCache

from phf.inference.decoders.base import Request, Text
from phf.inference.ragged_cache import RaggedCache

# Prompts whose keys and values are computed together. They are kept until all their samples have started.
PROMPTS_AT_ONCE = 16


def write(
    model: Any,
    requests: Sequence[Request],
    cache: RaggedCache,
    done: Callable[[Request, list[int]], None],
) -> None:
    """Generates texts.

    Args:
        model: A causal LM of `transformers`, in evaluation mode.
        requests: The texts to generate, started in this order. Their decoders have the same width.
        cache: An empty cache. Its number of rows limits how many texts are generated at a time.
        done: Called with each request and its new tokens, as soon as the text is finished.
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
    """Lets each decoder choose the next tokens of its texts, and moves cache rows as the decoder says."""
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
    """Replaces finished texts by waiting ones. If none are waiting, the last texts move into the gaps."""
    free = [place for place, text in enumerate(texts) if text.done]
    free += range(len(texts), num_texts)
    started = []
    while free and (next_one := next(waiting, None)):
        place, (request, prefix, prefix_row) = free.pop(0), next_one
        width, contexts = request.decoder.width, request.contexts
        # The prefix holds all tokens of the context but the last, which goes through the model in the batch.
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
    """Yields each request, a cache of its contexts without their last tokens, and their first row in it."""
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
    """Computes the keys and values of all but the last token of each context.

    Padding comes after the tokens, so no token of a context attends to it.
    """
    length = max(1, max(map(len, contexts)) - 1)
    ids = [[*context[:-1], *[0] * length][:length] for context in contexts]
    prefix = DynamicCache(config=model.config)
    model.base_model(torch.tensor(ids, device=model.device), past_key_values=prefix, use_cache=True)
    return prefix
