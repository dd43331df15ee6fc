import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers import ScorerError
from scorers.words import Words


def found(scorer: Words, text: str) -> list[tuple[str, str]]:
    (score,) = scorer.score_segments([text])
    assert score.value == len(score.spans) / max(1, len(text))
    return [(text[span.start : span.end], span.label) for span in score.spans]


def test_words_match_as_whole_words():
    scorer = Words(words=["ass", "hell", "c++", "dumb ass"])
    assert found(scorer, "Ass, class! Hello hell.") == [("Ass", "Ass"), ("hell", "hell")]
    assert found(scorer, "dumb \n ass") == [("dumb \n ass", "dumb ass")]
    assert found(scorer, "c++ is not c+") == [("c++", "c++")]
    assert found(Words(words=["ass"], case_sensitive=True), "Ass ass") == [("ass", "ass")]
    assert found(scorer, "") == []


def test_patterns():
    scorer = Words(words=["key"], patterns=[r"sk-\w+", r"\bkey=\w+", "x*"])
    assert found(scorer, "my key=12 and sk-abc") == [("key", "key"), ("sk-abc", r"sk-\w+")]
    assert found(scorer, "xx") == [("xx", "x*")]


def test_a_file_of_words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("# bad ones\ndarn\n\nheck  # mild\ndarn\n")
    scorer = Words(words=str(path))
    assert scorer.words == ("darn", "heck")
    assert scorer.fingerprint == Words(words=["heck", "darn"]).fingerprint
    assert scorer.fingerprint != Words(words=["heck"]).fingerprint


@given(st.lists(st.text(min_size=1).filter(str.split), min_size=1, max_size=4), st.text())
def test_matches_do_not_overlap(words, text):
    (score,) = Words(words=words, patterns=["a+b"]).score_segments([text + words[0]])
    ends = [0, *(span.end for span in score.spans)]
    assert all(end <= span.start < span.end for end, span in zip(ends, score.spans, strict=False))


def test_what_cannot_be_is_one_line(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"\xff")
    for options, message in [
        ({}, "give words"),
        ({"patterns": ["("]}, r"'\(' is not a regular expression: missing \)"),
        ({"patterns": "a"}, "patterns must be a list, not 'a'"),
        ({"words": "/no/where.txt"}, "/no/where.txt cannot be read: No such file"),
        ({"words": str(tmp_path / "latin.txt")}, "cannot be read: not UTF-8"),
    ]:
        with pytest.raises(ScorerError, match=message):
            Words(**options)
