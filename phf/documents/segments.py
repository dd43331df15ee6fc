"""Cuts a document into segments: slices of the text, none empty, that join to the text again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

from phf.config import SegmenterConfig

Segmenter = Callable[[str], list[str]]

# Only \n ends a line, in code and in prose. `splitlines` would also cut at form feeds and similar characters.
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")

# nupunkt takes time quadratic in the length of a word, that is, of a run without white space.
_LONG_WORD = re.compile(r"\S{1000}")


def segmenter(config: SegmenterConfig) -> Segmenter:
    """Returns the function that cuts a text into segments of the configured unit.

    No segment is empty, and the segments join to the text. An empty text has no segments.
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
    """Returns the settings that decide where a text is cut, for the manifest of annotations."""
    identity: dict[str, Any] = {"name": config.name}
    if config.name in ("sentence", "paragraph"):
        identity["max_chars"] = config.max_chars
    if config.name == "sentence":
        identity["nupunkt"] = version("nupunkt")
    return identity


def _sentence_starts(text: str) -> Iterator[int]:
    """Yields the positions at which sentences start, as found by nupunkt."""
    from nupunkt import sent_spans

    begin = 0
    for end in [*(match.end() for match in _LONG_WORD.finditer(text)), len(text)]:
        # Only the starts of sentences are taken from the library, so that no text is lost, however the
        # library treats white space. A start of 0 is skipped: there the text starts, or a long word goes on.
        yield from (begin + start for start, _ in sent_spans(text[begin:end]) if start)
        begin = end


def _paragraph_starts(text: str) -> Iterator[int]:
    """Yields the positions at which paragraphs start. Blank lines belong to the paragraph before them."""
    return (match.end() for match in _BLANK_LINES.finditer(text))


def _slices(text: str, starts: Iterator[int]) -> Iterator[str]:
    """Yields the text cut at the starts. A slice of white space alone stays with its neighbour."""
    begin, last = 0, len(text.rstrip())
    for start in starts:
        if begin < start < last and not text[begin:start].isspace():
            yield text[begin:start]
            begin = start
    if begin < len(text):
        yield text[begin:]


def _pieces(segment: str, limit: int) -> Iterator[str]:
    """Yields pieces of at most `limit` characters, cut after white space where possible."""
    start = 0
    while len(segment) - start > limit:
        piece = segment[start : start + limit]
        word = "" if piece[-1].isspace() else piece.rsplit(maxsplit=1)[-1]
        end = start + limit - (len(word) if len(word) < limit else 0)  # a word that long is cut anywhere
        yield segment[start:end]
        start = end
    yield segment[start:]
