import json
import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from phf.base.estimates import (
    distinct,
    diversity,
    entropy,
    expected_max,
    mean_by_cluster,
    rate_by_cluster,
    self_bleu,
)

SURE = {"confidence": 0.95, "seed": 0}


def expected(values, clusters=None, of=25):
    return expected_max(values, clusters, of, 0.95, 0)


def test_mean_leaves_out_what_could_not_be_scored():
    assert mean_by_cluster([1.0, None, 3.0], None, **SURE)["value"] == 2
    assert rate_by_cluster([1.0, None, 0.0, 0.0], 0.0, None, **SURE)["value"] == pytest.approx(1 / 3)
    assert mean_by_cluster([None, None], None, **SURE) == {"value": None, "low": None, "high": None}
    assert rate_by_cluster([], 0.0, None, **SURE) == {"value": None, "low": None, "high": None}
    assert expected([None, None]) == {"value": None, "low": None, "high": None, "k": 2}


def test_a_score_at_the_threshold_is_not_above_it():
    assert rate_by_cluster([0.5, 0.5, 0.6, 0.0], 0.5, None, **SURE)["value"] == 0.25


def test_intervals_are_the_same_every_time():
    values = np.random.default_rng(0).exponential(size=50).tolist()
    assert mean_by_cluster(values, None, **SURE) == mean_by_cluster(values, None, **SURE)
    assert mean_by_cluster(values, None, **SURE) != mean_by_cluster(values, None, 0.95, seed=1)


def test_samples_of_one_prompt_are_not_independent():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(20), 10)
    values = (rng.normal(size=20)[clusters] + 0.01 * rng.normal(size=200)).tolist()
    by_prompt = mean_by_cluster(values, clusters.tolist(), **SURE)
    by_sample = mean_by_cluster(values, None, **SURE)
    assert by_prompt["value"] == pytest.approx(by_sample["value"])
    assert by_prompt["high"] - by_prompt["low"] > 2 * (by_sample["high"] - by_sample["low"])


def test_the_interval_of_the_mean_is_about_that_of_students_t():
    values = np.random.default_rng(0).normal(size=200)
    low, high = stats.t.interval(0.95, 199, values.mean(), stats.sem(values))
    interval = mean_by_cluster(values.tolist(), None, **SURE)
    assert interval["low"] == pytest.approx(low, abs=0.02)
    assert interval["high"] == pytest.approx(high, abs=0.02)


def test_the_interval_of_the_rate_covers_the_truth():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        interval = rate_by_cluster((rng.random(120) < 0.1).astype(float).tolist(), 0.5, None, **SURE)
        covered += interval["low"] <= 0.1 <= interval["high"]
    assert 180 <= covered <= 199


def test_the_interval_of_few_prompts_is_not_too_narrow():
    rng = np.random.default_rng(0)
    intervals = [mean_by_cluster(rng.normal(size=6).tolist(), None, **SURE) for _ in range(300)]
    # 285 with a standard deviation of 3.8; those of a plain bootstrap cover it 263 times.
    assert 270 <= sum(i["low"] <= 0 <= i["high"] for i in intervals) <= 298
    two = mean_by_cluster([0.0, 1.0], None, **SURE)
    assert (two["low"], two["high"]) == (0, 1)


@pytest.mark.parametrize(("score", "rate"), [(0.0, 0.0), (1.0, 1.0)])
def test_a_rate_of_nothing_or_all_is_not_certain(score, rate):
    interval = rate_by_cluster([score] * 100, 0.5, None, **SURE)
    assert interval["value"] == rate
    assert interval["high"] - interval["low"] == pytest.approx(1 - 0.025**0.01)
    # Ten prompts with ten samples each are ten observations.
    clustered = rate_by_cluster([score] * 100, 0.5, [i // 10 for i in range(100)], **SURE)
    assert clustered["high"] - clustered["low"] == pytest.approx(1 - 0.025**0.1)


@given(
    st.lists(st.integers(0, 5).map(float), min_size=1, max_size=9),
    st.integers(1, 12),
)
def test_expected_maximum_is_the_mean_over_all_subsets(values, of):
    k = min(of, len(values))
    subsets = [max(subset) for subset in combinations(values, k)]
    measured = expected(values, [0] * len(values), of)
    assert measured["value"] == pytest.approx(np.mean(subsets))
    assert measured["k"] == k
    alone = expected(values, None, of)
    assert (alone["value"], alone["k"]) == (pytest.approx(np.mean(subsets)), k)
    assert (alone["low"] is None) == (len(values) <= of)


def test_expected_maximum_is_taken_by_prompt():
    values, clusters = [1.0, 2.0, 9.0, 5.0], [0, 0, 1, 1]
    assert expected(values, clusters)["value"] == (2 + 9) / 2
    assert expected(values, clusters)["k"] == 2
    assert expected(values, None)["value"] == 9
    assert expected(values, None)["k"] == 4
    # What one prompt lacks does not change the k of the others.
    assert expected([1.0, None, 9.0, 5.0], clusters)["value"] == (1 + 9) / 2


def test_expected_maximum_of_many_samples():
    values = np.random.default_rng(0).exponential(size=4000).tolist()
    measured = expected(values)
    assert measured["low"] < sum(1 / i for i in range(1, 26)) < measured["high"]
    assert measured["k"] == 25


def test_the_interval_of_the_expected_maximum_covers_the_truth():
    """Resampling the samples themselves covers it 163 times: what is largest is missing or there twice."""
    rng = np.random.default_rng(0)
    truth = sum(1 / i for i in range(1, 11))
    measured = [expected(rng.exponential(size=60).tolist(), None, 10) for _ in range(200)]
    assert sum(m["low"] <= truth <= m["high"] for m in measured) >= 170


def test_distinct_and_entropy_by_hand():
    texts = [["a", "b", "a", "b"], ["a"]]
    assert distinct(texts, 1) == 2 / 5
    assert distinct(texts, 2) == 2 / 3
    assert distinct(texts, 5) is None
    assert entropy(texts, 2) == pytest.approx(math.log2(3) - 2 / 3)
    assert entropy([["a", "a", "a"]], 1) == 0
    assert entropy([], 1) is None


def test_self_bleu_by_hand():
    texts = [["the", "cat", "sat", "on", noun] for noun in ("mat", "rug")]
    # Precisions 4/5, 3/4, 2/3, 1/2, and 0.1/1 in place of 0/1.
    assert self_bleu(texts) == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2 * 0.1) ** 0.2)
    assert self_bleu([texts[0]] * 3) == pytest.approx(1)
    assert self_bleu([texts[0]]) is None
    assert self_bleu([texts[0], []]) is None
    # A text shorter than the others is penalised: exp(1 - 5/1).
    short = self_bleu([["the"], texts[0]], order=1)
    assert short == pytest.approx((math.exp(-4) + 1 / 5) / 2)


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=8), min_size=2, max_size=6))
def test_self_bleu_is_that_of_the_definition(texts):
    def bleu(text, others):
        log_precision = 0.0
        for n in range(1, 6):
            grams = [Counter(zip(*(t[i:] for i in range(n)), strict=False)) for t in [text, *others]]
            matches = sum(min(c, max(o[g] for o in grams[1:])) for g, c in grams[0].items())
            log_precision += math.log((matches or 0.1) / max(1, grams[0].total())) / 5
        nearest = min((abs(len(o) - len(text)), len(o)) for o in others)[1]
        return math.exp(log_precision) * min(1, math.exp(1 - nearest / len(text)))

    wanted = np.mean([bleu(text, texts[:i] + texts[i + 1 :]) for i, text in enumerate(texts)])
    assert self_bleu(texts) == pytest.approx(wanted)


@given(st.lists(st.text(max_size=20), max_size=4))
def test_diversity_has_no_nan(texts):
    json.dumps(diversity(texts), allow_nan=False)


def test_diversity_counts_words_and_marks():
    assert diversity(["x = f(x)"])["distinct_1"] == 5 / 6
