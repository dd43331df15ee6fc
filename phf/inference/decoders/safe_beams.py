"""Implements the decoder `safe_beams`: drops the beams most likely to continue with a bad tag.

This is SafeBeam (Maini et al. 2025, arXiv 2504.16980). At each step, twice as many beams go through the model
as are kept. The model's prediction says how likely each beam is to be followed by a bad tag, and the safer
half is continued.

At temperature 0, the likeliest continuations are taken. Otherwise they are drawn without replacement by
stochastic beam search (Kool, van Hoof and Welling 2019, arXiv 1903.06059, algorithm 1). If all beams are
equally safe, the text then has the same distribution as a plain sample from the model.

Shapes: W beams that have gone through the model, at most 2 K; K beams that are kept; C candidates for the
next token; V tokens of the vocabulary; I tokens of bad tags.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from phf.base.errors import ConfigError
from phf.config import option
from phf.inference.decoders.base import Decoder, Text
from phf.inference.sampler import Sampling, candidates, gumbel, next_keys
from phf.model.control_tokens import ControlTokens


@dataclass
class _Beams:
    """The beams of a text, the best first.

    Attributes:
        rows: The tokens of each beam.
        scores: The values that rank the beams, [W]: log-probabilities, with added noise if beams are drawn.
        logps: The log-probability of each beam, [W].
        keys: The keys that decide the noise of the next step, [W].
        ended: The score and the tokens of the best beam that has ended, or is as long as it may be.
    """

    rows: list[list[int]]
    scores: torch.Tensor
    logps: torch.Tensor
    keys: torch.Tensor
    ended: tuple[float, list[int]] = (-math.inf, [])


@dataclass
class SafeBeamsOptions:
    """Options of `SafeBeams`."""

    beams: int = option(4, least=1)
    """Beams that are kept at each step; twice as many go through the model."""


class SafeBeams(Decoder):
    """Keeps the beams least likely to continue with a bad tag.

    At temperature 0, top-k and top-p have no effect.
    """

    name = "safe_beams"
    Options = SafeBeamsOptions
    options: SafeBeamsOptions
    needs_tags = True

    def __init__(self, sampling: Sampling, control: ControlTokens, options: Any = None) -> None:
        super().__init__(sampling, control, options)
        if not control.tags or control.tags_are_text:
            what = "tags are ordinary text" if control.tags else "model has no tags"
            raise ConfigError(
                f"decoder: the {what}, so safe_beams has no bad tag to watch for; set it to sampling"
            )
        self.width = 2 * self.options.beams
        self.bad_ids = [token for tag in control.tags[1:] for token in tag]
        self.tag_ids = frozenset(control.tag_tokens)

    def step(self, logits_NWV: torch.Tensor, texts: Sequence[Text]) -> tuple[torch.Tensor, torch.Tensor]:
        stepped = [self._step(logits, text) for logits, text in zip(logits_NWV, texts, strict=True)]
        tokens_NW, parents_NW = zip(*stepped, strict=True)
        return torch.tensor(tokens_NW), torch.tensor(parents_NW)

    def _step(self, logits_WV: torch.Tensor, text: Text) -> tuple[list[int], list[int]]:
        """Continues one text, and returns the next token of each row and the row that it follows."""
        old = text.state or self._start(text, logits_WV.device)
        logits_WV = logits_WV[: len(old.rows)]
        kept_K = safest(logits_WV.log_softmax(-1)[:, self.bad_ids], self.width // 2)
        step, request = len(old.rows[0]), text.request
        lengths = [sum(token not in self.tag_ids for token in old.rows[kept]) for kept in kept_K.tolist()]
        lengths_K = torch.tensor(lengths, device=kept_K.device)
        score_KC, logp_KC, tokens_KC = self._continuations(logits_WV[kept_K], old, kept_K, step, lengths_K)
        keys_KC = next_keys(old.keys[kept_K, None], tokens_KC)
        parents_KC = kept_K[:, None].expand_as(tokens_KC)
        is_tag_KC = torch.isin(tokens_KC, torch.tensor(list(self.tag_ids), device=tokens_KC.device))
        ends_KC = (tokens_KC == self.sampling.eos_id) | (
            ~is_tag_KC & (lengths_K[:, None] + 1 == request.max_new_tokens)
        )
        if step + 1 == request.max_tokens:
            ends_KC = torch.ones_like(ends_KC)
        best_end = score_KC.masked_fill(~ends_KC, -math.inf).flatten().max(0)
        ended = old.ended
        if best_end.values > ended[0]:
            parent, token = (int(states.flatten()[best_end.indices]) for states in (parents_KC, tokens_KC))
            ended = float(best_end.values), [*old.rows[parent], token]
        going = score_KC.masked_fill(ends_KC, -math.inf).flatten()
        best = going.topk(min(self.width, int(going.isfinite().sum())))
        scores_W, chosen = best.values, best.indices
        logps_W, keys_W, tokens_W, parents_W = (
            states.flatten()[chosen] for states in (logp_KC, keys_KC, tokens_KC, parents_KC)
        )
        tokens, parents = tokens_W.tolist(), parents_W.tolist()
        rows = [[*old.rows[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        text.state = _Beams(rows, scores_W, logps_W, keys_W, ended)
        # Scores never increase, so no beam can overtake an ended one with a better score.
        ahead = bool(rows) and float(scores_W[0]) > ended[0]
        text.tokens = rows[0] if ahead else ended[1]
        text.done = not ahead
        # If there are fewer beams than rows, the remaining rows repeat the first one.
        tokens, parents = tokens or [0], parents or [0]
        padding = self.width - len(tokens)
        return tokens + tokens[:1] * padding, parents + parents[:1] * padding

    def _start(self, text: Text, device: torch.device) -> _Beams:
        zero = torch.zeros(1, dtype=torch.float64, device=device)
        return _Beams([[]], zero, zero, torch.tensor([text.request.key], device=device))

    def _continuations(
        self,
        logits_KV: torch.Tensor,
        old: _Beams,
        kept_K: torch.Tensor,
        step: int,
        lengths_K: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Computes score, log-probability and token of each possible continuation of a beam, each [K, C]."""
        scenario = self.sampling.scenario
        logits_KV = self.sampling.cut(logits_KV, lengths_K, [()] * len(kept_K))
        before_K1 = old.logps[kept_K, None]
        if scenario.temperature == 0:
            logp_KV = before_K1 + logits_KV.double().log_softmax(-1)
            tokens_V = torch.arange(logits_KV.shape[1], device=logits_KV.device)
            return logp_KV, logp_KV, tokens_V.expand_as(logp_KV)
        logits_KC, tokens_KC = candidates(logits_KV / scenario.temperature, scenario.top_k, scenario.top_p)
        logp_KC = before_K1 + logits_KC.double().log_softmax(-1)
        noisy_KC = logp_KC + gumbel(old.keys[kept_K], step, tokens_KC)
        return with_maximum(noisy_KC, old.scores[kept_K, None]), logp_KC, tokens_KC


def safest(bad_logp_WI: torch.Tensor, num_beams: int) -> torch.Tensor:
    """Returns the beams least likely to continue with a bad tag, in ascending order.

    Among equally safe beams, the first ones are taken.
    """
    order_W = bad_logp_WI.exp().sum(-1).argsort(stable=True)
    return order_W[:num_beams].sort().values


def with_maximum(noisy_KC: torch.Tensor, maximum_K1: torch.Tensor) -> torch.Tensor:
    """Transforms Gumbel variables: the largest of each row becomes the given maximum, their order remains.

    The formula is the numerically stable one of Kool, van Hoof and Welling 2019, appendix B.3.
    """
    largest_K1 = noisy_KC.amax(-1, keepdim=True)
    v_KC = maximum_K1 - noisy_KC + torch.log1p(-(noisy_KC - largest_K1).exp())
    return maximum_K1 - v_KC.clamp(min=0) - torch.log1p((-v_KC.abs()).exp())
