import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from phf.config import SegmenterConfig
from phf.documents.segments import segmenter, segmenter_identity

NAMES = ["line", "sentence", "paragraph", "document"]

# Any unicode at all, halves of surrogate pairs too; and text made of what segmenters look at.
anything = st.text(st.characters(codec=None), max_size=200)
structured = st.lists(
    st.sampled_from(
        ["Dr. Who", "e.g.", "Yes!", "?", '"', "\n", "\n\n", "\r\n", "\t", " ", "\f", "\u2028", "é.", "a"]
    ),
    max_size=60,
).map("".join)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=200)
@given(text=anything | structured, max_chars=st.none() | st.integers(1, 30))
@example(text="", max_chars=None)
@example(text="\ud800. Half a pair. \udfff", max_chars=3)
@example(text="\n\n\n", max_chars=1)
def test_segments_are_the_text_and_none_is_empty(name, text, max_chars):
    segments = segmenter(SegmenterConfig(name=name, max_chars=max_chars))(text)
    assert "".join(segments) == text
    assert all(segments)
    if max_chars is not None and name in ("sentence", "paragraph"):
        assert all(len(segment) <= max_chars for segment in segments)


@pytest.mark.parametrize("name", ["sentence", "paragraph"])
@given(text=structured)
def test_white_space_alone_is_no_segment(name, text):
    segments = segmenter(SegmenterConfig(name=name, max_chars=None))(text)
    assert text.isspace() or not any(segment.isspace() for segment in segments)


def test_a_line_ends_at_a_line_feed_alone():
    text = "a\r\nb\fc\u2028d\x1ce\rf\n\ng"
    assert segmenter(SegmenterConfig(name="line"))(text) == ["a\r\n", "b\fc\u2028d\x1ce\rf\n", "\n", "g"]


def test_sentences_are_not_cut_at_abbreviations():
    text = "Dr. Smith saw it, e.g. yesterday. Nobody else did!\n\nA new paragraph."
    assert segmenter(SegmenterConfig())(text) == [
        "Dr. Smith saw it, e.g. yesterday. ",
        "Nobody else did!\n\n",
        "A new paragraph.",
    ]


def test_a_paragraph_keeps_the_blank_lines_after_it():
    text = "\n\n  one\nstill one\n \n\ntwo\n\n  three\n\n "
    assert segmenter(SegmenterConfig(name="paragraph"))(text) == [
        "\n\n  one\nstill one\n \n\n",
        "two\n\n",
        "  three\n\n ",
    ]


def test_a_long_segment_is_cut_after_white_space_or_else_at_the_limit():
    cut = segmenter(SegmenterConfig(name="paragraph", max_chars=8))
    assert cut("one two three") == ["one two ", "three"]
    assert cut("a" * 20) == ["a" * 8, "a" * 8, "a" * 4]


def test_lines_and_documents_are_never_cut():
    for name in ("line", "document"):
        assert segmenter(SegmenterConfig(name=name, max_chars=2))("one two three") == ["one two three"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("unit", ["a", "a ", "\n", " \n", "\n ", "A. ", ".", "Dr. ", '"', "?!", "\n\n \t"])
def test_a_megabyte_of_anything_is_quick(name, unit):
    text = unit * (1_000_000 // len(unit))
    start = time.monotonic()
    segments = segmenter(SegmenterConfig(name=name))(text)
    assert time.monotonic() - start < 15
    assert sum(map(len, segments)) == len(text)


def test_identity_names_what_decides_where_a_text_is_cut():
    assert segmenter_identity(SegmenterConfig(name="line", max_chars=5)) == {"name": "line"}
    sentence = segmenter_identity(SegmenterConfig(max_chars=5))
    assert sentence["max_chars"] == 5
    assert "nupunkt" in sentence
