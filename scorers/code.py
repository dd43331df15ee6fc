"""Scores Python code with pycodestyle."""

from __future__ import annotations

import io
import re
import sys
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import pycodestyle

from scorers.base import Score, Scorer, ScorerError, Span

# pycodestyle's own default: checks on which PEP8 says nothing, or was changed.
_DEFAULT_IGNORE = ("E121", "E123", "E126", "E226", "E24", "E704", "W503", "W504")

# Some checks take time quadratic in the length of a line.
_MAX_LINE_CHARS = 10_000

# After this many syntax errors, the rest of a text gets no score.
_MAX_RESTARTS = 1000

_QUOTE = re.compile(r"""(\"{3}|'{3})""")
_NOQA = re.compile(r"# no(?=(?:qa|pep8)\b)", re.IGNORECASE)
_CODE = re.compile(r"[EW]\d{0,3}")


Hit = tuple[int, int, str]
"""Line from 1, column from 0, code."""


def lines_of(text: str) -> list[str]:
    """Splits a text into lines. Only a line feed ends a line; `splitlines` also splits at form feeds."""
    return io.StringIO(text, newline="\n").readlines()


def score_hits(segments: Sequence[str], lines: Sequence[str], hits: Iterable[Hit]) -> list[Score]:
    """Assigns every hit to the segment that contains its place; a score is the number of hits per character.

    Args:
        segments: Segments of a text; they join to the text.
        lines: Lines of the text.
        hits: Places in the text; a place beyond the end counts for the last line.
    """
    line_ends = list(accumulate(map(len, lines)))
    segment_ends = list(accumulate(map(len, segments)))
    spans: dict[int, list[Span]] = {}
    for line, column, code in sorted(hits):
        line = min(max(line, 1), len(lines))
        first = line_ends[line - 1] - len(lines[line - 1])
        place = min(first + max(column, 0), line_ends[line - 1] - 1)
        segment = bisect_right(segment_ends, place)
        start = place - (segment_ends[segment] - len(segments[segment]))
        spans.setdefault(segment, []).append(Span(start, start + 1, code))
    scores = [_CLEAN] * len(segments)
    for segment, found in spans.items():
        scores[segment] = Score(len(found) / max(1, len(segments[segment])), tuple(found))
    return scores


_CLEAN = Score(0.0)


class Pep8(Scorer):
    """PEP8 violations per character, found by pycodestyle.

    The segments of a document are checked together, as one file. Each hit belongs to the segment that
    contains its place, so the unit may be a line, a paragraph or a whole document. A hit beyond the last line
    (where an unclosed bracket is reported) belongs to the last line, so that unfinished code never scores 0.
    If pycodestyle cannot continue, the scorer does: it closes an unclosed string at the end, and after a
    wrong dedent it checks the rest as another file. A syntax error therefore does not hide other violations.
    `# noqa` has no effect, because a model would learn to write it. A line of more than 10,000 characters is
    checked as if it ended there.

    Args:
        max_line_length: Longest line without a hit of E501.
        ignore: Codes, or beginnings of codes, that do not count; the default is pycodestyle's own.
    """

    name = "pep8"
    version = "1"
    measures = "PEP8 violations a character"
    range = (0.0, float("inf"))
    speed = "medium"
    unit = "line"

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
        lines = lines_of(text)
        harmless = not _NOQA.search(text) and max(map(len, lines), default=0) <= _MAX_LINE_CHARS
        hits, num_checked = self._check(lines if harmless else [_neutral(line) for line in lines])
        checked = sum(map(len, lines[:num_checked]))
        scores = score_hits(segments, lines, hits)
        ends = accumulate(map(len, segments))
        return [
            score if end - len(segment) < checked or not segment else Score(None)
            for score, segment, end in zip(scores, segments, ends, strict=True)
        ]

    def _check(self, lines: list[str]) -> tuple[list[Hit], int]:
        """Returns all hits, and how many lines were checked."""
        hits: list[Hit] = []
        num_lines, start = len(lines), 0
        for _ in range(_MAX_RESTARTS):
            report = self._check_from(start, lines)
            found, stop = report.hits, report.stop
            if stop is not None and stop[0] <= num_lines:
                quote = _QUOTE.search(lines[stop[0] - 1], max(stop[1] - 1, 0))
                if quote and len(lines) == num_lines and "string" in report.reason:
                    lines = [*lines[:-1], lines[-1].rstrip("\n") + "\n", quote[1] + "\n"]
                    hits += [hit for hit in found if hit[2].startswith("E9")]
                    continue
            # A hit beyond the end is an unclosed bracket, or the added quote, which does not count.
            hits += [hit for hit in found if hit[0] <= num_lines or len(lines) == num_lines]
            if stop is None or stop[0] > num_lines:
                return hits, num_lines
            start = max(stop[0] - 1, start + 1)
        return hits, start

    def _check_from(self, start: int, lines: Sequence[str]) -> _Report:
        """Checks the lines from `start` (counted from 0), as if the file began there."""
        bare = list(lines[start:])
        # pycodestyle also strips a byte-order mark, which makes its columns one less.
        mark = bool(bare) and bare[0].startswith("\ufeff")
        if mark:
            bare[0] = bare[0][1:]
        report = _Report(self.ignore, start, first_column=int(mark))
        checker = pycodestyle.Checker(
            lines=[line for line in bare if line], options=self._options, report=report
        )
        try:
            checker.check_all()
        except (SyntaxError, ValueError, LookupError, RecursionError) as error:
            # Code that pycodestyle cannot handle is a violation in itself, at the line of the checker.
            report.error(checker.line_number, 0, f"E902 {error}", None)
        return report


class _Report:
    """Collects hits, with the part of `pycodestyle.BaseReport` that a checker calls.

    Args:
        ignore: Codes, or beginnings of codes, that do not count.
        start: Number of the first checked line in the text, from 0.
        first_column: Column at which the first checked line begins.

    Attributes:
        hits: The hits so far.
        stop: Line and column at which the check could not continue; `None` if it reached the end.
        reason: Why the check stopped.
    """

    def __init__(self, ignore: tuple[str, ...], start: int, first_column: int):
        self.hits: list[Hit] = []
        self.stop: tuple[int, int] | None = None
        self.reason = ""
        self._ignore = ignore
        self._start = start
        self._first_column = first_column

    def error(self, line: int, column: int, text: str, check: Any) -> None:
        code, first = text[:4], line == 1
        if first:
            column += self._first_column
        line = max(line, 1) + self._start
        if self.stop is not None and line > self.stop[0]:
            return  # hits after a syntax error are not reliable
        if code in ("E901", "E902"):
            self.stop, self.reason = (line, column), text
        # Hits of indentation and blank lines depend on the lines before, which the first line does not have.
        unknown = first and self._start > 0 and code.startswith(("E1", "E3"))
        if not unknown and not code.startswith(self._ignore):
            self.hits.append((line, column, code))

    def init_file(self, *_: Any) -> None: ...

    def increment_logical_line(self) -> None: ...

    def get_file_results(self) -> None: ...


def _options(max_line_length: int, ignore: tuple[str, ...]) -> Any:
    """Returns all options that a checker reads. The library itself would read the user's configuration."""
    guide = pycodestyle.StyleGuide.__new__(pycodestyle.StyleGuide)
    # W505 is ignored, because it finds nothing without a limit for docstrings.
    guide.options = SimpleNamespace(select=(), ignore=(*ignore, "W505"))
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
    """Shortens a line that is too long, and disables `# noqa` in it."""
    if len(line) > _MAX_LINE_CHARS:
        line = line[:_MAX_LINE_CHARS] + ("\n" if line.endswith("\n") else "")
    return _NOQA.sub("# xx", line)
