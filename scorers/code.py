"""Scorers of source code."""

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

# pycodestyle's own default: checks on which PEP8 is silent or was changed.
_DEFAULT_IGNORE = ("E121", "E123", "E126", "E226", "E24", "E704", "W503", "W504")

# Some checks take time quadratic in the length of a line.
_MAX_LINE_CHARS = 10_000

# After so many errors of syntax the rest of a text gets no score.
_MAX_RESTARTS = 1000

_QUOTE = re.compile(r"""(\"{3}|'{3})""")
_NOQA = re.compile(r"# no(?=(?:qa|pep8)\b)", re.IGNORECASE)
_CODE = re.compile(r"[EW]\d{0,3}")


Hit = tuple[int, int, str]
"""Line from 1, column from 0, code."""


def lines_of(text: str) -> list[str]:
    """Its lines; they end at a line feed alone: `splitlines` also splits at form feeds."""
    return io.StringIO(text, newline="\n").readlines()


def score_hits(segments: Sequence[str], lines: Sequence[str], hits: Iterable[Hit]) -> list[Score]:
    """Gives every hit to the segment that holds its place: hits a character.

    Args:
        segments: Joined, they are the text.
        lines: Its lines.
        hits: Places in it; one beyond the end counts for the last line.
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
    """Violations of PEP8 a character, by pycodestyle.

    The segments of a document are checked together, as one file, and each hit belongs to the segment that
    holds its place. So the unit may be a line, a paragraph or a whole document. A hit beyond the last line
    (an unclosed bracket is reported there) belongs to the last line: unfinished code never scores 0.
    Where pycodestyle cannot go on, this does: a string that is never closed is closed at the end, and after a
    bad dedent the rest is checked like another file. A mistake of syntax does not hide others.
    `# noqa` has no effect: a model would learn to write it. A line of more than 10,000 characters is checked
    as if it ended there.

    Args:
        max_line_length: Where E501 begins.
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
        """All hits, and how many lines were looked at."""
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
            # Beyond the end there is only the quote that has been added, or else an unclosed bracket.
            hits += [hit for hit in found if hit[0] <= num_lines or len(lines) == num_lines]
            if stop is None or stop[0] > num_lines:
                return hits, num_lines
            start = max(stop[0] - 1, start + 1)
        return hits, start

    def _check_from(self, start: int, lines: Sequence[str]) -> _Report:
        """Checks lines from a line on (from 0) as if the file began there."""
        bare = list(lines[start:])
        # pycodestyle strips a byte-order mark too, and its columns are then one less.
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
            # What pycodestyle cannot cope with is a violation of its own, where the checker stood.
            report.error(checker.line_number, 0, f"E902 {error}", None)
        return report


class _Report:
    """Collects hits: the part of `pycodestyle.BaseReport` that a checker calls.

    Args:
        ignore: Codes, or beginnings of codes, that do not count.
        start: Where in the text the checked lines begin, in lines.
        first_column: Where the first of them begins.

    Attributes:
        hits: What was found.
        stop: Line and column where the check could not go on; `None` if it came to the end.
        reason: Why it stopped.
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
            return  # what pycodestyle says past a syntax error is haphazard
        if code in ("E901", "E902"):
            self.stop, self.reason = (line, column), text
        # Indentation and blank lines are judged by what is before; of the first line nobody knows that.
        unknown = first and self._start > 0 and code.startswith(("E1", "E3"))
        if not unknown and not code.startswith(self._ignore):
            self.hits.append((line, column, code))

    def init_file(self, *_: Any) -> None: ...

    def increment_logical_line(self) -> None: ...

    def get_file_results(self) -> None: ...


def _options(max_line_length: int, ignore: tuple[str, ...]) -> Any:
    """All that a checker asks for, spelled out: the library itself would read the user's configuration."""
    guide = pycodestyle.StyleGuide.__new__(pycodestyle.StyleGuide)
    # Without a limit for doc strings their check (W505) would find nothing.
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
    """The line as it is checked: not too long, and without the power to silence a check."""
    if len(line) > _MAX_LINE_CHARS:
        line = line[:_MAX_LINE_CHARS] + ("\n" if line.endswith("\n") else "")
    return _NOQA.sub("# xx", line)
