"""Beam search that drops the beams most likely to go on with a bad tag.

SafeBeam (Maini et al. 2025, arXiv 2504.16980): at each step twice as many beams as are kept have gone through
the model, so that it is known how likely each is to be followed by a bad tag; the safer half is continued.
Without a temperature the continuations are the likeliest ones. With one they are drawn, without replacement,
by stochastic beam search (Kool, van Hoof and Welling 2019, arXiv 1903.06059, algorithm 1): where no beam is
safer than another, the text is a draw from the model as it is without beams.

Shapes: W beams that have gone through the model, at most 2 K; K of them that are kept; C candidates for the
next token; V tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LogitsProcessor

from phf.inference.continuous import Text
from phf.inference.sampler import Sampling, candidates, gumbel, next_keys


@dataclass
class _Beams:
    """The beams of a text, the best first.

    Attributes:
        rows: The tokens of each.
        scores: What they are ranked by, [W]: the log-probability, perturbed where beams are drawn.
        logps: The log-probability, [W].
        keys: What decides the noise of what follows, [W].
        ended: The score of the best text that has come to its end, and its tokens.
    """

    rows: list[list[int]]
    scores: torch.Tensor
    logps: torch.Tensor
    keys: torch.Tensor
    ended: tuple[float, list[int]] = (-math.inf, [])


class SafeBeams:
    """The decoder.

    Args:
        sampling: How to draw; without a temperature, neither top-k nor top-p cuts anything.
        num_beams: Beams that are kept.
        bad_ids: The tags that good text does not go on with.
    """

    def __init__(self, sampling: Sampling, num_beams: int, bad_ids: Sequence[int]) -> None:
        self.sampling = sampling
        self.width = 2 * num_beams
        self.bad_ids = list(bad_ids)

    def step(self, logits_NWV: torch.Tensor, texts: Sequence[Text]) -> tuple[torch.Tensor, torch.Tensor]:
        stepped = [self._step(logits, text) for logits, text in zip(logits_NWV, texts, strict=True)]
        tokens_NW, parents_NW = zip(*stepped, strict=True)
        return torch.tensor(tokens_NW), torch.tensor(parents_NW)

    def _step(self, logits_WV: torch.Tensor, text: Text) -> tuple[list[int], list[int]]:
        """Continues one text: the next token of each row, and the row that it follows."""
        old = text.state or self._start(text, logits_WV.device)
        logits_WV = logits_WV[: len(old.rows)]
        kept_K = safest(logits_WV.log_softmax(-1)[:, self.bad_ids], self.width // 2)
        score_KC, logp_KC, tokens_KC = self._continuations(logits_WV[kept_K], old, kept_K, len(text.tokens))
        keys_KC = next_keys(old.keys[kept_K, None], tokens_KC)
        parents_KC = kept_K[:, None].expand_as(tokens_KC)
        ends_KC = tokens_KC == self.sampling.eos_id
        best_end = score_KC.masked_fill(~ends_KC, -math.inf).flatten().max(0)
        ended = old.ended
        if best_end.values > ended[0]:
            parent = int(parents_KC.flatten()[best_end.indices])
            ended = float(best_end.values), [*old.rows[parent], self.sampling.eos_id]
        going = score_KC.masked_fill(ends_KC, -math.inf).flatten()
        best = going.topk(min(self.width, int(going.isfinite().sum())))
        scores_W, chosen = best.values, best.indices
        logps_W, keys_W, tokens_W, parents_W = (
            states.flatten()[chosen] for states in (logp_KC, keys_KC, tokens_KC, parents_KC)
        )
        tokens, parents = tokens_W.tolist(), parents_W.tolist()
        rows = [[*old.rows[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        text.state = _Beams(rows, scores_W, logps_W, keys_W, ended)
        # No score grows, so that nothing can overtake a text that has ended with a better one.
        ahead = bool(rows) and float(scores_W[0]) > ended[0]
        text.tokens = rows[0] if ahead else ended[1]
        text.done = not ahead or len(rows[0]) == text.request.max_new_tokens
        # Where there are fewer beams than rows, the others do what the first one does.
        tokens, parents = tokens or [0], parents or [0]
        padding = self.width - len(tokens)
        return tokens + tokens[:1] * padding, parents + parents[:1] * padding

    def _start(self, text: Text, device: torch.device) -> _Beams:
        zero = torch.zeros(1, dtype=torch.float64, device=device)
        return _Beams([[]], zero, zero, torch.tensor([text.request.key], device=device))

    def _continuations(
        self, logits_KV: torch.Tensor, old: _Beams, kept_K: torch.Tensor, step: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Score, log-probability and token of what each beam may go on with, each [K, C]."""
        scenario = self.sampling.scenario
        logits_KV = self.sampling.cut(logits_KV, torch.full_like(kept_K, step))
        before_K1 = old.logps[kept_K, None]
        if scenario.temperature == 0:
            logp_KV = before_K1 + logits_KV.double().log_softmax(-1)
            tokens_V = torch.arange(logits_KV.shape[1], device=logits_KV.device)
            return logp_KV, logp_KV, tokens_V.expand_as(logp_KV)
        logits_KC, tokens_KC = candidates(logits_KV / scenario.temperature, scenario.top_k, scenario.top_p)
        logp_KC = before_K1 + logits_KC.double().log_softmax(-1)
        noisy_KC = logp_KC + gumbel(old.keys[kept_K], step, tokens_KC)
        return with_maximum(noisy_KC, old.scores[kept_K, None]), logp_KC, tokens_KC


class DropBadBeams(LogitsProcessor):
    """The same for the beam search of `generate` of `transformers`, with `num_beams` beams in all.

    Of the beams of a text the half most likely to go on with a bad tag is not continued, and none writes it.

    Args:
        bad_ids: The tags.
        num_beams: That of `generate`; an even number.
    """

    def __init__(self, bad_ids: Sequence[int], num_beams: int) -> None:
        self.bad_ids = list(bad_ids)
        self.num_beams = num_beams

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # Beam search hands over log-probabilities.
        dropped = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
        for start in range(0, len(scores), self.num_beams):
            bad_WI = scores[start : start + self.num_beams, self.bad_ids]
            dropped[start + safest(bad_WI, self.num_beams // 2)] = False
        scores = scores.clone()
        scores[:, self.bad_ids] = -math.inf
        return scores.log_softmax(-1).masked_fill(dropped[:, None], -math.inf)


def safest(bad_logp_WI: torch.Tensor, num_beams: int) -> torch.Tensor:
    """The beams least likely to go on with a bad tag, in their order; among equals the first."""
    order_W = bad_logp_WI.exp().sum(-1).argsort(stable=True)
    return order_W[:num_beams].sort().values


def with_maximum(noisy_KC: torch.Tensor, maximum_K1: torch.Tensor) -> torch.Tensor:
    """Gumbel variables, changed so that the largest of each row is the given one and their order remains.

    Kool, van Hoof and Welling 2019, appendix B.3, which does not lose digits.
    """
    largest_K1 = noisy_KC.amax(-1, keepdim=True)
    v_KC = maximum_K1 - noisy_KC + torch.log1p(-(noisy_KC - largest_K1).exp())
    return maximum_K1 - v_KC.clamp(min=0) - torch.log1p((-v_KC.abs()).exp())
