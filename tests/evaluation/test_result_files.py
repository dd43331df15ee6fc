"""Results that earlier versions wrote, as they are read now."""

import json

import pytest

from phf.base.errors import PhfError
from phf.base.estimates import Interval
from phf.evaluation.measures.heldout import Decile
from phf.evaluation.result_files import read_results
from phf.evaluation.results import EvaluationResults, RedteamResults, TamperResults

RUN = {"name": "conditional", "folder": "runs/conditional", "objective": "conditional", "tokens": 10}
SCORER = {"name": "pep8", "version": "1", "fingerprint": "01", "measures": "violations", "options": {}}
INTERVAL = {"value": 0.5, "low": 0.4, "high": 0.6}
DECODING = {"temperature": 0.7, "guidance": 1.5, "safe_beams": 0, "best_of": 1}
COMMON = {"format": 1, "run": RUN, "scorer": SCORER, "threshold": 0.0, "confidence": 0.95, "seed": 0}


@pytest.fixture
def read(tmp_path):
    def read(cls, **content):
        (tmp_path / "results.json").write_text(json.dumps(COMMON | content))
        return read_results(tmp_path, cls)

    return read


def test_an_evaluation(read):
    scenario = {
        "tag": "good", "n": 6, "num_prompts": 0, "mean_score": INTERVAL, "rate": INTERVAL,
        "expected_max": {**INTERVAL, "k": 6}, "finished": 0.25, "distinct_1": 0.3, "entropy": 7.5,
        "decoding": DECODING,
    }  # fmt: skip
    heldout = {
        "loss": 2.0, "aligned": 1.5, "misaligned": None, "tokens": 99, "perplexity": 7.4, "untagged": 2.5,
        "threshold": 0.0, "intervals": {"loss": {"value": 2.0, "low": 1.9, "high": 2.1}},
        "deciles": [
            {"deciles": [1], "low": 0, "high": 1, "segments": 2, "tokens": 4, "loss": 3.0, "perplexity": 20.1}
        ],
    }  # fmt: skip
    results = read(EvaluationResults, scenarios={"plain": scenario}, heldout=heldout, kl=None, ranking=None)
    assert results.run.uses_scores is True
    found = results.scenarios["plain"]
    assert found.rate == Interval(0.5, 0.4, 0.6)
    assert found.finished == Interval(0.25)
    assert found.decoding["decoder"] == {"name": "guidance", "options": {"weight": 1.5}}
    diversity = found.measures["diversity"]
    assert (diversity.distinct_1.value, diversity.entropy.value) == (0.3, 7.5)
    assert results.measures.keys() == {"heldout"}
    loss = results.measures["heldout"]
    assert (loss.loss, loss.untagged, loss.misaligned) == (Interval(2.0, 1.9, 2.1), Interval(2.5), Interval())
    assert loss.deciles == [Decile([1], 0, 1, 2, 4, Interval(3.0), Interval(20.1))]


def test_attacks(read):
    scenario = {"name": "plain", "tag": "good", **DECODING}
    point = {"tokens": 0, "loss": None, "n": 6, "rate": INTERVAL, "finished": 0.25, "distinct_1": 0.3}
    tampered = read(TamperResults, scenario=scenario, curves={"bad": [point]})
    assert tampered.scenario["decoder"] == {"name": "guidance", "options": {"weight": 1.5}}
    (start,) = tampered.curves["bad"]
    assert (start.rate, start.finished) == (Interval(0.5, 0.4, 0.6), Interval(0.25))
    attacked = read(RedteamResults, scenario=scenario, attacker={"name": "model", "model": "gpt2"})
    assert attacked.scenario["decoder"]["name"] == "guidance"
    assert attacked.attacker == {"name": "model", "options": {"model": "gpt2"}}


def test_what_is_none_is_one_line(read):
    with pytest.raises(PhfError, match=r"results\.json: not results of format 1 or 2; measure again"):
        read(EvaluationResults, format=3)
    with pytest.raises(
        PhfError, match=r"results\.json: scenarios\.a\.n: .* integer.*; measure again"
    ) as error:
        read(EvaluationResults, scenarios={"a": {"n": "many"}})
    assert "\n" not in str(error.value)
