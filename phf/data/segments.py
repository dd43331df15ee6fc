"""Cutting a document into segments: slices of the text, none empty, that joined are the text again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise

from phf.config import SegmenterConfig

Segmenter = Callable[[str], list[str]]

# A line ends at \n alone, in code and in prose: `splitlines` would also cut at form feeds and the like.
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
# A paragraph keeps the blank lines after it.
_PARAGRAPH = re.compile(r"(?:[^\n]|\n(?!\s*\n))*(?:\n\s*\n(?:[^\S\n]*\n)*|$)")


def segmenter(config: SegmenterConfig) -> Segmenter:
    """The function that cuts a text into segments, by the configured unit."""
    if config.name == "line":
        return _LINE.findall
    if config.name == "document":
        return lambda text: [text] if text else []
    cut = _sentences if config.name == "sentence" else _paragraphs
    limit = config.max_chars
    if limit is None:
        return cut
    return lambda text: [piece for segment in cut(text) for piece in _cap(segment, limit)]


def _paragraphs(text: str) -> list[str]:
    return [paragraph for paragraph in _PARAGRAPH.findall(text) if paragraph]


def _sentences(text: str) -> list[str]:
    """Sentences by nupunkt, each with the white space after it; the first with what is before it too."""
    from nupunkt import sent_spans

    if not text:
        return []
    # The library says where sentences start; slicing there loses nothing, whatever it does with white space.
    starts = [start for start, _ in sent_spans(text)][1:]
    bounds = [0, *(start for start in starts if start > 0), len(text)]
    return [text[a:b] for a, b in pairwise(bounds) if b > a]


def _cap(segment: str, limit: int) -> Iterator[str]:
    """Pieces of at most `limit` characters, cut after white space where there is some."""
    start = 0
    while len(segment) - start > limit:
        end = start + limit
        while end > start and not segment[end - 1].isspace():
            end -= 1
        if end == start:  # one long word
            end = start + limit
        yield segment[start:end]
        start = end
    yield segment[start:]
