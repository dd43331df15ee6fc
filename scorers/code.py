"""Scorers of source code."""

from __future__ import annotations

import io
import re
import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import pycodestyle

from scorers.base import Score, Scorer, Span

# pycodestyle's own default: checks on which PEP8 is silent or was changed.
_DEFAULT_IGNORE = ("E121", "E123", "E126", "E226", "E24", "E704", "W503", "W504")

# Longer lines are cut before they are checked: some checks take time quadratic in the length of a line.
_MAX_LINE_CHARS = 2000

_NOQA = re.compile(r"# no(?:qa|pep8)\b", re.IGNORECASE)


class Pep8(Scorer):
    """Violations of PEP8 a character, by pycodestyle.

    The segments of a document are checked together, as one file, and each hit belongs to the segment that
    holds its place. So the unit may be a line, a paragraph or a whole document. A hit beyond the last line
    (an unclosed bracket is reported there) belongs to the last line: unfinished code never scores 0.
    `# noqa` has no effect: a model would learn to write it.

    Args:
        max_line_length: Where E501 begins.
        ignore: Codes, or beginnings of codes, that do not count; pycodestyle's own default.
    """

    name = "pep8"
    version = "1"
    measures = "PEP8 violations a character"
    range = (0.0, float("inf"))

    def __init__(self, max_line_length: int = 79, ignore: Sequence[str] = _DEFAULT_IGNORE):
        self.max_line_length = max_line_length
        self.ignore = tuple(ignore)
        self._style: Any = None

    def settings(self) -> Mapping[str, Any]:
        return {
            "max_line_length": self.max_line_length,
            "ignore": list(self.ignore),
            "pycodestyle": pycodestyle.__version__,
            # pycodestyle reads code with the running interpreter's tokenizer.
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_style": None}

    def score(self, documents: Sequence[Sequence[str]]) -> list[list[Score]]:
        return [self._score_document(segments) for segments in documents]

    def _score_document(self, segments: Sequence[str]) -> list[Score]:
        text = "".join(segments)
        # Lines end at \n alone: `splitlines` would also split at form feeds and shift the numbers of lines.
        lines = io.StringIO(text, newline="\n").readlines()
        if not lines:
            return [Score(0.0) for _ in segments]
        line_starts = [0, *accumulate(len(line) for line in lines)]
        segment_ends = list(accumulate(len(segment) for segment in segments))
        spans: list[list[Span]] = [[] for _ in segments]
        for line, column, code in self._hits(lines):
            line = min(line, len(lines))
            last = line_starts[line] - 1
            place = min(line_starts[line - 1] + max(column, 0), last)
            segment = bisect_right(segment_ends, place)
            start = place - (segment_ends[segment] - len(segments[segment]))
            spans[segment].append(Span(start, start + 1, code))
        return [
            Score(len(found) / len(segment) if segment else 0.0, tuple(found))
            for found, segment in zip(spans, segments, strict=True)
        ]

    def _hits(self, lines: Sequence[str]) -> list[tuple[int, int, str]]:
        """Line (from 1), column (from 0) and code of each violation."""
        if self._style is None:
            self._style = self._options()
        report = _Hits(self._style)
        checker = pycodestyle.Checker(
            lines=[_neutral(line) for line in lines], options=self._style, report=report
        )
        try:
            checker.check_all()
        except (SyntaxError, ValueError, IndexError, RecursionError):
            # What the tokenizer cannot read at all is one violation of its own, where the checker stood.
            report.hits.append((max(1, checker.line_number), 0, "E902"))
        return report.hits

    def _options(self) -> Any:
        """Every option that decides a hit: pycodestyle reads the user's configuration even as a library."""
        return pycodestyle.StyleGuide(
            reporter=_Hits,
            paths=[],
            select=[],
            ignore=list(self.ignore) or ["none"],  # an empty list would mean the default
            max_line_length=self.max_line_length,
            max_doc_length=None,
            indent_size=4,
            hang_closing=False,
            verbose=0,
        ).options


class _Hits(pycodestyle.BaseReport):
    """Collects hits instead of printing them."""

    def __init__(self, options: Any):
        super().__init__(options)
        self.hits: list[tuple[int, int, str]] = []

    def error(self, line_number: int, offset: int, text: str, check: Any) -> Any:
        code = super().error(line_number, offset, text, check)
        if code:
            self.hits.append((line_number, offset, code))
        return code


def _neutral(line: str) -> str:
    """The line as it is checked: not too long, and without the power to silence a check."""
    if len(line) > _MAX_LINE_CHARS:
        line = line[:_MAX_LINE_CHARS] + ("\n" if line.endswith("\n") else "")
    return _NOQA.sub(lambda match: "# " + "x" * (len(match[0]) - 2), line)
