r"""The contract of a scorer: segments of documents in, a score and optional spans for each out.

A score is a number, 0 or more, and higher is worse; `None` says that the scorer cannot tell. A scorer
imports nothing of the framework and can be used without it:

    from scorers import load_scorer
    load_scorer("pep8").score([["x=1\n", "y = 2\n"]])
"""

from __future__ import annotations

import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Self


class ScorerError(Exception):
    """A scorer cannot be found, built or used; the message is one line that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a segment that caused its score.

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
    """What a scorer says of one segment.

    Attributes:
        value: 0 or more, higher is worse; `None` if the scorer cannot say.
        spans: Where the score comes from, if the scorer knows.
    """

    value: float | None
    spans: tuple[Span, ...] = ()


class Scorer(ABC):
    """Scores the segments of documents.

    A subclass is built from keyword options (plain numbers, strings, booleans and lists: they are
    written to manifests); every process that scores builds its own. It sets:

    Attributes:
        name: Short and stable; scores are kept under the name in the configuration.
        version: Raised whenever the same text may get another score.
        measures: What a score means, in a few words, with its unit.
        range: Smallest and largest possible score; `inf` where there is no bound.
        speed: Sentences a second on a core of a CPU: `fast` (over ten thousand), `medium`, `slow` (under a
            hundred, a model that wants a GPU), or empty if it depends.
        unit: The segments that suit it where nothing is said: `sentence`, or `line` for code.
        device: Where it computes. With `cuda` there is one scoring process a GPU, which sees no other; with a
            certain device (`cuda:1`) one; with `cpu` one a core.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    measures: ClassVar[str]
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    speed: ClassVar[str] = ""
    unit: ClassVar[str] = "sentence"
    device: str = "cpu"

    def __new__(cls, *arguments: Any, **options: Any) -> Self:
        scorer = super().__new__(cls)
        built = cls.signature().bind_partial(*arguments, **options)  # partial: unpickling gives no arguments
        built.apply_defaults()
        scorer.__dict__["_built_from"] = built.arguments  # an assignment fails in a frozen dataclass
        return scorer

    def __init__(self) -> None:  # noqa: B027 (that of `object` would take any option)
        pass

    @classmethod
    def signature(cls) -> inspect.Signature:
        """What it is built from."""
        signature = inspect.signature(cls.__init__)
        return signature.replace(parameters=list(signature.parameters.values())[1:])

    @abstractmethod
    def score(self, documents: Sequence[Sequence[str]]) -> list[list[Score]]:
        """Scores a batch of documents.

        Args:
            documents: For each document its segments, in order; joined, they are its text.

        Returns:
            For each document one `Score` for each of its segments, in order.
        """

    def settings(self) -> Mapping[str, Any]:
        """What besides name and version decides a score: options, and versions of libraries and models.

        By default all that the scorer was built from, whether it decides a score or not.
        """
        options: Mapping[str, Any] = self.__dict__["_built_from"]
        return options

    @property
    def fingerprint(self) -> str:
        """Equal for two scorers exactly if they give every text the same score."""
        identity = [self.name, self.version, dict(self.settings())]
        text = json.dumps(identity, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


# Characters of the segments whose scores a `SegmentScorer` remembers.
_REMEMBERED_CHARACTERS = 20_000_000


class SegmentScorer(Scorer):
    """A scorer that needs no more than the segment itself: the usual case, and the simpler contract.

    A segment that comes again (a headline, a licence, a greeting) is not scored again, as long as it is
    remembered.
    """

    @abstractmethod
    def score_segments(self, segments: Sequence[str]) -> list[Score]:
        """Scores a batch of segments, each on its own.

        Args:
            segments: Segments of many documents, no two of them equal.

        Returns:
            One `Score` for each segment, in order.
        """

    def score(self, documents: Sequence[Sequence[str]]) -> list[list[Score]]:
        known: dict[str, Score] = self.__dict__.setdefault("_known", {})
        new = [segment for segment in dict.fromkeys(chain.from_iterable(documents)) if segment not in known]
        scores = self.score_segments(new) if new else []
        if len(scores) != len(new):
            raise ValueError(f"{len(scores)} scores for {len(new)} segments")
        known.update(zip(new, scores, strict=True))
        found = [[known[segment] for segment in document] for document in documents]
        for segment, score in zip(new, scores, strict=True):
            if score.value != score.value:  # not a number: where it comes again it is tried again
                del known[segment]
        self.__dict__["_characters"] = self.__dict__.get("_characters", 0) + sum(map(len, new))
        if self.__dict__["_characters"] > _REMEMBERED_CHARACTERS:
            known.clear()
            self.__dict__["_characters"] = 0
        return found
