"""Scorers of source code."""

from __future__ import annotations

import io
import re
import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import pycodestyle

from scorers.base import Score, Scorer, ScorerError, Span

# pycodestyle's own default: checks on which PEP8 is silent or was changed.
_DEFAULT_IGNORE = ("E121", "E123", "E126", "E226", "E24", "E704", "W503", "W504")

# Some checks take time quadratic in the length of a line.
_MAX_LINE_CHARS = 10_000

_NOQA = re.compile(r"# no(?=(?:qa|pep8)\b)", re.IGNORECASE)
_CODE = re.compile(r"[EW]\d{0,3}")


class Pep8(Scorer):
    """Violations of PEP8 a character, by pycodestyle.

    The segments of a document are checked together, as one file, and each hit belongs to the segment that
    holds its place. So the unit may be a line, a paragraph or a whole document. A hit beyond the last line
    (an unclosed bracket is reported there) belongs to the last line: unfinished code never scores 0.
    Where the syntax ends the check (an unclosed string, a bad dedent), the segments after that line get no
    score: nobody has looked at them. `# noqa` has no effect: a model would learn to write it.
    A line of more than 10,000 characters is checked as if it ended there.

    Args:
        max_line_length: Where E501 begins.
        ignore: Codes, or beginnings of codes, that do not count; the default is pycodestyle's own.
    """

    name = "pep8"
    version = "1"
    measures = "PEP8 violations a character"
    range = (0.0, float("inf"))

    def __init__(self, max_line_length: int = 79, ignore: Sequence[str] = _DEFAULT_IGNORE):
        if not isinstance(max_line_length, int) or max_line_length < 1:
            raise ScorerError(f"scorer pep8: max_line_length must be 1 or more, not {max_line_length!r}")
        codes = [] if isinstance(ignore, str) else list(ignore)
        if isinstance(ignore, str) or not all(isinstance(c, str) and _CODE.fullmatch(c) for c in codes):
            raise ScorerError(
                f"scorer pep8: ignore must be a list of codes such as [E501, W6], not {ignore!r}"
            )
        self.max_line_length = max_line_length
        self.ignore = tuple(sorted(set(codes)))
        self._options = _options(self.max_line_length, self.ignore)

    def settings(self) -> Mapping[str, Any]:
        return {
            "max_line_length": self.max_line_length,
            "ignore": list(self.ignore),
            "pycodestyle": pycodestyle.__version__,
            # pycodestyle reads code with the running interpreter's tokenizer.
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        }

    def score(self, documents: Sequence[Sequence[str]]) -> list[list[Score]]:
        return [self._score_document(segments) for segments in documents]

    def _score_document(self, segments: Sequence[str]) -> list[Score]:
        text = "".join(segments)
        # Lines end at \n alone: `splitlines` would also split at form feeds and shift the numbers of lines.
        lines = io.StringIO(text, newline="\n").readlines()
        line_ends = list(accumulate(map(len, lines)))
        report = self._check(lines)
        segment_ends = list(accumulate(map(len, segments)))
        spans: list[list[Span]] = [[] for _ in segments]
        for line, column, code in sorted(report.hits):
            line = min(max(line, 1), len(lines))
            first = line_ends[line - 1] - len(lines[line - 1])
            place = min(first + max(column, 0), line_ends[line - 1] - 1)
            segment = bisect_right(segment_ends, place)
            start = place - (segment_ends[segment] - len(segments[segment]))
            spans[segment].append(Span(start, start + 1, code))
        checked = line_ends[report.last_line - 1] if report.last_line <= len(lines) and lines else len(text)
        return [
            Score(len(found) / max(1, len(segment)), tuple(found))
            if end - len(segment) < checked or not segment
            else Score(None)
            for found, segment, end in zip(spans, segments, segment_ends, strict=True)
        ]

    def _check(self, lines: Sequence[str]) -> _Report:
        # pycodestyle strips a byte-order mark too, and its columns are then one less.
        mark = bool(lines) and lines[0].startswith("\ufeff")
        bare = [lines[0][1:], *lines[1:]] if mark else lines
        report = _Report(self.ignore, first_column=int(mark))
        checker = pycodestyle.Checker(
            lines=[_neutral(line) for line in bare if line], options=self._options, report=report
        )
        try:
            checker.check_all()
        except (SyntaxError, ValueError, LookupError, RecursionError):
            # What pycodestyle cannot cope with is a violation of its own, where the checker stood.
            report.error(checker.line_number, 0, "E902", None)
        return report


class _Report:
    """Collects hits: the part of `pycodestyle.BaseReport` that a checker calls.

    Attributes:
        hits: Line (from 1), column (from 0) and code of each violation.
        last_line: The last line that was looked at.
    """

    def __init__(self, ignore: tuple[str, ...], first_column: int):
        self.hits: list[tuple[int, int, str]] = []
        self.last_line = sys.maxsize
        self._ignore = ignore
        self._first_column = first_column  # of the first line

    def error(self, line: int, column: int, text: str, check: Any) -> None:
        code = text[:4]
        if line > self.last_line:
            return  # what pycodestyle says past a syntax error is haphazard
        if code in ("E901", "E902"):
            self.last_line = max(line, 1)
        if not code.startswith(self._ignore):
            self.hits.append((line, column + (self._first_column if line == 1 else 0), code))

    def init_file(self, *_: Any) -> None: ...

    def increment_logical_line(self) -> None: ...

    def get_file_results(self) -> None: ...


def _options(max_line_length: int, ignore: tuple[str, ...]) -> Any:
    """All that a checker asks for, spelled out: the library itself would read the user's configuration."""
    guide = pycodestyle.StyleGuide.__new__(pycodestyle.StyleGuide)
    guide.options = SimpleNamespace(select=(), ignore=ignore)
    return SimpleNamespace(
        physical_checks=guide.get_checks("physical_line"),
        logical_checks=guide.get_checks("logical_line"),
        ast_checks=[],
        max_line_length=max_line_length,
        max_doc_length=None,
        indent_size=4,
        hang_closing=False,
        verbose=0,
    )


def _neutral(line: str) -> str:
    """The line as it is checked: not too long, and without the power to silence a check."""
    if len(line) > _MAX_LINE_CHARS:
        line = line[:_MAX_LINE_CHARS] + ("\n" if line.endswith("\n") else "")
    return _NOQA.sub("# xx", line)
