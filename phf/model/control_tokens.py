"""The tokens of a model that are no text."""

from __future__ import annotations

from dataclasses import dataclass

from phf.config import ScenarioConfig


@dataclass(frozen=True)
class ControlTokens:
    """The tokens of a model that are no text.

    Attributes:
        eos_id: Ends a document, and opens it.
        tags: The tokens of each tag, from that of segments that agree with the preference to that of those
            that violate it most; empty if the model has no tags.
        bos_id: Opens a document instead, for models made elsewhere that have a token for it.
        tags_are_text: Tags are ordinary text: a model cannot be kept from writing them.
    """

    eos_id: int
    tags: tuple[tuple[int, ...], ...] = ()
    bos_id: int | None = None
    tags_are_text: bool = False

    @property
    def tag_length(self) -> int:
        """Tokens of a tag; of a model without tags as many as of one with control tokens."""
        return len(self.tags[0]) if self.tags else 1

    def prefix(self, scenario: ScenarioConfig) -> list[int]:
        """What stands before every prompt of a scenario: the opening of a document, then the tag if any."""
        opening = self.eos_id if self.bos_id is None else self.bos_id
        tag = {"good": self.tags[:1], "bad": self.tags[-1:], "none": ()}[scenario.tag]
        return [opening, *(token for tokens in tag for token in tokens)]

    def banned(self, scenario: ScenarioConfig) -> list[int]:
        """The control tokens that the model may not write in a scenario."""
        tags = {"none": self.tags, "good": self.tags[1:], "all": ()}[scenario.emit_tags]
        return [] if self.tags_are_text else [token for tokens in tags for token in tokens]
