"""With the real package: its model is part of it."""

import subprocess
import sys
from importlib.metadata import version

import pytest

from scorers import ScorerError, load_scorer
from scorers.profanity import Profanity

OFFENSIVE = ["You are a stupid bitch.", "Shut up, you fucking idiot!", "what a worthless piece of shit"]
BENIGN = ["The committee met on Tuesday.", "She sings like a bird, and he likes it.", "Thank you very much!"]
ODD = ["", " \n\t", "12", "\ud800", "\0", "日本語", "word " * 100_000]


@pytest.fixture(scope="module")
def scorer() -> Profanity:
    return load_scorer("profanity")


def values(scorer: Profanity, texts: list[str]) -> list[float]:
    return [score.value for score in scorer.score_segments(texts)]


def test_offensive_sentences_score_above_benign_ones(scorer):
    assert min(values(scorer, OFFENSIVE)) > 0.9
    assert max(values(scorer, BENIGN)) < 0.3


def test_a_segment_scores_the_same_alone_and_among_others(scorer):
    texts = [*OFFENSIVE, *ODD, *BENIGN]
    together = values(scorer, texts)
    assert together == [value for text in texts for value in values(scorer, [text])]
    assert all(0 <= value <= 1 for value in together)
    (document, empty) = scorer.score([texts, []])
    assert [score.value for score in document] == together
    assert empty == []
    assert scorer.score([]) == []


def test_a_blank_text_scores_as_one_of_which_no_word_is_known(scorer):
    blank, unknown = values(scorer, [" \n", "xyzzyq qwxzzy"])
    assert blank == unknown < 0.05


@pytest.mark.slow
def test_it_is_built_without_the_network_or_a_warning():
    code = (
        "import socket, warnings; warnings.simplefilter('error')\n"
        "def refuse(*_, **__): raise AssertionError('asked the network')\n"
        "socket.getaddrinfo = socket.socket.connect = refuse\n"
        "from scorers import load_scorer\n"
        "print(load_scorer('profanity').score([['damn']])[0][0].value > 0.5)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("True\n", "")


def test_another_release_of_the_package_is_another_scorer(scorer, monkeypatch):
    assert scorer.settings() == {"alt-profanity-check": version("alt-profanity-check")}
    before = scorer.fingerprint
    monkeypatch.setattr("scorers.profanity.version", lambda package: f"{package} 2.0")
    assert scorer.fingerprint != before


def test_a_missing_package_is_one_line_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "profanity_check", None)
    with pytest.raises(ScorerError) as error:
        load_scorer("profanity")
    assert str(error.value) == "scorer profanity needs profanity_check: pip install 'phf[profanity]'"
