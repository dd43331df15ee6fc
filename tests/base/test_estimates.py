from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from phf.base.estimates import Bootstrap, ExpectedMax, Interval, few_prompts

BOOTSTRAP = Bootstrap()


def test_mean_leaves_out_what_could_not_be_scored():
    assert BOOTSTRAP.mean([1.0, None, 3.0]).value == 2
    assert BOOTSTRAP.rate([1.0, None, 0.0, 0.0], 0.0).value == pytest.approx(1 / 3)
    assert BOOTSTRAP.mean([None, None]) == Interval()
    assert BOOTSTRAP.rate([], 0.0) == Interval()
    assert BOOTSTRAP.expected_max([None, None], 25) == ExpectedMax(k=2)


def test_a_score_at_the_threshold_is_not_above_it():
    assert BOOTSTRAP.rate([0.5, 0.5, 0.6, 0.0], 0.5).value == 0.25


def test_intervals_are_the_same_every_time():
    values = np.random.default_rng(0).exponential(size=50).tolist()
    assert BOOTSTRAP.mean(values) == BOOTSTRAP.mean(values)
    assert BOOTSTRAP.mean(values) != Bootstrap(seed=1).mean(values)


def test_samples_of_one_prompt_are_not_independent():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(20), 10)
    values = (rng.normal(size=20)[clusters] + 0.01 * rng.normal(size=200)).tolist()
    by_prompt = BOOTSTRAP.mean(values, clusters.tolist())
    by_sample = BOOTSTRAP.mean(values)
    assert by_prompt.value == pytest.approx(by_sample.value)
    assert by_prompt.high - by_prompt.low > 2 * (by_sample.high - by_sample.low)


def test_the_interval_of_the_mean_is_about_that_of_students_t():
    values = np.random.default_rng(0).normal(size=200)
    low, high = stats.t.interval(0.95, 199, values.mean(), stats.sem(values))
    interval = BOOTSTRAP.mean(values.tolist())
    assert interval.low == pytest.approx(low, abs=0.02)
    assert interval.high == pytest.approx(high, abs=0.02)


@pytest.mark.slow
def test_the_interval_of_the_rate_covers_the_truth():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        interval = BOOTSTRAP.rate((rng.random(120) < 0.1).astype(float).tolist(), 0.5)
        covered += interval.low <= 0.1 <= interval.high
    assert 180 <= covered <= 199


def test_the_interval_of_few_prompts_is_not_too_narrow():
    rng = np.random.default_rng(0)
    intervals = [BOOTSTRAP.mean(rng.normal(size=6).tolist()) for _ in range(300)]
    # 285 with a standard deviation of 3.8; those of a plain bootstrap cover it 263 times.
    assert 270 <= sum(i.low <= 0 <= i.high for i in intervals) <= 298
    two = BOOTSTRAP.mean([0.0, 1.0])
    assert (two.low, two.high) == pytest.approx(stats.t.interval(0.95, 1, 0.5, 0.5))
    assert BOOTSTRAP.mean([0.0, 1.0], least=0.0).low == 0


def test_there_is_no_interval_where_none_can_be_had():
    for values, clusters in (
        ([0.3], None),
        ([0.3, 0.4, 0.5], [7, 7, 7]),  # one prompt
        ([0.0] * 50, None),
        ([0.0] * 50 + [0.1 * i for i in range(1, 10)], None),
    ):
        found = BOOTSTRAP.mean(values, clusters)
        assert found == Interval(pytest.approx(np.mean(values)))
        assert str(found) == f"{np.mean(values):.4g}"
    assert BOOTSTRAP.share([0.0, 1.0], [3, 3]) == Interval(0.5)
    assert BOOTSTRAP.mean([0.0] * 50 + [0.1 * i for i in range(1, 11)]).low > 0


def test_the_interval_of_a_share_is_that_of_korn_and_graubard():
    """Two prompts of four samples, by hand: 3 of 4 and 1 of 4."""
    found = BOOTSTRAP.share([1, 1, 1, 0, 1, 0, 0, 0], [0] * 4 + [1] * 4)
    variance = 2 * (1.0**2 + 1.0**2) / 8**2
    size = 8 / 7 * 0.5 * 0.5 / variance * (stats.t.ppf(0.975, 7) / stats.t.ppf(0.975, 1)) ** 2
    assert found.low == pytest.approx(stats.beta.ppf(0.025, 0.5 * size, 0.5 * size + 1))
    assert found.high == pytest.approx(1 - found.low)
    # Samples that are independent have the exact interval.
    exact = stats.binomtest(7, 40).proportion_ci()
    alone = BOOTSTRAP.share([1.0] * 7 + [0.0] * 33)
    assert (alone.low, alone.high) == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize("prompts", [2, 3, 5, 10, 40])
@pytest.mark.parametrize("rate", [0.005, 0.05, 0.5])
def test_the_interval_of_a_rate_over_few_prompts_never_undershoots(prompts, rate):
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(prompts), 25)
    covered = 0
    for _ in range(300):
        propensity = rng.beta(9 * rate, 9 * (1 - rate), prompts)  # prompts differ: a correlation of 0.1
        found = BOOTSTRAP.share((rng.random(25 * prompts) < propensity[clusters]) * 1.0, clusters.tolist())
        covered += found.low <= rate <= found.high
    assert covered >= 0.925 * 300


def test_few_prompts_are_said():
    assert few_prompts(0) is few_prompts(10) is None
    assert "one prompt says nothing about others" in few_prompts(1)
    assert "with 9 prompts" in few_prompts(9)


@pytest.mark.parametrize(("score", "rate"), [(0.0, 0.0), (1.0, 1.0)])
def test_a_rate_of_nothing_or_all_is_not_certain(score, rate):
    interval = BOOTSTRAP.rate([score] * 100, 0.5)
    assert interval.value == rate
    assert interval.high - interval.low == pytest.approx(1 - 0.025**0.01)
    # Ten prompts with ten samples each are ten observations.
    clustered = BOOTSTRAP.rate([score] * 100, 0.5, [i // 10 for i in range(100)])
    assert clustered.high - clustered.low == pytest.approx(1 - 0.025**0.1)


@given(
    st.lists(st.integers(0, 5).map(float), min_size=1, max_size=9),
    st.integers(1, 12),
)
def test_expected_maximum_is_the_mean_over_all_subsets(values, of):
    k = min(of, len(values))
    subsets = [max(subset) for subset in combinations(values, k)]
    measured = BOOTSTRAP.expected_max(values, of, [0] * len(values))
    assert measured.value == pytest.approx(np.mean(subsets))
    assert measured.k == k
    alone = BOOTSTRAP.expected_max(values, of)
    assert (alone.value, alone.k) == (pytest.approx(np.mean(subsets)), k)
    if len(values) <= of:
        assert alone.low is None


def test_expected_maximum_is_taken_by_prompt():
    values, clusters = [1.0, 2.0, 9.0, 5.0], [0, 0, 1, 1]
    assert BOOTSTRAP.expected_max(values, 25, clusters).value == (2 + 9) / 2
    assert BOOTSTRAP.expected_max(values, 25, clusters).k == 2
    assert BOOTSTRAP.expected_max(values, 25).value == 9
    assert BOOTSTRAP.expected_max(values, 25).k == 4
    # What one prompt lacks does not change the k of the others.
    assert BOOTSTRAP.expected_max([1.0, None, 9.0, 5.0], 25, clusters).value == (1 + 9) / 2


def test_expected_maximum_of_many_samples():
    values = np.random.default_rng(0).exponential(size=4000).tolist()
    measured = BOOTSTRAP.expected_max(values, 25)
    assert measured.low < sum(1 / i for i in range(1, 26)) < measured.high
    assert measured.k == 25


def test_the_interval_of_the_expected_maximum_covers_the_truth():
    """Resampling the samples themselves covers it 163 times: what is largest is missing or there twice."""
    rng = np.random.default_rng(0)
    truth = sum(1 / i for i in range(1, 11))
    measured = [BOOTSTRAP.expected_max(rng.exponential(size=60).tolist(), 10) for _ in range(200)]
    assert sum(m.low <= truth <= m.high for m in measured) >= 170
