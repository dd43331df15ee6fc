import json

import numpy as np
import pytest

from scorers import ScorerError, load_scorer
from scorers.base import Score, SegmentScorer

DOCUMENTS = [["x=1  # TODO\n", "y = 2\n"], ["z=3;\n"]]
TWO = {"pep8": {"weight": 2}, "words": {"options": {"words": ["todo"]}}}


def values(scorer, documents=DOCUMENTS):
    return [[score.value for score in scores] for scores in scorer.score(documents)]


def test_the_weighted_sum_and_the_largest():
    pep8, words = load_scorer("pep8"), load_scorer("words", words=["todo"])
    for combine, expected in (("sum", lambda a, b: 2 * a + b), ("max", lambda a, b: max(2 * a, b))):
        both = load_scorer("composite", scorers=TWO, combine=combine)
        for found, first, second in zip(values(both), values(pep8), values(words), strict=True):
            assert found == [expected(a, b) for a, b in zip(first, second, strict=True)]
    spans = [span.label for span in both.score(DOCUMENTS)[0][0].spans]
    assert spans == ["pep8: E225", "words: TODO"]


class Shy(SegmentScorer):
    """Cannot say of a segment that begins with z."""

    name, version, measures = "shy", "1", "nothing"

    def score_segments(self, segments):
        return [Score(None if s.startswith("z") else 1.0) for s in segments]


def test_where_one_cannot_say_there_is_no_score(tmp_path, monkeypatch):
    both = load_scorer("composite", scorers={"pep8": {}, "shy": {"scorer": f"{__file__}:Shy"}})
    assert values(both)[1] == [None]
    assert None not in values(both)[0]


class OnGpu(Shy):
    device = "cuda"


def test_it_computes_where_its_parts_do():
    on_gpu = {"shy": {"scorer": f"{__file__}:OnGpu"}}
    assert load_scorer("composite", scorers=TWO).device == "cpu"
    assert load_scorer("composite", scorers=TWO | on_gpu).device == "cuda"


def manifest(path, scores):
    shares = np.linspace(0, 1, 101)
    quantiles = np.quantile(scores, shares, method="inverted_cdf")
    path.write_text(json.dumps({"quantiles": dict(zip(map(str, shares), quantiles, strict=True))}))
    return str(path)


def test_quantiles_make_scores_comparable(tmp_path):
    path = manifest(tmp_path / "manifest.json", [0.0] * 50 + [0.1] * 50)
    scorer = load_scorer("composite", scorers={"words": {"options": {"words": ["a"]}, "quantiles": path}})
    none, some, many = values(scorer, [["bbbbbbbbbb", "a bbbbbbbb", "a a"]])[0]
    assert none == 0
    assert some == pytest.approx(0.5, abs=0.01)
    assert many == 1.0
    other = manifest(tmp_path / "other.json", [0.0] * 10 + [0.1] * 90)
    again = load_scorer("composite", scorers={"words": {"options": {"words": ["a"]}, "quantiles": other}})
    assert again.fingerprint != scorer.fingerprint


def test_what_cannot_be_is_one_line(tmp_path):
    (tmp_path / "part.json").write_text(json.dumps({"counts": None, "quantiles": {}}))
    (tmp_path / "other.json").write_text(json.dumps({"path": "part.json"}))
    for options, message in [
        ({"scorers": {}}, "must name at least one"),
        ({"scorers": TWO, "combine": "mean"}, "combine must be sum or max, not 'mean'"),
        ({"scorers": {"pep9": {}}}, "no scorer 'pep9'; did you mean pep8"),
        ({"scorers": {"pep8": {"scale": 1}}}, "pep8 has no key 'scale'"),
        ({"scorers": {"pep8": {"weight": -1}}}, "the weight of pep8 must be 0 or more"),
        ({"scorers": {"pep8": {"quantiles": "/no/where"}}}, "/no/where is not a manifest of finished"),
        ({"scorers": {"pep8": {"quantiles": str(tmp_path / "other.json")}}}, "other.json is not a manifest"),
        ({"scorers": {"pep8": {"quantiles": str(tmp_path / "part.json")}}}, "part.json has no scores yet"),
    ]:
        with pytest.raises(ScorerError, match=message):
            load_scorer("composite", **options)
