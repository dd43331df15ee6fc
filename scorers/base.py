r"""Defines what a scorer does: it takes documents as lists of segments and scores each segment.

A score is a number of 0 or more, and higher is worse. `None` means that the scorer cannot tell. A scorer
imports nothing of the framework and can be used without it:

    from scorers import load_scorer
    load_scorer("pep8").score([["x=1\n", "y = 2\n"]])
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, ClassVar


class ScorerError(Exception):
    """A scorer cannot be found, built or used; the message is one line with the reason and what to do."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a segment that caused its score.

    Attributes:
        start: First character, counted from the start of the segment.
        end: One past the last character; `end >= start`.
        label: What was found, for example `E225` or `EMAIL_ADDRESS`.
    """

    start: int
    end: int
    label: str


@dataclass(frozen=True, slots=True)
class Score:
    """The result of a scorer for one segment.

    Attributes:
        value: 0 or more, higher is worse; `None` if the scorer cannot tell.
        spans: The parts of the segment that caused the score, if the scorer knows them.
    """

    value: float | None
    spans: tuple[Span, ...] = ()


class Scorer(ABC):
    """Scores the segments of documents.

    A subclass is built from keyword options. These are plain numbers, strings, booleans, lists and mappings,
    because they are written to manifests. Every scoring process builds its own scorer. A subclass sets:

    Attributes:
        name: Short and stable. Scores are stored under the name in the configuration.
        version: Raised whenever the same text may get another score.
        measures: What a score means, in a few words, with its unit.
        range: Smallest and largest possible score; `inf` if there is no bound.
        speed: Sentences per second on one CPU core: `fast` (over ten thousand), `medium`, `slow` (under a
            hundred; a model that needs a GPU), or empty if it depends.
        unit: The segments that suit the scorer if none are configured: `sentence`, or `line` for code.
        device: Where the scorer computes. With `cuda` there is one scoring process per GPU, which sees no
            other GPU. With a given device (`cuda:1`) there is one process. With `cpu` there is one per core.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    measures: ClassVar[str]
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    speed: ClassVar[str] = ""
    unit: ClassVar[str] = "sentence"
    device: str = "cpu"

    built_from: Mapping[str, Any] | None = None
    """Every option from which `load_scorer` built the scorer, including defaults."""

    @abstractmethod
    def score(self, documents: Sequence[Sequence[str]]) -> list[list[Score]]:
        """Scores a batch of documents.

        Args:
            documents: The segments of each document, in order; they join to its text.

        Returns:
            For each document one `Score` per segment, in order.
        """

    def settings(self) -> Mapping[str, Any]:
        """Returns what decides a score besides name and version: options, and versions of dependencies.

        Dependencies are libraries and models. By default the settings are all options, whether they affect a
        score or not.

        Raises:
            ScorerError: The scorer was built without `load_scorer` and does not define its settings itself.
        """
        if self.built_from is None:
            raise ScorerError(f"scorer {self.name}: build it with `load_scorer`, or define `settings`")
        return self.built_from

    @property
    def fingerprint(self) -> str:
        """A hash that is equal for two scorers exactly if they give every text the same score."""
        identity = [self.name, self.version, dict(self.settings())]
        text = json.dumps(identity, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


# Most characters of the segments whose scores a `SegmentScorer` remembers.
_REMEMBERED_CHARACTERS = 20_000_000


class SegmentScorer(Scorer):
    """A scorer that scores each segment on its own: the usual case, and the simpler contract.

    A segment that occurs again (a headline, a licence, a greeting) is not scored again as long as its score
    is remembered.
    """

    @abstractmethod
    def score_segments(self, segments: Sequence[str]) -> list[Score]:
        """Scores a batch of segments, each on its own.

        Args:
            segments: Segments of many documents, all different.

        Returns:
            One `Score` per segment, in order.
        """

    def score(self, documents: Sequence[Sequence[str]]) -> list[list[Score]]:
        memory, known = self._memory, self._memory.known
        new = [segment for segment in dict.fromkeys(chain.from_iterable(documents)) if segment not in known]
        scores = self.score_segments(new) if new else []
        if len(scores) != len(new):
            raise ValueError(f"{len(scores)} scores for {len(new)} segments")
        known.update(zip(new, scores, strict=True))
        found = [[known[segment] for segment in document] for document in documents]
        for segment, score in zip(new, scores, strict=True):
            if score.value != score.value:  # NaN is not remembered, so that the segment is tried again
                del known[segment]
        memory.characters += sum(map(len, new))
        if memory.characters > _REMEMBERED_CHARACTERS:
            known.clear()
            memory.characters = 0
        return found

    @cached_property  # not in __init__, because a subclass need not call the one of its base
    def _memory(self) -> _Memory:
        return _Memory({})


@dataclass
class _Memory:
    """The scores that a `SegmentScorer` remembers, and the number of characters of their segments."""

    known: dict[str, Score]
    characters: int = 0
