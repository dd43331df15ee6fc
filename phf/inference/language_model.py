"""Wraps a network and its tokenizer: encodes text as in training, and computes its log-probability.

Each segment is tokenized on its own, and follows the tag if the model has tags. Tags are given to the model.
They never count, and they are excluded from the distribution: it is that of text.

Shapes: B rows of a batch, T tokens of a row, V tokens of the vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from phf.config import ScenarioConfig
from phf.documents.segments import Segmenter
from phf.inference.prompt_tokens import encode_prompt
from phf.model.control_tokens import ControlTokens

# Logits held at a time, 4 bytes each in float32.
MAX_LOGITS = 2**26
MAX_ROWS = 64


@dataclass(frozen=True, slots=True)
class Row:
    """A row of tokens, some of which count.

    Attributes:
        ids: The tokens.
        counted: Positions of the tokens that count, ascending; never position 0.
    """

    ids: list[int]
    counted: list[int]


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its tokenizer, control tokens and segmenter.

    Attributes:
        network: A causal LM of `transformers`.
        tokenizer: The tokenizer of the model.
        control: The tokens of the model that are not text.
        segment: Cuts a text into the segments that are tokenized on their own. `None`: a text is one segment.
        context_length: The maximum number of tokens in a row. `None`: only the network's own limit applies.
    """

    network: Any
    tokenizer: Any
    control: ControlTokens
    segment: Segmenter | None = None
    context_length: int | None = None

    @property
    def limit(self) -> int:
        """The maximum number of tokens in a row.

        It is `sys.maxsize` without a `context_length` if the network states no limit either (for example
        with relative positions).
        """
        limits = self.context_length, getattr(self.network.config, "max_position_embeddings", None)
        return min((n for n in limits if n), default=sys.maxsize)

    def encode(self, text: str) -> list[list[int]]:
        """Tokenizes each segment of a text. A control token spelled out in the text is ordinary text."""
        segments = self.segment(text) if self.segment else [text]
        return [
            encode_prompt(self.tokenizer, segment, None, self.control, sys.maxsize)[0]
            for segment in segments
            if segment
        ]

    def size(self, segments: Iterable[Sequence[int]]) -> int:
        """The number of tokens in a row of these segments.

        Room for a tag is reserved before each segment even without tags, so that models with and without tags
        read the same text.
        """
        return 1 + sum(self.control.tag_length + len(segment) for segment in segments)

    def row(
        self,
        tag: Literal["good", "none"],
        given: Iterable[Sequence[int]],
        asked: Iterable[Sequence[int]],
        end: bool = False,
    ) -> Row:
        """Builds a row: the opening of a document, then segments, each after the tag if the model has tags.

        Args:
            tag: The tag to use.
            given: Segments that are context and do not count.
            asked: Segments that count.
            end: Whether the end of the document is added, and counts too.
        """
        opening, *tag_ids = self.control.prefix(ScenarioConfig(tag=tag))
        ids = [opening]
        counted: list[int] = []
        for segments, counts in ((given, False), (asked, True)):
            for segment in segments:
                ids += tag_ids
                counted += range(len(ids), len(ids) + len(segment)) if counts else ()
                ids += segment
        if end:
            counted.append(len(ids))
            ids.append(self.control.eos_id)
        return Row(ids, counted)

    def log_probabilities(
        self, rows: Sequence[Row], progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """Computes the log-probability of the counted tokens of each row, in nats: float64 [len(rows)].

        Each token is conditioned on all tokens before it. Tags are excluded from the distribution. So the
        probability that the model gives to its own tags does not count against it.

        Args:
            rows: Rows of at most `limit` tokens.
            progress: Called with the number of rows just completed.
        """
        result = np.zeros(len(rows))
        banned = self.control.tag_tokens
        longest_first = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
        training = self.network.training
        self.network.eval()
        try:
            with torch.inference_mode(), torch.compiler.set_stance("force_eager"):
                while longest_first:
                    size = len(rows[longest_first[0]].ids) * self.network.config.vocab_size
                    number = max(1, min(MAX_ROWS, MAX_LOGITS // size))
                    batch, longest_first = longest_first[:number], longest_first[number:]
                    result[batch] = self._batch([rows[i] for i in batch], banned)
                    if progress:
                        progress(len(batch))
        finally:
            self.network.train(training)
        return result

    def _batch(self, rows: Sequence[Row], banned: list[int]) -> list[float]:
        longest = max(len(row.ids) for row in rows)
        device = self.network.device
        # Padding on the right: no token sees what comes after it.
        ids_BT = torch.tensor([row.ids + [0] * (longest - len(row.ids)) for row in rows], device=device)
        mask_BT = torch.tensor(
            [[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows], device=device
        )
        logits_BTV = self.network(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
        sums = []
        for row_TV, ids_T, row in zip(logits_BTV, ids_BT, rows, strict=True):  # one at a time, to save memory
            counted_T = torch.tensor(row.counted, dtype=torch.int64, device=device)
            logits_TV = row_TV[counted_T - 1].float()
            logits_TV[:, banned] = -torch.inf
            logp_T1 = logits_TV.gather(1, ids_T[counted_T, None]) - logits_TV.logsumexp(-1, keepdim=True)
            sums.append(logp_T1.double().sum().item())
        return sums
