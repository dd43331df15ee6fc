import pytest

from scorers import Score, ScorerError, SegmentScorer
from scorers import base as scorers_base


class Counting(SegmentScorer):
    name, version, measures = "counting", "1", "characters"

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.built_from = {}

    def score_segments(self, segments):
        assert segments, "nothing to score"
        self.seen += segments
        return [Score(float(len(segment))) for segment in segments]


def values(found):
    return [[score.value for score in document] for document in found]


def test_a_segment_that_comes_again_is_not_scored_again():
    scorer = Counting()
    assert values(scorer.score([["a", "bb", "a"], [], ["bb", "ccc"]])) == [[1, 2, 1], [], [2, 3]]
    assert values(scorer.score([["ccc", "a"]])) == [[3, 1]]
    assert values(scorer.score([])) == []
    assert scorer.seen == ["a", "bb", "ccc"]


def test_what_is_remembered_has_a_limit(monkeypatch):
    monkeypatch.setattr(scorers_base, "_REMEMBERED_CHARACTERS", 5)
    scorer = Counting()
    for _ in range(3):
        assert values(scorer.score([["aaa", "aaa"]])) == [[3, 3]]
    assert scorer.seen == ["aaa"]
    assert values(scorer.score([["bbb"]])) == [[3]]
    assert values(scorer.score([["aaa"]])) == [[3]]
    assert scorer.seen == ["aaa", "bbb", "aaa"]


def test_a_wrong_number_of_scores_is_an_error_and_not_remembered(monkeypatch):
    scorer = Counting()
    with monkeypatch.context() as patch:
        patch.setattr(scorer, "score_segments", lambda segments: [])
        with pytest.raises(ValueError, match="0 scores for 2 segments"):
            scorer.score([["a", "b"]])
    assert values(scorer.score([["a", "b"]])) == [[1, 1]]


def test_what_is_not_a_number_is_not_remembered(monkeypatch):
    scorer = Counting()
    with monkeypatch.context() as patch:
        patch.setattr(scorer, "score_segments", lambda segments: [Score(float("nan")) for _ in segments])
        assert str(values(scorer.score([["a"]]))) == "[[nan]]"
    assert values(scorer.score([["a"]])) == [[1]]


def test_another_version_name_or_setting_is_another_fingerprint():
    class Newer(Counting):
        version = "2"

    class Other(Counting):
        name = "other"

    class Set(Counting):
        def settings(self):
            return {"limit": 3}

    prints = [scorer().fingerprint for scorer in (Counting, Newer, Other, Set)]
    assert len(set(prints)) == 4
    assert Counting().fingerprint == prints[0]


def test_a_scorer_that_does_not_know_its_options_has_no_fingerprint():
    scorer = Counting()
    scorer.built_from = None
    with pytest.raises(ScorerError, match="scorer counting: build it with `load_scorer`, or define"):
        _ = scorer.fingerprint
