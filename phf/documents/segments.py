"""Cutting a document into segments: slices of the text, none empty, that joined are the text again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

from phf.config import SegmenterConfig

Segmenter = Callable[[str], list[str]]

# A line ends at \n alone, in code and in prose: `splitlines` would also cut at form feeds and the like.
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")

# nupunkt takes time quadratic in the length of a word, that is of all between two white spaces.
_LONG_WORD = re.compile(r"\S{1000}")


def segmenter(config: SegmenterConfig) -> Segmenter:
    """The function that cuts a text into segments, by the configured unit.

    Joined, the segments are the text; none is empty. An empty text has none.
    """
    if config.name == "line":
        return _LINE.findall
    if config.name == "document":
        return lambda text: [text] if text else []
    starts = _sentence_starts if config.name == "sentence" else _paragraph_starts
    limit = config.max_chars
    return lambda text: [
        piece for segment in _slices(text, starts(text)) for piece in _pieces(segment, limit or len(text))
    ]


def segmenter_identity(config: SegmenterConfig) -> dict[str, Any]:
    """What decides where a text is cut; goes into the manifest of annotations."""
    identity: dict[str, Any] = {"name": config.name}
    if config.name in ("sentence", "paragraph"):
        identity["max_chars"] = config.max_chars
    if config.name == "sentence":
        identity["nupunkt"] = version("nupunkt")
    return identity


def _sentence_starts(text: str) -> Iterator[int]:
    """Where sentences start, by nupunkt."""
    from nupunkt import sent_spans

    begin = 0
    for end in [*(match.end() for match in _LONG_WORD.finditer(text)), len(text)]:
        # Only where a sentence starts is taken from the library: so nothing is lost, whatever it does with
        # white space. None starts at 0: that is the start of the text, or inside a long word.
        yield from (begin + start for start, _ in sent_spans(text[begin:end]) if start)
        begin = end


def _paragraph_starts(text: str) -> Iterator[int]:
    """Where paragraphs start; the blank lines before it belong to the one before."""
    return (match.end() for match in _BLANK_LINES.finditer(text))


def _slices(text: str, starts: Iterator[int]) -> Iterator[str]:
    """The text, cut at the starts, except that a slice of white space alone stays with its neighbour."""
    begin, last = 0, len(text.rstrip())
    for start in starts:
        if begin < start < last and not text[begin:start].isspace():
            yield text[begin:start]
            begin = start
    if begin < len(text):
        yield text[begin:]


def _pieces(segment: str, limit: int) -> Iterator[str]:
    """Pieces of at most `limit` characters, cut after white space where there is some."""
    start = 0
    while len(segment) - start > limit:
        piece = segment[start : start + limit]
        word = "" if piece[-1].isspace() else piece.rsplit(maxsplit=1)[-1]
        end = start + limit - (len(word) if len(word) < limit else 0)  # one long word is cut anywhere
        yield segment[start:end]
        start = end
    yield segment[start:]
