import ast
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers import ScorerError, load_scorer
from scorers.code import Pep8
from scorers.ruff import Compiles, Ruff

RUFF, PEP8, COMPILES = Ruff(), Pep8(), Compiles()


def hits(scorer, text: str) -> list[tuple[int, str]]:
    (scores,) = scorer.score([text.splitlines(keepends=True)])
    return [(line, span.label) for line, score in enumerate(scores, 1) for span in score.spans]


def test_it_finds_what_pep8_finds():
    text = "x=1\ndef f( x):\n\treturn x \nimport os  # noqa\n"
    both = {"E225", "E302", "E201", "W191", "W291"}
    assert {hit for hit in hits(RUFF, text) if hit[1] in both} == {
        hit for hit in hits(PEP8, text) if hit[1] in both
    }
    ((score,), (other,), none) = RUFF.score([["x=1\n"], ["y = 1\n"], []])
    assert (score.value, other.value, none) == (0.25, 0.0, [])
    assert [(span.start, span.label) for span in score.spans] == [(1, "E225")]


@pytest.mark.parametrize(
    ("title", "message", "codes"),
    [
        ("Ruff (E225)", "E225 Missing", ["E225"]),  # up to 0.15
        (
            "ruff (missing-whitespace-around-operator)",
            "missing-whitespace-around-operator: Missing",
            ["E225"],
        ),
        ("Ruff", "SyntaxError: Expected", ["E999"]),  # 0.12
        ("ruff (invalid-syntax)", "invalid-syntax: Expected", ["E999"]),
        ("a tool", "E225", None),
    ],
)
def test_what_another_version_prints_is_read_or_refused(tmp_path, monkeypatch, title, message, codes):
    scorer = Ruff()
    printed = (
        f"::error title={title},file=/tmp/x1/0.py,line=1,col=2,endLine=1,endColumn=3::0.py:1:2: {message}\n"
    )
    (tmp_path / "ruff").write_text(f"#!/bin/sh\nprintf '{printed}'\n")
    (tmp_path / "ruff").chmod(0o755)
    monkeypatch.setattr(scorer, "_command", [str(tmp_path / "ruff")])
    if codes is None:
        with pytest.raises(ScorerError, match="cannot read what this version of ruff prints"):
            scorer.score([["x=1\n"]])
    else:
        assert [code for _, code in hits(scorer, "x=1\n")] == codes


def test_noqa_has_no_effect():
    for mark in ("# noqa", "# ruff: noqa", "# noqa: E225"):
        assert (2, "E225") in hits(RUFF, f"{mark}\nx=1  {mark}\n")


def test_an_error_of_syntax_does_not_hide_others():
    assert hits(RUFF, "y = (\n") == [(1, "E999")]
    assert {(1, "E999"), (3, "E225")} <= set(hits(RUFF, "def f(:\n    pass\nz=1\n"))


@pytest.mark.slow
def test_they_agree_on_the_lines_of_the_standard_library():
    """On the rules that both have; the share is that of the lines that any of them flags."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    documents = [
        path.read_text(encoding="utf-8").splitlines(keepends=True)
        for path in sorted(stdlib.glob("[c-h]*.py"))
    ]
    documents = [lines for lines in documents if "\f" not in "".join(lines)]
    lacking = ("E12", "E13", "E301", "E722")

    def flagged(scorer) -> set[tuple[int, int]]:
        return {
            (number, line)
            for number, scores in enumerate(scorer.score(documents))
            for line, score in enumerate(scores)
            if any(not span.label.startswith(lacking) for span in score.spans)
        }

    one, other = flagged(RUFF), flagged(PEP8)
    assert len(other) > 500
    assert len(one & other) / len(one | other) > 0.95


@settings(max_examples=20)
@given(
    st.text(
        st.characters(categories=["L", "N", "P", "Z", "Cc", "Cs"]) | st.sampled_from("\n\r\f\t=( '"),
        max_size=60,
    )
)
def test_nothing_crashes_it(text):
    segments = text.splitlines(keepends=True)
    for scorer in (RUFF, COMPILES):
        (scores,) = scorer.score([segments])
        assert len(scores) == len(segments)
        for score, segment in zip(scores, segments, strict=True):
            assert score.value is None or score.value >= 0
            assert all(0 <= span.start < span.end <= len(segment) for span in score.spans)


def test_options_that_cannot_be_are_one_line():
    with pytest.raises(ScorerError, match="ignore must be a list of codes"):
        Ruff(ignore="E501")
    with pytest.raises(ScorerError, match=r"max_line_length must lie in \[1, 320\], not 0"):
        Ruff(max_line_length=0)
    assert Ruff(max_line_length=20).fingerprint != RUFF.fingerprint == load_scorer("ruff").fingerprint
    assert (1, "E501") in hits(Ruff(max_line_length=20), "x = 1  # a comment of more than that\n")


def rejected(text: str) -> list[float | None]:
    return [score.value for score in COMPILES.score([text.splitlines(keepends=True)])[0]]


def test_code_that_compiles_scores_0():
    path = Path(ast.__file__)
    assert set(rejected(path.read_text(encoding="utf-8"))) == {0.0}
    assert rejected("") == []


def test_a_line_that_does_not_parse_costs_itself():
    assert rejected("x = 1\ny = = 2\nz = 3\n") == [0, 1, 0]
    assert rejected("def f(:\n    return 1\n\nz = 3\n") == [1, 0, 0, 0]
    assert rejected("if x:\n        a = 1\n    b = 2\nc = 3\n") == [0, 0, 1, 0]
    assert rejected("x = (\n") == [1]
    ((whole,),) = COMPILES.score([["x = 1\ny = = 2\nz = 3\n"]])
    assert whole.value == 8 / 20


def test_a_text_of_nothing_but_mistakes_ends():
    found = rejected("= 1\n" * 500)
    assert found[:100] == [1.0] * 100
    assert found[-1] is None
