import io
import re
import subprocess
import sys

import pytest
from rich.console import Console

from phf.annotation.try_scorer import try_scorer
from phf.base.errors import ConfigError, PhfError
from phf.cli import main
from scorers import ScorerError

# Says of every segment what the test tells it to.
SCORER = """
from scorers import Score, SegmentScorer, Span

class Says(SegmentScorer):
    name, version, measures = "says", "1", "[red]what it is told[/red]"
    unit = "paragraph"

    def __init__(self, value=None, spans=()):
        self.value, self.spans = value, [Span(*span) for span in spans]

    def score_segments(self, segments):
        return [Score(self.value, tuple(self.spans))] * len(segments)
"""


@pytest.fixture
def says(tmp_path) -> str:
    (tmp_path / "own.py").write_text(SCORER)
    return f"{tmp_path / 'own.py'}:Says"


def show(name: str, text: str, *options: str, unit: str | None = None, width: int = 60, **console) -> str:
    file = io.StringIO()
    try_scorer(name, text.encode(), options, unit, Console(file=file, width=width, **console))
    return file.getvalue()


def rows(shown: str) -> list[str]:
    """What is printed under the measure and the header, without the space at the end of lines."""
    return [line.rstrip() for line in shown.splitlines()[2:]]


def coloured(name: str, text: str, *options: str) -> list[tuple[str, str]]:
    """Style and text of every styled stretch."""
    shown = show(name, text, *options, force_terminal=True, color_system="standard")
    return [(style, text.strip()) for style, text in re.findall(r"\x1b\[([\d;]+)m(.*?)\x1b\[0m", shown)]


def test_without_a_terminal_spans_are_told_in_plain_text():
    shown = show("pep8", "x=1\ny = 2\n")
    assert "\x1b" not in shown
    assert shown.startswith("PEP8 violations a character\n")
    assert rows(shown) == [r" 0.25   x=1\n", "        ^ 1:2 E225 =", r" 0      y = 2\n"]


def test_in_a_terminal_a_span_and_its_label_have_one_colour(says):
    found = coloured(says, "Mail Jo or Al.", "value=0.9", "spans=[[5,7,NAME],[11,13,NAME],[8,10,WORD]]")
    assert ("1;31", "0.9") in found
    assert [entry for entry in found if entry[0].startswith("1;7")] == [
        ("1;7;31", "Jo"),
        ("1;7;36", "or"),
        ("1;7;31", "Al"),
    ]
    assert {("31", "NAME"), ("36", "WORD")} <= set(found)


def test_scores_have_the_colour_of_their_place_in_the_range(says):
    for value, style in (("0", "32"), ("0.2", "33"), ("0.8", "1;31"), ("null", "2")):
        shown = "cannot say" if value == "null" else value
        assert (style, shown) in coloured(says, "a text", f"value={value}")


def test_of_spans_that_overlap_all_are_seen_and_named(says):
    found = coloured(says, "0123456789", "value=0.5", "spans=[[2,4,IN],[0,6,OUT],[5,9,END]]")
    marked = [entry for entry in found if entry[0].startswith("1;7")]
    assert "".join(text for _, text in marked) == "012345678"
    assert [text for _, text in marked if text in ("01", "23", "4")] == ["01", "23", "4"]
    assert len({style for style, text in marked if text in ("23", "01", "678")}) == 3
    plain = rows(show(says, "0123456789", "value=0.5", "spans=[[2,4,IN],[0,6,OUT],[5,9,END]]"))
    assert [line.split()[1:] for line in plain[1:]] == [
        ["0:6", "OUT", "012345"],
        ["2:4", "IN", "23"],
        ["5:9", "END", "5678"],
    ]


def test_a_span_of_no_characters_is_a_mark_in_its_place(says):
    spans = "spans=[[0,0,A],[2,2,B],[2,2,C],[4,4,D]]"
    assert rows(show(says, "ab\nd", "value=1", spans)) == [
        r" 1      ‸ab‸\n",
        "        d‸",
        "        ^ 0:0 A",
        "        ^ 2:2 B",
        "        ^ 2:2 C",
        "        ^ 4:4 D",
    ]
    assert [text for style, text in coloured(says, "ab\nd", spans) if style.startswith("1;7")] == ["‸"] * 3


def test_what_is_not_seen_or_steers_the_terminal_is_escaped(says):
    text = "\x1b[31m\t[bold]a[/bold]\x00\u202e :smile: \r"
    shown = show(says, text, r'spans=[[0,1,"[red]\e"]]', width=100)
    assert shown.startswith("[red]what it is told[/red]\n")
    assert rows(shown)[0] == r" cannot say  \x1b[31m\t[bold]a[/bold]\x00\u202e :smile: \r"
    assert rows(shown)[1].split() == ["^", "0:1", r"[red]\x1b", r"\x1b"]


def test_segments_of_newlines_alone_are_seen():
    assert rows(show("compiles", "\n\n")) == [r" 0      \n", r" 0      \n"]


def test_many_lines_stay_lines_and_wide_ones_are_folded(says):
    lines = rows(show(says, "def f():\n    return 1\n", "value=0", unit="document"))
    assert lines == [r" 0      def f():\n", r"            return 1\n"]
    for text in ("x" * 150, "漢字" * 40):
        lines = rows(show(says, text, "spans=[[0,80,LONG]]", width=40))
        assert "".join(line[13:] for line in lines).startswith(text)
        assert all(Console().measure(line).maximum <= 40 for line in lines)
        assert f"^0:80LONG{text[:37]}..." in "".join("".join(line[13:] for line in lines).split())


@pytest.mark.slow
def test_the_scorer_says_which_segments_suit_it_unless_told(says):
    text = "One. Two.\n\nThree.\nFour."
    for name, unit, count in (("profanity", None, 4), ("ruff", None, 4), (says, None, 2), (says, "line", 4)):
        shown = show(name, text, unit=unit)
        assert len(re.findall(r"^ [\dc]", shown, flags=re.MULTILINE)) == count, (name, unit)


def test_from_standard_input_to_a_pipe():
    result = subprocess.run(
        [sys.executable, "-m", "phf", "scorers", "try", "pep8", "-", "--segmenter", "line", "ignore=[E2]"],
        input=b"x=1\r\n",
        capture_output=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert rows(result.stdout.decode()) == [r" 0      x=1\r\n"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["pep9", "x"], 2, "no scorer 'pep9'; did you mean pep8?"),
        (["pep8", "x", "max_line_lenght=3"], 2, "no option 'max_line_lenght'; it has max_line_length"),
        (["pep8", "x", "y"], 2, "y: not an option key=value; quote a text of several words"),
        (["pep8", "x", "ignore=[E2"], 2, "scorer.options.ignore=[E2"),
        (["pep8", ""], 2, "the text is empty"),
        (["pep8", "\udcff"], 2, "the text is not UTF-8: invalid start byte at byte 0"),
        (["words", "x"], 2, "give words"),
        (["SAYS", "x", "value=-1"], 1, "ValueError: the score -1 is not a number of 0 or more"),
    ],
)
def test_a_mistake_is_one_line_and_a_code(arguments, code, message, says, capsys):
    assert main(["scorers", "try", arguments[0].replace("SAYS", says), *arguments[1:]]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("phf scorers try: ")
    assert message in err
    assert err.count("\n") == 1


def test_errors_are_those_of_the_library(says):
    with pytest.raises(ConfigError, match=r"segmenter\.name"):
        show(says, "x", unit="word")
    with pytest.raises(PhfError, match="outside of its segment"):
        show(says, "x", "spans=[[3,2,A]]")
    with pytest.raises(ScorerError, match="no scorer 'saying'"):
        show("saying", "x")


def test_debug_stands_before_or_behind(capsys):
    for arguments in (["--debug", "pep8", ""], ["pep8", "", "--debug"]):
        with pytest.raises(ConfigError, match="the text is empty"):
            main(["scorers", "try", *arguments])
