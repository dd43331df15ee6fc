"""Defines what a decoder does: it chooses the next tokens of texts from the model's predictions.

Shapes: N texts, W rows of a text, V tokens of the vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch

from phf.config import NoOptions
from phf.inference.sampler import Sampling
from phf.model.control_tokens import ControlTokens


class Decoder(ABC):
    """Chooses the next tokens of the texts of a scenario.

    Args:
        sampling: How a token is drawn from logits, with the scenario's settings.
        control: The tokens of the model that are not text.
        options: An instance of `Options`.

    Raises:
        ConfigError: The scenario or the model does not fit the decoder.

    Attributes:
        name: The name in `phf decoders`.
        Options: A dataclass of the decoder's own options, with a sentence under each field.
        context_tags: A text has one context for each of these tags. Empty: it has one context, with the
            scenario's tag.
        needs_tags: Whether the model must have a good and a bad tag. For a model without tags, scenarios with
            this decoder are skipped.
        plain: Whether each token is drawn by `sampling` from the model's own logits. Any engine can run such
            a decoder.
        width: Rows that a text takes in a batch.
    """

    name: ClassVar[str]
    Options: ClassVar[type] = NoOptions
    context_tags: ClassVar[tuple[Literal["good", "bad"], ...]] = ()
    needs_tags: ClassVar[bool] = False
    plain: ClassVar[bool] = False
    width: int = 1

    def __init__(self, sampling: Sampling, control: ControlTokens, options: Any = None) -> None:
        self.sampling = sampling
        self.control = control
        self.options = self.Options() if options is None else options

    @abstractmethod
    def step(
        self, logits_NWV: torch.Tensor, texts: Sequence[Text]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Adds a token to each text, and marks the texts that are done.

        Args:
            logits_NWV: Logits of the next token, float32; may be overwritten.
            texts: The texts.

        Returns:
            The next token of each row, int64 [N, W], and for each row the row of the same text that it
            continues, int64 [N, W]. The second is `None` if each row continues itself.
        """


@dataclass(frozen=True)
class Request:
    """A text to generate.

    Attributes:
        contexts: The tokens before the text: one context for all rows, or one for each row.
        decoder: Chooses the tokens of the text.
        max_new_tokens: The maximum number of new tokens, not counting tags.
        max_tokens: The maximum number of new tokens, tags included.
        key: A 64-bit number that decides the noise of the draw.
        name: The scenario that the text belongs to.
        index: Index of the request among those of the scenario.
    """

    contexts: tuple[tuple[int, ...], ...]
    decoder: Decoder
    max_new_tokens: int
    max_tokens: int
    key: int
    name: str
    index: int

    @property
    def length(self) -> int:
        """The maximum number of tokens, including the longest context."""
        return max(map(len, self.contexts)) + self.max_tokens


@dataclass
class Text:
    """A text that is being generated.

    Attributes:
        request: The request for the text.
        next_tokens: For each row, the token that goes through the model next.
        tokens: The new tokens so far.
        length: The number of these tokens that are not part of a tag.
        done: Whether the text is finished.
        state: Belongs to the decoder, for data that it keeps between steps.
    """

    request: Request
    next_tokens: list[int]
    tokens: list[int] = field(default_factory=list)
    length: int = 0
    done: bool = False
    state: Any = None

    def context_length(self, row: int) -> int:
        """The number of tokens before the text in a row."""
        return len(self.request.contexts[row % len(self.request.contexts)])

    def add(self, token: int) -> None:
        """Adds a token, and marks the text as done if the token ends it or no more tokens are allowed."""
        control, request = self.request.decoder.control, self.request
        self.tokens.append(token)
        self.length += 1
        if control.tags and tuple(self.tokens[-control.tag_length :]) in control.tags:
            self.length -= control.tag_length
        self.done = (
            token == self.request.decoder.sampling.eos_id
            or self.length == request.max_new_tokens
            or len(self.tokens) == request.max_tokens
        )

    def recent(self, number: int) -> list[int]:
        """The last tokens of the first row, its context included."""
        written = self.tokens[-number:] if number else []
        missing = number - len(written)
        return [*self.request.contexts[0][-missing:], *written] if missing else written


def until_done(request: Request, row: Sequence[int]) -> list[int]:
    """Returns the tokens of a row up to where the text is done; see `Text.add`."""
    text = Text(request, [])
    for token in row:
        text.add(token)
        if text.done:
            break
    return text.tokens
