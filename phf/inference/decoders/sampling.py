"""Implements the decoder `sampling`: draws each token from the model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from phf.inference.decoders.base import Decoder, Text


class Sampler(Decoder):
    """Draws each token from the model, with the scenario's temperature, top-k and top-p.

    A subclass that overrides `combine` draws from other logits instead.
    """

    name = "sampling"
    plain = True

    def step(self, logits_NWV: torch.Tensor, texts: Sequence[Text]) -> tuple[torch.Tensor, None]:
        device = logits_NWV.device
        recent = [text.recent(self.sampling.memory) for text in texts]
        drawn_N = self.sampling.draw(
            self.combine(logits_NWV, texts),
            torch.tensor([text.request.key for text in texts], device=device),
            torch.tensor([len(text.tokens) for text in texts], device=device),
            torch.tensor([text.length for text in texts], device=device),
            recent,
        )
        for text, token in zip(texts, drawn_N.tolist(), strict=True):
            text.add(token)
        return self.spread(drawn_N, texts), None

    def combine(self, logits_NWV: torch.Tensor, texts: Sequence[Text]) -> torch.Tensor:
        """The logits to draw from, [N, V]."""
        return logits_NWV[:, 0]

    def spread(self, drawn_N: torch.Tensor, texts: Sequence[Text]) -> torch.Tensor:
        """The next token of each row, [N, W]. The drawn tokens are the last ones of the texts already."""
        return drawn_N[:, None]
