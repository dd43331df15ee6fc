import os
import pickle
import subprocess
import sys
from textwrap import dedent

import pytest

from scorers import Scorer, ScorerError, describe_scorers, load_scorer, scorer_names
from scorers.code import Pep8


def test_built_in_scorers_are_found_by_name_with_options():
    scorer = load_scorer("pep8", max_line_length=100)
    assert isinstance(scorer, Pep8)
    assert scorer.max_line_length == 100
    assert "pep8" in scorer_names()


def test_every_built_in_scorer_describes_itself():
    lines = {line.name: line for line in describe_scorers()}
    assert set(lines) == set(scorer_names())
    assert (lines["pep8"].range, lines["pep8"].granularity) == ("[0, inf)", "document")
    assert all(line.measures for line in lines.values())


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Makes a module `mine` of some source."""

    def make(source: str) -> None:
        (tmp_path / "mine.py").write_text(dedent(source))

    monkeypatch.syspath_prepend(tmp_path)
    yield make
    sys.modules.pop("mine", None)


LENGTH = """
    from scorers import Score, SegmentScorer

    class Length(SegmentScorer):
        name = "length"
        version = "1"
        measures = "characters"

        def __init__(self, scale: float = 1.0, *, unit: str = "c"):
            self.scale = scale / 1

        def score_segments(self, segments):
            return [Score(len(segment) * self.scale) for segment in segments]

    class Plain(Length):
        pass

    class Short(SegmentScorer):
        name, version, measures = "short", "1", "nothing"

        def score_segments(self, segments):
            return [Score(1.0)] * 2

    class NoScorer: ...
"""


def test_a_scorer_of_ones_own_is_found_by_its_place(module):
    module(LENGTH)
    scorer = load_scorer("mine:Length", scale=2)
    assert isinstance(scorer, Scorer)
    assert [[s.value for s in document] for document in scorer.score([["a", "bc"], [], ["d"]])] == [
        [2, 4],
        [],
        [2],
    ]


def test_every_option_is_in_the_fingerprint_unless_the_scorer_says_otherwise(module):
    module(LENGTH)
    for name in ("mine:Length", "mine:Plain"):
        scorer = load_scorer(name, scale=2)
        assert dict(scorer.settings()) == {"scale": 2, "unit": "c"}
        prints = [load_scorer(name, **options).fingerprint for options in ({}, {"scale": 1.0}, {"scale": 3})]
        assert prints[0] == prints[1] != prints[2]
        assert pickle.loads(pickle.dumps(scorer)).fingerprint == scorer.fingerprint
    assert load_scorer("mine:Short").settings() == {}
    assert load_scorer("pep8", ignore=["E2", "E1"]).settings()["ignore"] == ["E1", "E2"]


@pytest.mark.parametrize("documents", [[["a"]], [["a"], ["b", "c"]]])
def test_a_score_too_many_or_too_few_is_an_error(module, documents):
    module(LENGTH)
    with pytest.raises(ValueError, match=r"2 scores for [13] segments"):
        load_scorer("mine:Short").score(documents)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pep9", {}, "no scorer 'pep9'; did you mean pep8?"),
        ("toxic", {}, "no scorer 'toxic'; did you mean toxicity?"),
        (":Length", {}, "no scorer ':Length'"),
        ("mine:", {}, "no scorer 'mine:'"),
        ("nowhere.to_be:Found", {}, "needs nowhere, which is not installed"),
        ("mine:Width", {}, "mine has no Width"),
        ("mine:NoScorer", {}, "NoScorer does not inherit from scorers.base.Scorer"),
        ("mine:Length", {"scal": 1}, "has no option 'scal'; it has scale, unit; did you mean scale?"),
        ("mine:Short", {"scale": 1}, "has no option 'scale'; it has none"),
        ("mine:Length", {"scale": "x"}, "scorer mine:Length cannot be built: unsupported operand"),
        ("perplexity", {}, "scorer perplexity: give its option model"),
        ("judge", {"base_url": "x"}, "scorer judge: give its options model and rubric"),
        ("pep8", {"threshold": 1}, "scorer pep8 has no option 'threshold'; it has max_line_length, ignore"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(module, name, options, message):
    module(LENGTH)
    with pytest.raises(ScorerError) as error:
        load_scorer(name, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_package", "needs no_such_package, which is not installed"),
        ("1 / 0", "mine cannot be imported: ZeroDivisionError: division by zero"),
        ("def broken(:", "mine cannot be imported: SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(module, source, message):
    module(source)
    with pytest.raises(ScorerError, match=message):
        load_scorer("mine:Anything")


def test_a_scorer_in_a_file_is_found_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/mine.py").write_text(dedent(LENGTH))
    (tmp_path / "mine.py").write_text(dedent(LENGTH).replace("self.scale)", "self.scale + 1)"))
    monkeypatch.chdir(tmp_path)
    first, second = load_scorer("a/mine.py:Length"), load_scorer(f"{tmp_path}/mine.py:Length", scale=2)
    assert (first.score([["ab"]])[0][0].value, second.score([["ab"]])[0][0].value) == (2.0, 5.0)
    assert type(load_scorer("./a/mine.py:Length")) is type(first)
    with pytest.raises(ScorerError, match=r"no such file: b/mine.py"):
        load_scorer("b/mine.py:Length")
    (tmp_path / "broken.py").write_text("x = 1 /")
    with pytest.raises(ScorerError, match=r"broken.py cannot be imported: SyntaxError"):
        load_scorer("broken.py:Length")


PACKAGE = """
    [build-system]
    requires = ["hatchling"]
    build-backend = "hatchling.build"

    [project]
    name = "their-scorers"
    version = "1.0"

    [project.entry-points."phf.scorers"]
    length = "their_scorers:Length"
    broken = "their_scorers.nowhere:Length"
    words = "their_scorers:Length"
"""


@pytest.mark.slow
def test_a_package_adds_scorers(tmp_path):
    """Also one that is broken, and one whose name is taken."""
    source, target = tmp_path / "source", tmp_path / "installed"
    (source / "their_scorers").mkdir(parents=True)
    (source / "pyproject.toml").write_text(dedent(PACKAGE))
    (source / "their_scorers/__init__.py").write_text(dedent(LENGTH))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--target", target, source], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(target), "COLUMNS": "200"}

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return result.stdout + result.stderr.strip().rpartition("\n")[2]

    lines = {line.split()[0]: line for line in run("-m", "phf", "scorers").splitlines()}
    assert "characters" in lines["length"]
    assert "their-scorers" in lines["length"]
    assert "cannot be used: scorer broken needs their_scorers.nowhere" in lines["broken"]
    assert "cannot be used: the scorer 'words' is in two packages (phf, their-scorers)" in lines["words"]
    assert "PEP8 violations" in lines["pep8"]
    score = "from scorers import load_scorer; print(load_scorer({!r}, scale=3).score([['ab']])[0][0].value)"
    assert run("-c", score.format("length")) == "6.0\n"
    assert "no scorer 'lengths'; did you mean length?" in run("-c", score.format("lengths"))
    assert "give it as package.module:Class" in run("-c", score.format("words"))
