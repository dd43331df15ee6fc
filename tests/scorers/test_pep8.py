import io
import pickle
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pycodestyle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers import ScorerError, load_scorer
from scorers.code import Pep8

PEP8 = Pep8()


def lines_of(text: str) -> list[str]:
    return io.StringIO(text, newline="\n").readlines()


def hits(text: str, scorer: Pep8 = PEP8) -> list[tuple[int, str]]:
    """Line (from 1) and code of each violation, in order."""
    (scores,) = scorer.score([lines_of(text)])
    return sorted((i, span.label) for i, score in enumerate(scores, 1) for span in score.spans)


def values(text: str, scorer: Pep8 = PEP8) -> list[float | None]:
    (scores,) = scorer.score([lines_of(text)])
    return [score.value for score in scores]


def test_a_score_is_violations_a_character_of_the_segment():
    assert values("x=1\ny = 2\nz=3;\n") == [1 / 4, 0.0, 2 / 5]
    assert hits("x=1\ny = 2\nz=3;\n") == [(1, "E225"), (3, "E225"), (3, "E703")]


def test_a_span_says_where():
    ((_, score),) = PEP8.score([["y = 2\n", "x = [1,2]\n"]])
    (span,) = score.spans
    assert (span.start, span.end, span.label) == (6, 7, "E231")


def test_any_segments_share_out_the_same_hits():
    text = "import os, sys\ndef f(a,b):\n  return a+ b\n\n\n\n\nx=f(1,2)"
    expected = sorted(label for _, label in hits(text))
    for pieces in ([text], lines_of(text), list(text), [text[:20], text[20:21], text[21:]]):
        (scores,) = PEP8.score([pieces])
        assert sorted(span.label for score in scores for span in score.spans) == expected
        for piece, score in zip(pieces, scores, strict=True):
            assert score.value == len(score.spans) / len(piece)
            assert all(0 <= span.start < span.end <= len(piece) for span in score.spans)


def test_documents_are_apart_and_an_empty_one_has_no_scores():
    assert PEP8.score([]) == []
    assert PEP8.score([[], ["x=1\n"], []])[0] == []
    together = PEP8.score([["def f():\n", "    pass\n"], ["x = (\n"], ["y = 1\n"]])
    assert together == [PEP8.score([d])[0] for d in (["def f():\n", "    pass\n"], ["x = (\n"], ["y = 1\n"])]


@pytest.mark.slow
def test_it_agrees_with_pycodestyle_on_the_standard_library():
    class Report(pycodestyle.BaseReport):
        def error(self, line, offset, text, check):
            if super().error(line, offset, text, check):
                self.found.append((line, text[:4]))

    folder = Path(io.__file__).parent
    options = pycodestyle.StyleGuide(reporter=Report, paths=[], select=[], ignore=list(PEP8.ignore)).options
    options.max_line_length = 79
    for name in ("ast.py", "cmd.py", "colorsys.py", "json/decoder.py", "sched.py", "this.py", "tty.py"):
        text = (folder / name).read_text(encoding="utf-8")
        report = Report(options)
        report.found = []
        pycodestyle.Checker(lines=lines_of(text), options=options, report=report).check_all()
        assert hits(text) == sorted(report.found), name


@pytest.mark.parametrize(
    "text",
    ["x = (1,\n", "def f(\n", "x = [\n    1,\n    2\n", 'x = """\nabc\n', "x = 1 + \\\n", "f(", '"""'],
)
def test_code_that_is_not_finished_never_scores_0(text):
    (scores,) = PEP8.score([lines_of(text)])
    assert sum(score.value or 0 for score in scores) > 0
    ((whole,),) = PEP8.score([[text]])
    assert whole.value > 0


@pytest.mark.parametrize("quote", ["'''", '"""', 'r"""', "b'''", 'f"""'])
def test_an_open_string_does_not_hide_the_lines_in_it(quote):
    text = f"y=1\nx = f({quote}\ntrailing \n{'long ' * 20}end\nz=1\n    a short one"
    found = hits(text)
    assert {(1, "E225"), (3, "W291"), (4, "E501")} < set(found)
    assert [line for line, code in found if code in ("E901", "E902")] == [2]
    assert len(found) == 4
    assert None not in values(text)
    ((whole,),) = PEP8.score([[text]])
    assert whole.value == len(found) / len(text)


def test_a_bad_dedent_does_not_hide_the_lines_after_it():
    text = "if x:\n        a = 1\n    b = 2\nc=3\n" + "  d = 4\ne=5\n" * 3
    assert [line for line, code in hits(text) if code == "E225"] == [4, 6, 8, 10]
    assert {(3, "E901"), (3, "E902")} & set(hits(text))
    # Between two mistakes every line is checked as it is without them.
    middle = "def f():\n    return 1\n\n\ndef g( x):\n  return x\n"
    bad = "if x:\n        a = 1\n    b = 2\n"
    found = [(line - 5, code) for line, code in hits(bad + "\n\n" + middle + bad) if 5 < line <= 11]
    assert found == hits(middle)


@pytest.mark.slow
def test_a_text_of_nothing_but_mistakes_ends():
    text = "if x:\n        a = 1\n    b = 2\n" * 3000 + "'''"
    started = time.monotonic()
    found = values(text)
    assert time.monotonic() - started < 10
    assert found[-1] is None
    assert None not in found[:1000]


def test_an_unclosed_bracket_does_not_hide_the_lines_in_it():
    assert None not in values("x = [\n    1,\n    2,2\n")
    assert (3, "E231") in hits("x = [\n    1,\n    2,2\n")


@pytest.mark.parametrize("mark", ["# noqa", "# NOQA: E501", "#  noqa", "# nopep8"])
@pytest.mark.parametrize(
    "code", ["x = lambda: 0", "x == None", "if x == True: pass", "x = '" + "a" * 90 + "'"]
)
def test_noqa_has_no_effect(mark, code):
    plain = {label for _, label in hits(f"{code}  # other\n")}
    assert plain
    assert plain <= {label for _, label in hits(f"{code}  {mark}\n")}


def test_noqa_has_no_effect_on_a_string_of_several_lines():
    text = 'x = """\ntrailing \n"""  # noqa\n'
    assert (2, "W291") in hits(text)


def test_a_byte_order_mark_counts_as_a_character_and_no_more():
    ((score, other),) = PEP8.score([["\ufeffx=1\n", "y = 1\n"]])
    assert (score.value, other.value) == (1 / 5, 0.0)
    assert score.spans[0].start == 2
    assert values("\ufeff") == [0.0]


def test_lines_end_at_a_line_feed_alone():
    assert hits("x = 1\r\ny=2\r\n") == [(2, "E225")]
    assert hits("x = '\x1c\u2028'\ny=2\n") == [(2, "E225")]
    assert hits("x = 1\n\fy = 2\nz=3\n")[-1] == (3, "E225")


ODD = {
    "null bytes": "x = 1\0\ny=2\n\0\n",
    "tabs": "if x:\n\ty = 1\n        z = 2\n",
    "form feeds": "\f\f\nx = 1\f\n\fy=2\n",
    "carriage returns": "x = 1\ry=2\r\r\n\r",
    "Python 2": "print 'x'\nexec 'y' in d\nraise E, 'z'\n",
    "no code": "Dear Sir or Madam,\n\n\tit's 5 o'clock\n",
    "bad cookie": "# -*- coding: no-such -*-\nx=1\n",
    "half a pair": "x = '\ud800'\ny=\udfff\n",
    "Ctrl-Z": "x = 1\n\x1ay=2\n",
    "backslash": "\\",
    "deep brackets": "x = " + "(" * 3000 + ")" * 3000 + "\n",
    "deep blocks": "".join(" " * i + "if x:\n" for i in range(150)),
    "numbers": "0x 1__0 08 1e\n",
    "question": "x = ?\n$\n`x`\n",
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_input_is_scored_without_a_word(text, capfd):
    scores = values(text)
    assert len(scores) == len(lines_of(text))
    assert any(score is not None for score in scores)
    assert capfd.readouterr() == ("", "")


PIECES = "def f( |)|:|\n|    |\t|'''|\"|x|=|1|,|#| noqa|\\|[|]|lambda|\r|\f|\0|\ufeff|é|f'{|}'|;"
code_like = st.lists(st.sampled_from(PIECES.split("|")), max_size=50).map("".join)


@pytest.mark.slow
@settings(max_examples=300)
@given(text=st.text(st.characters(codec=None), max_size=80) | code_like, cuts=st.sets(st.integers(1, 79)))
def test_any_text_in_any_segments_gets_a_score_or_none(text, cuts):
    bounds = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    segments = [text[a:b] for a, b in pairwise(bounds) if b > a]
    (scores,) = PEP8.score([segments])
    assert len(scores) == len(segments)
    for segment, score in zip(segments, scores, strict=True):
        assert score.value is None or score.value == len(score.spans) / len(segment)
        assert score.value is not None or not score.spans
        assert all(0 <= span.start < span.end <= len(segment) for span in score.spans)
    # Where checking stops, something was found: broken code is never clean.
    if any(score.value is None for score in scores):
        assert sum(score.value or 0 for score in scores) > 0


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["x=1;", "(", "a b ", "#", "'a'", "[1,", "\t", "\0", "\\", "f'{", "# noqa "])
def test_a_megabyte_on_one_line_is_quick(unit):
    text = unit * (1_000_000 // len(unit))
    start = time.monotonic()
    for document in ([text], [text + "\n", "y = 1\n"]):
        PEP8.score([document])
    assert time.monotonic() - start < 5


def test_a_long_line_does_not_spoil_the_lines_after_it():
    text = "x = [" + "1, " * 3000 + "2]\ny = 1\nz=2\n"
    assert hits(text) == [(1, "E501"), (3, "E225")]


def test_the_configuration_of_the_user_has_no_effect(tmp_path):
    (tmp_path / "pycodestyle").write_text("[pycodestyle]\nignore = E,W\nmax-line-length = nonsense\n")
    for name in ("setup.cfg", "tox.ini"):
        (tmp_path / name).write_text("[pycodestyle]\nignore = E,W\n")
    code = "from scorers.code import Pep8; print(Pep8().score([['x=1\\n']])[0][0].value, Pep8().fingerprint)"
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"XDG_CONFIG_HOME": str(tmp_path), "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert (done.stdout.split(), done.stderr) == (["0.25", PEP8.fingerprint], "")


def test_options_decide_what_counts_and_the_fingerprint():
    long = "x = '" + "a" * 84 + "'\ny=1\n"
    assert hits(long) == [(1, "E501"), (2, "E225")]
    assert hits(long, Pep8(max_line_length=100)) == [(2, "E225")]
    assert hits(long, Pep8(ignore=["E5"])) == [(2, "E225")]
    assert hits("x = a+b\n", Pep8(ignore=[])) == [(1, "E226")]
    assert hits("x = (\n", Pep8(ignore=["E9"])) == []
    scorers = [PEP8, Pep8(max_line_length=100), Pep8(ignore=["E5"]), Pep8(ignore=[])]
    assert len({scorer.fingerprint for scorer in scorers}) == 4
    assert Pep8(ignore=["W6", "E5"]).fingerprint == Pep8(ignore=("E5", "W6", "E5")).fingerprint
    assert {"python", "pycodestyle"} <= set(PEP8.settings())


def test_it_can_be_sent_to_another_process():
    copy = pickle.loads(pickle.dumps(PEP8))
    assert copy.score([["x=1\n"]]) == PEP8.score([["x=1\n"]])


@pytest.mark.parametrize(
    "options",
    [
        {"max_line_length": 0},
        {"max_line_length": "79"},
        {"ignore": "E501"},
        {"ignore": ["e5"]},
        {"ignore": [5]},
    ],
)
def test_a_wrong_option_is_one_line(options):
    with pytest.raises(ScorerError) as error:
        load_scorer("pep8", **options)
    assert next(iter(options)) in str(error.value)
    assert "\n" not in str(error.value)
