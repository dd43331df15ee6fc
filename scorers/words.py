"""Scores matches of listed words and regular expressions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scorers.base import Score, ScorerError, SegmentScorer, Span


class Words(SegmentScorer):
    """Matches of words and regular expressions per character.

    Matches do not overlap: the one that begins first counts. At the same place, the longest word wins, and a
    word wins over a pattern. The label of a match is the word or the pattern.

    Args:
        words: Words or phrases, or a file with one per line (`#` begins a comment). They match as whole
            words, and any white space matches the white space between them.
        patterns: Python regular expressions.
        case_sensitive: Whether `Ass` and `ass` are different words.
    """

    name = "words"
    version = "1"
    measures = "matches a character"
    range = (0.0, 1.0)
    speed = "fast"

    def __init__(
        self,
        words: Sequence[str] | str = (),
        patterns: Sequence[str] = (),
        case_sensitive: bool = False,
    ):
        if isinstance(patterns, str):
            raise ScorerError(f"scorer words: patterns must be a list, not {patterns!r}")
        self.words = tuple(sorted({*(_read(words) if isinstance(words, str) else words)}))
        self.patterns = tuple(patterns)
        self.case_sensitive = case_sensitive
        if not self.words and not self.patterns:
            raise ScorerError("scorer words: give words (a list or a file), patterns, or both")
        self._patterns = [re.compile(self._words(), self._flags)] if self.words else []
        for pattern in self.patterns:
            try:
                self._patterns.append(re.compile(pattern, self._flags))
            except re.error as error:
                raise ScorerError(
                    f"scorer words: patterns: {pattern!r} is not a regular expression: {error}"
                ) from error

    @property
    def _flags(self) -> re.RegexFlag:
        return re.RegexFlag(0) if self.case_sensitive else re.IGNORECASE

    def _words(self) -> str:
        longest_first = sorted(self.words, key=lambda word: (-len(word), word))
        alternatives = "|".join(r"\s+".join(map(re.escape, word.split())) for word in longest_first)
        # Not \b, because a listed word may begin or end with a character that is not in \w.
        return rf"(?<!\w)(?:{alternatives})(?!\w)"

    def settings(self) -> Mapping[str, Any]:
        return {
            "words": list(self.words),
            "patterns": list(self.patterns),
            "case_sensitive": self.case_sensitive,
        }

    def score_segments(self, segments: Sequence[str]) -> list[Score]:
        return [self._score(segment) for segment in segments]

    def _score(self, segment: str) -> Score:
        found = []
        for number, pattern in enumerate(self._patterns):
            is_word = number == 0 and bool(self.words)
            for match in pattern.finditer(segment):
                if match.end() > match.start():
                    label = " ".join(match[0].split()) if is_word else pattern.pattern
                    found.append((match.start(), number, Span(match.start(), match.end(), label)))
        spans: list[Span] = []
        for start, _, span in sorted(found, key=lambda entry: entry[:2]):
            if not spans or start >= spans[-1].end:
                spans.append(span)
        return Score(len(spans) / max(1, len(segment)), tuple(spans))


def _read(path: str) -> list[str]:
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ScorerError(f"scorer words: words: {path} cannot be read: {reason}") from error
    return [word for line in lines if (word := line.partition("#")[0].strip())]
