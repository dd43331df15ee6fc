"""How probable texts are to a model that reads them as it read its corpus: a tag before each segment.

Tags are given and never count, and the model does not write them, as when it is sampled from.

Shapes: T tokens of a row, V tokens of the vocabulary.
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


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens, and which of them count; never the first.

    Attributes:
        ids: The tokens.
        counted: Their places, ascending.
    """

    ids: list[int]
    counted: list[int]


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

    def encode(self, text: str) -> list[list[int]]:
        """The tokens of each segment of a text; a control token spelled out in it is mere text."""
        segments = self.segment(text) if self.segment else [text]
        return [
            encode_prompt(self.tokenizer, segment, None, self.control, sys.maxsize)[0]
            for segment in segments
            if segment
        ]

    def size(self, segments: Iterable[Sequence[int]]) -> int:
        """Tokens of a row of these segments.

        A place is kept for a tag before each in any case: models with and without tags read the same.
        """
        return 1 + sum(self.control.tag_length + len(segment) for segment in segments)

    def row(
        self,
        tag: Literal["good", "none"],
        given: Iterable[Sequence[int]],
        asked: Iterable[Sequence[int]],
        end: bool = False,
    ) -> Row:
        """What opens a document, then segments, each behind the tag if the model has one.

        Args:
            tag: Which tag.
            given: Segments whose probability is not asked for.
            asked: Those that count.
            end: Whether the end of the document is asked for as well.
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
        """Log-probability of what counts in each row after all before it, in nats: float64 [len(rows)].

        Control tokens are left out of the distribution, as they are when the model is sampled from: what it
        would give to its own tags does not count against it.

        Args:
            rows: None longer than `limit`.
            progress: Called with the number of rows that have just been done.
        """
        result = np.zeros(len(rows))
        banned = self.control.banned(ScenarioConfig())
        longest_first = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
        training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode(), torch.compiler.set_stance("force_eager"):
                while longest_first:
                    size = len(rows[longest_first[0]].ids) * self.model.config.vocab_size
                    number = max(1, min(MAX_ROWS, MAX_LOGITS // size))
                    batch, longest_first = longest_first[:number], longest_first[number:]
                    result[batch] = self._batch([rows[i] for i in batch], banned)
                    if progress:
                        progress(len(batch))
        finally:
            self.model.train(training)
        return result

    def _batch(self, rows: Sequence[Row], banned: list[int]) -> list[float]:
        longest = max(len(row.ids) for row in rows)
        device = self.model.device
        # Padding on the right: no token sees what comes after it.
        ids_BT = torch.tensor([row.ids + [0] * (longest - len(row.ids)) for row in rows], device=device)
        mask_BT = torch.tensor(
            [[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows], device=device
        )
        logits_BTV = self.model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
        sums = []
        for row_TV, ids_T, row in zip(logits_BTV, ids_BT, rows, strict=True):  # a row at a time, for memory
            counted_T = torch.tensor(row.counted, dtype=torch.int64, device=device)
            logits_TV = row_TV[counted_T - 1].float()
            logits_TV[:, banned] = -torch.inf
            logp_T1 = logits_TV.gather(1, ids_T[counted_T, None]) - logits_TV.logsumexp(-1, keepdim=True)
            sums.append(logp_T1.double().sum().item())
        return sums
