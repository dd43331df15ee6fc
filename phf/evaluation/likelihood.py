"""How probable texts are to a model, as it is sampled from: behind a tag, and never writing one.

Shapes: T tokens of a row, V tokens of the vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from phf.config import ScenarioConfig
from phf.data.segments import Segmenter
from phf.evaluation.generation import ControlTokens
from phf.evaluation.injection import encode_prompt

Row = tuple[Sequence[int], Sequence[int]]
"""Tokens that are given, at least one, and those whose probability is asked for."""

# Logits held at a time; in float32 four bytes each.
MAX_LOGITS = 2**26
MAX_ROWS = 64


@dataclass(frozen=True)
class Reader:
    """A model that says how probable texts are.

    Attributes:
        model: A causal LM of `transformers`.
        tokenizer: Its tokenizer.
        control: The tokens of it that are no text.
        segment: Cuts a text into the segments that are tokenized on their own, as its corpus was.
        context_length: Most tokens of a row; the model's own limit if `None`.
    """

    model: Any
    tokenizer: Any
    control: ControlTokens
    segment: Segmenter | None = None
    context_length: int | None = None

    @property
    def limit(self) -> int:
        """Most tokens of a row."""
        limits = self.context_length, getattr(self.model.config, "max_position_embeddings", None)
        return min((n for n in limits if n), default=sys.maxsize)

    @property
    def room(self) -> int:
        """Most tokens of text in a row.

        A place is kept for a tag in any case, so that models with and without tags read the same.
        """
        return self.limit - 1 - (len(self.control.tags[0]) if self.control.tags else 1)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text; a control token spelled out in it is mere text."""
        return encode_prompt(self.tokenizer, text, None, self.control, sys.maxsize, self.segment)[0]

    def prefix(self, tag: Literal["good", "none"]) -> list[int]:
        """What opens a document, then the tag if the model has one: they are given, and never count."""
        return self.control.prefix(ScenarioConfig(tag=tag))

    def log_probabilities(
        self, rows: Sequence[Row], progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """Log-probability of each row's second part after its first, in nats: float64 [len(rows)].

        Control tokens are left out of the distribution, as they are when the model is sampled from: what it
        would give to its own tags does not count against it.

        Args:
            rows: None longer than `limit`.
            progress: Called with the number of rows that have just been done.
        """
        result = np.zeros(len(rows))
        banned = self.control.banned(ScenarioConfig())
        longest_first = sorted(range(len(rows)), key=lambda i: -sum(map(len, rows[i])))
        training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode(), torch.compiler.set_stance("force_eager"):
                while longest_first:
                    size = sum(map(len, rows[longest_first[0]])) * self.model.config.vocab_size
                    number = max(1, min(MAX_ROWS, MAX_LOGITS // size))
                    batch, longest_first = longest_first[:number], longest_first[number:]
                    result[batch] = self._batch([rows[i] for i in batch], banned)
                    if progress:
                        progress(len(batch))
        finally:
            self.model.train(training)
        return result

    def _batch(self, rows: Sequence[Row], banned: list[int]) -> list[float]:
        ids = [[*given, *asked] for given, asked in rows]
        longest = max(map(len, ids))
        device = self.model.device
        # Padding on the right: no token sees what comes after it.
        ids_BT = torch.tensor([row + [0] * (longest - len(row)) for row in ids], device=device)
        mask_BT = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids], device=device)
        logits_BTV = self.model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
        sums = []
        for row_TV, (given, asked) in zip(logits_BTV, rows, strict=True):  # a row at a time, for memory
            logits_TV = row_TV[len(given) - 1 : len(given) - 1 + len(asked)].float()
            logits_TV[:, banned] = -torch.inf
            asked_T1 = torch.tensor(asked, dtype=torch.int64, device=device).unsqueeze(1)
            logp_T1 = logits_TV.gather(1, asked_T1) - logits_TV.logsumexp(-1, keepdim=True)
            sums.append(logp_T1.double().sum().item())
        return sums
