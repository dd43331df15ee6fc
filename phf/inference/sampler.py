"""Draws tokens with noise that is a hash of seed, prompt, sample, step and token.

The noise depends on nothing else. So a sample does not depend on the batch it is drawn in. Two models that
get the same prompt with the same seed also get the same noise, and their samples differ only as far as their
distributions do.

Shapes: B rows of a batch, V tokens of the vocabulary, K candidates left after top-k and top-p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LogitsProcessor

from phf.config import ScenarioConfig
from phf.inference.tag_rule import TagRule
from phf.model.control_tokens import ControlTokens

# Top-p looks at this many of the likeliest tokens first, because sorting the whole vocabulary can take longer
# than the model.
FIRST_CANDIDATES = 64


@dataclass(frozen=True)
class Sampling:
    """Draws the next token from logits.

    Attributes:
        scenario: Gives temperature, top-k, top-p and the minimum length.
        banned_ids: Tokens that must not be drawn.
        eos_id: The token that ends a text.
        rule: Which tag is written where the model would write one; `None` leaves tags to the model.
    """

    scenario: ScenarioConfig
    banned_ids: tuple[int, ...]
    eos_id: int
    rule: TagRule | None = None

    @property
    def memory(self) -> int:
        """How many of the last tokens of a row a draw depends on, besides the logits."""
        return self.rule.memory if self.rule else 0

    def cut(
        self, logits_BV: torch.Tensor, lengths_B: torch.Tensor, recent: Sequence[Sequence[int]]
    ) -> torch.Tensor:
        """Changes logits in place: tags by the rule, banned tokens, and the end before `min_new_tokens`."""
        if self.rule:
            self.rule.apply(logits_BV, recent)
        logits_BV[:, list(self.banned_ids)] = -math.inf
        if self.scenario.min_new_tokens:
            logits_BV[lengths_B < self.scenario.min_new_tokens, self.eos_id] = -math.inf
        return logits_BV

    def draw(
        self,
        logits_BV: torch.Tensor,
        keys_B: torch.Tensor,
        steps_B: torch.Tensor,
        lengths_B: torch.Tensor | None = None,
        recent: Sequence[Sequence[int]] = (),
    ) -> torch.Tensor:
        """Draws the next token of each row, int64 [B].

        The distribution is softmax(logits / temperature), cut by top-k and then by top-p, as in
        `transformers`. The token with the largest logit after adding Gumbel noise is a draw from it.

        Args:
            logits_BV: Logits of the next token; overwritten.
            keys_B: A 64-bit key for each row, from `row_keys`.
            steps_B: The number of tokens that each row already has.
            lengths_B: The number of these that are not part of a tag; by default all.
            recent: The last `memory` tokens of each row.
        """
        logits_BV = self.cut(logits_BV, steps_B if lengths_B is None else lengths_B, recent)
        if self.scenario.temperature == 0:
            return logits_BV.argmax(-1)
        logits_BK, tokens_BK = candidates(
            logits_BV / self.scenario.temperature, self.scenario.top_k, self.scenario.top_p
        )
        best_B1 = (logits_BK + gumbel(keys_B, steps_B, tokens_BK)).argmax(-1, keepdim=True)
        return tokens_BK.gather(1, best_B1).squeeze(1)


class GumbelSampler(LogitsProcessor):
    """Applies a `Sampling` within `generate` of `transformers`.

    It leaves only the drawn token possible, so that greedy decoding takes it.

    Args:
        sampling: How to draw.
        keys_B: A 64-bit key for each row, from `row_keys`.
        prompt_length: Tokens of the padded prompts.
        control: The tokens of the model that are not text.
        max_new_tokens: A text of this many tokens, not counting tags, is ended.
    """

    def __init__(
        self,
        sampling: Sampling,
        keys_B: torch.Tensor,
        prompt_length: int,
        control: ControlTokens,
        max_new_tokens: int,
    ) -> None:
        self.sampling = sampling
        self.control = control
        self.max_new_tokens = max_new_tokens
        self.keys_B = keys_B
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        steps_B = torch.full_like(self.keys_B, input_ids.shape[1] - self.prompt_length)
        lengths_B = steps_B
        if self.control.tags:
            rows = input_ids[:, self.prompt_length :].tolist()
            lengths_B = lengths_B.new_tensor([sum(1 for _ in self.control.text(row)) for row in rows])
        recent = input_ids[:, input_ids.shape[1] - self.sampling.memory :].tolist()
        drawn_B = self.sampling.draw(scores, self.keys_B, steps_B, lengths_B, recent)
        drawn_B[lengths_B >= self.max_new_tokens] = self.sampling.eos_id
        return torch.full_like(scores, -math.inf).scatter_(1, drawn_B.unsqueeze(1), 0.0)


def candidates(
    logits_BV: torch.Tensor,
    top_k: int | None,
    top_p: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Applies top-k and then top-p, and returns the logits of the candidates and their tokens, both [B, K].

    A candidate that top-p removes has the logit -inf.
    """
    vocab_size = logits_BV.shape[1]
    largest = min(top_k or vocab_size, vocab_size)
    if top_p >= 1 and largest == vocab_size:
        return logits_BV, torch.arange(vocab_size, device=logits_BV.device).expand_as(logits_BV)
    if top_p >= 1:
        top = logits_BV.topk(largest)
        return top.values, top.indices
    size = min(FIRST_CANDIDATES, largest)
    whole_BV = logits_BV if largest == vocab_size else logits_BV.topk(largest).values
    log_total_B1 = whole_BV.logsumexp(-1, keepdim=True)
    while True:
        top = logits_BV.topk(size)
        probability_BK = (top.values - log_total_B1).exp()
        before_BK = probability_BK.cumsum(-1) - probability_BK
        if size == largest or bool((before_BK[:, -1] >= top_p).all()):
            # The probability before the likeliest token is 0, so at least one candidate remains.
            return top.values.masked_fill(before_BK >= top_p, -math.inf), top.indices
        size = min(16 * size, largest)


def row_keys(seed: int, prompt_index: Sequence[int], sample_index: Sequence[int]) -> torch.Tensor:
    """Computes a 64-bit key for each sample, int64 [B]."""
    key_B = _mix(torch.full((len(prompt_index),), seed, dtype=torch.int64))
    key_B = _mix(key_B ^ torch.tensor(prompt_index, dtype=torch.int64))
    return _mix(key_B ^ torch.tensor(sample_index, dtype=torch.int64))


def next_keys(keys: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Derives the keys to use after a token, for several texts that started with the same key."""
    return _mix(keys ^ tokens)


def gumbel(keys_B: torch.Tensor, steps_B: torch.Tensor | int, tokens_BK: torch.Tensor) -> torch.Tensor:
    """Computes standard Gumbel noise, float64 [B, K], which depends only on key, step and token."""
    bits_BK = _mix(_mix(keys_B ^ steps_B).unsqueeze(1) ^ tokens_BK)
    uniform_BK = (_shift_right(bits_BK, 12).double() + 0.5) * 2.0**-52  # never 0, never 1
    return -(-uniform_BK.log()).log()


def _mix(x: torch.Tensor) -> torch.Tensor:
    """Computes the SplitMix64 output (Steele, Lea and Flood 2014) that follows each state, modulo 2**64."""
    x = x - 0x61C8864680B583EB
    x = (x ^ _shift_right(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift_right(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift_right(x, 31)


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Shifts right and fills with zeros. Torch has no unsigned 64-bit arithmetic, and `>>` keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
