"""Defines the control tokens of a model, the tokens that are not text: `<|endoftext|>` and tags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from phf.config import ScenarioConfig


@dataclass(frozen=True)
class ControlTokens:
    """The tokens of a model that are not text.

    Attributes:
        eos_id: The token that ends a document, and also opens a document if `bos_id` is `None`.
        tags: The tokens of each tag, from the best tag (segments that agree with the preference) to the worst
            (segments that violate it most); empty if the model has no tags.
        bos_id: The token that opens a document in models made elsewhere, if they have one.
        tags_are_text: Whether tags are ordinary text. A model cannot be kept from writing such tags.
    """

    eos_id: int
    tags: tuple[tuple[int, ...], ...] = ()
    bos_id: int | None = None
    tags_are_text: bool = False

    @property
    def tag_length(self) -> int:
        """Tokens in a tag. Without tags this is 1, the length of a tag that is a control token."""
        return len(self.tags[0]) if self.tags else 1

    def prefix(self, scenario: ScenarioConfig) -> list[int]:
        """Returns the tokens before every prompt of a scenario: the document opening, then the tag if any."""
        opening = self.eos_id if self.bos_id is None else self.bos_id
        tag = {"good": self.tags[:1], "bad": self.tags[-1:], "none": ()}[scenario.tag]
        return [opening, *(token for tokens in tag for token in tokens)]

    @property
    def tag_tokens(self) -> list[int]:
        """The tokens of tags that are not ordinary text: what a text cannot hold."""
        return [] if self.tags_are_text else [token for tag in self.tags for token in tag]

    def banned(self, scenario: ScenarioConfig) -> list[int]:
        """Returns the control tokens that the model must not write in a scenario."""
        return {"none": self.tag_tokens, "good": self.tag_tokens[1:]}.get(scenario.emit_tags, [])

    def text(self, row: Sequence[int], finished: bool = True) -> Iterator[int]:
        """Yields the tokens of a row that are not part of a tag.

        An unfinished row may end within a tag. The part of this tag that was written is left out too.
        """
        place = 0
        while place < len(row):
            tag = next((tag for tag in self.tags if tuple(row[place : place + len(tag)]) == tag), None)
            if tag is None:
                rest = tuple(row[place:])
                if not finished and any(tag[: len(rest)] == rest for tag in self.tags):
                    return
                yield row[place]
            place += len(tag or (0,))
