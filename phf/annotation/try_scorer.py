"""Tries a scorer on a text and prints the score and the spans of each segment: `phf scorers try`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

from rich.console import Console
from rich.table import Table
from rich.text import Text

from phf.annotation.score_chunk import Chunk, score_chunk
from phf.base.errors import ConfigError, PhfError
from phf.config import load_config
from phf.documents.formats.base import Document
from phf.documents.segments import segmenter
from scorers import Scorer, Span, load_scorer

# Colours of the labels, in turn.
_COLOURS = ("red", "cyan", "magenta", "yellow", "blue", "green")

# Marks the position of an empty span.
_CARET = "\N{CARET}"

# Most characters of a span's text that are repeated beside its label.
_EXCERPT_CHARS = 40


def try_scorer(name: str, text: bytes, options: Sequence[str], unit: str | None, console: Console) -> None:
    """Cuts a text into segments, scores them, and prints them with their scores and spans.

    Args:
        name: A scorer, as in `scorer.name`.
        text: The text, UTF-8.
        options: The scorer's options, each `key=value`.
        unit: The segmenter; `None` for the one that suits the scorer.
        console: Where to print.

    Raises:
        ConfigError: The text is empty or not UTF-8, or an option is not `key=value`.
        PhfError: The scorer fails on the text.
        scorers.ScorerError: The scorer cannot be built or used.
    """
    for option in options:
        if "=" not in option:
            raise ConfigError(f"{option}: not an option key=value; quote a text of several words")
    config = load_config([{"scorer": {"name": name}}, *(f"scorer.options.{option}" for option in options)])
    try:
        document = Document("", text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"the text is not UTF-8: {error.reason} at byte {error.start}") from error
    if not document.text:
        raise ConfigError("the text is empty: there is nothing to score")
    scorer = load_scorer(name, **config.scorer.options)
    segment = segmenter(load_config([{"segmenter": {"name": unit or scorer.unit}}]).segmenter)
    scored = score_chunk(Chunk([(0, document)], [name], 0), {name: scorer}, segment)[name]
    if scored.failed:
        raise PhfError(scored.failed[0][1])
    (found,) = scored.annotations
    segments = [document.text[start:end] for start, end in pairwise([0, *found.segment_ends])]
    console.print(Text(scorer.measures, "italic"))
    console.print(_table(scorer, segments, found.scores, found.spans))


def _table(
    scorer: Scorer,
    segments: Sequence[str],
    scores: Sequence[float | None],
    spans: Sequence[Sequence[Span]],
) -> Table:
    """Builds a table with a row for each segment: its score; its text, and under it a line for each span."""
    table = Table("score", box=None, header_style="bold")
    table.add_column("segment", overflow="fold")
    labels = dict.fromkeys(span.label for found in spans for span in found)
    colours = {label: _COLOURS[i % len(_COLOURS)] for i, label in enumerate(labels)}
    for segment, score, found in zip(segments, scores, spans, strict=True):
        lines = [_marked(segment, found, colours)]
        lines += [_named(segment, span, colours[span.label]) for span in sorted(found, key=_place)]
        table.add_row(_score(score, *scorer.range), Text("\n").join(lines))
    return table


def _score(value: float | None, low: float, high: float) -> Text:
    if value is None:
        return Text("cannot say", "dim")
    is_high = math.isfinite(high) and value > (low + high) / 2
    return Text(f"{value:.4g}", "green" if value <= low else "bold red" if is_high else "yellow")


def _marked(segment: str, spans: Iterable[Span], colours: dict[str, str]) -> Text:
    """Returns the segment with its spans in colour. Of two overlapping spans, the shorter one is on top."""
    # Line feeds are shown as \n, and also end the line on the screen.
    shown = [_visible(character) for character in segment] + [""]
    shown[:-2] = [text + "\n" if text == r"\n" else text for text in shown[:-2]]
    for place in {span.start for span in spans if span.start == span.end}:
        shown[place] = _CARET + shown[place]
    starts = [0, *accumulate(map(len, shown))]
    marked = Text("".join(shown))
    for i, character in enumerate(segment):
        if not character.isprintable():
            marked.stylize("dim", starts[i], starts[i + 1])
    for span in sorted(spans, key=lambda span: span.start - span.end):
        end = starts[span.end] if span.end > span.start else starts[span.start] + 1
        marked.stylize(f"bold not dim {colours[span.label]} reverse", starts[span.start], end)
    return marked


def _named(segment: str, span: Span, colour: str) -> Text:
    """Returns the position of a span, its label, and its text."""
    held = segment[span.start : span.end]
    excerpt = held if len(held) <= _EXCERPT_CHARS else f"{held[: _EXCERPT_CHARS - 3]}..."
    return Text.assemble(
        (f"^ {span.start}:{span.end} ", "dim"), (_visible(span.label), colour), " ", _visible(excerpt)
    )


def _place(span: Span) -> tuple[int, int, str]:
    return span.start, span.end, span.label


def _visible(text: str) -> str:
    r"""Escapes characters (`\n`, `\x1b`) that would be invisible or would steer the terminal."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
