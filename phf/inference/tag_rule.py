"""Lets a model write tags as in training: where it would write any tag, it writes the operator's.

A model that was trained with a tag before every segment gives nearly all probability to tags at the end of a
segment. If tags are banned there, their probability goes to the rest: to the end of the text, and to text
without a tag, which is where the model was not taught to be good.

Shapes: B rows of a batch, V tokens of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LogitsProcessor, LogitsProcessorList

from phf.config import ScenarioConfig
from phf.model.control_tokens import ControlTokens
from phf.model.model_folder import find_model

_HALF = math.log(0.5)


@dataclass(frozen=True)
class TagRule:
    """Gives the probability of all tags to one of them.

    A tag of several tokens is followed token by token: where the row ends with a beginning of `target`, the
    next tokens of all tags with this beginning count as one. Tags that are ordinary text may begin like
    other text. If they differ in their first token, a tag is taken to begin only where these tokens have
    more than half of the probability.

    Attributes:
        tags: The tokens of each tag, all equally many.
        target: The tag that is written.
        are_text: Whether tags are ordinary text.
        force: Whether the tag is the only choice where tags have more than half of the probability.
            Otherwise a high temperature leaves a way around the tag.
    """

    tags: tuple[tuple[int, ...], ...]
    target: tuple[int, ...]
    are_text: bool = False
    force: bool = False

    @property
    def memory(self) -> int:
        """How many of the last tokens of a row decide what the rule does."""
        return len(self.target) - 1

    def places(
        self, logits_BV: torch.Tensor, recent: Sequence[Sequence[int]]
    ) -> Iterator[tuple[int, list[int], slice | torch.Tensor]]:
        """Yields where in a tag rows are, for all rows that may write a tag.

        Args:
            logits_BV: Logits of the next token.
            recent: The last `memory` tokens of each row.

        Yields:
            The index in the tag, the tokens that continue a tag there, and the rows.
        """
        if not self.memory:
            yield 0, [tag[0] for tag in self.tags], slice(None)
            return
        places = [tokens_written(self.target, row, self.memory) for row in recent]
        for place in sorted(set(places)):
            begun = self.target[:place]
            tokens = sorted({tag[place] for tag in self.tags if tag[:place] == begun})
            rows = torch.tensor([i for i, at in enumerate(places) if at == place], device=logits_BV.device)
            if self.are_text and place == 0 and len(tokens) > 1:
                rows = rows[_log_share(logits_BV[rows], tokens) > _HALF]
            if len(rows):
                yield place, tokens, rows

    def apply(self, logits_BV: torch.Tensor, recent: Sequence[Sequence[int]]) -> torch.Tensor:
        """Moves the probability of tags to the target, in place; see `places`."""
        for place, tokens, rows in self.places(logits_BV, recent):
            logits = logits_BV[rows]
            forced = _log_share(logits, tokens) > _HALF if self.force else None
            total = logits[:, tokens].logsumexp(-1)
            logits[:, tokens] = -math.inf
            if forced is not None:
                logits[forced] = -math.inf
            logits[:, self.target[place]] = total
            logits_BV[rows] = logits
        return logits_BV


def tokens_written(tag: tuple[int, ...], row: Sequence[int], most: int) -> int:
    """Returns how many of the first tokens of a tag a row ends with, at most `most`."""
    end = tuple(row)
    return next(n for n in range(min(most, len(end)), -1, -1) if end[len(end) - n :] == tag[:n])


def _log_share(logits_BV: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    """Computes the log-probability that one of these tokens comes next, [B]."""
    return logits_BV[:, tokens].logsumexp(-1) - logits_BV.logsumexp(-1)


def tag_rule(scenario: ScenarioConfig, control: ControlTokens) -> TagRule | None:
    """Returns the rule of a scenario; `None` if tags are left to the model, banned, or do not exist."""
    if not control.tags or scenario.tag == "none" or scenario.emit_tags not in ("follow", "force"):
        return None
    target = control.tags[0 if scenario.tag == "good" else -1]
    return TagRule(control.tags, target, control.tags_are_text, scenario.emit_tags == "force")


class FollowTags(LogitsProcessor):
    """Applies a `TagRule` within `generate` of `transformers`."""

    def __init__(self, rule: TagRule) -> None:
        self.rule = rule

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        recent = input_ids[:, input_ids.shape[1] - self.rule.memory :].tolist()
        return self.rule.apply(scores.clone(), recent)


def follow_tags(folder: str | Path, **scenario: Any) -> dict[str, Any]:
    """Returns arguments with which `generate` of `transformers` treats tags as `phf generate` does.

    Example::

        model.generate(**inputs, **follow_tags("exported"))

    Args:
        folder: A run folder or an exported model.
        scenario: Fields of `ScenarioConfig`, such as `tag="bad"` or `emit_tags="force"`.

    Raises:
        PhfError: The folder holds no model.
    """
    source = find_model(Path(folder))
    control = source.control(AutoTokenizer.from_pretrained(source.weights, local_files_only=True))
    asked = ScenarioConfig(**scenario)
    rule = tag_rule(asked, control)
    # These take the place of what the folder's own generation settings suppress.
    return {
        "suppress_tokens": control.banned(asked),
        "logits_processor": LogitsProcessorList([FollowTags(rule)] if rule else []),
    }
