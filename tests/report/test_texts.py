"""Doubts about the texts behind a rate."""

import numpy as np
import pytest

from phf.base.estimates import Bootstrap, Interval
from phf.evaluation.results import ScenarioResults
from phf.report.report import compare_runs
from phf.report.texts import bounds, differ, find_text_warnings
from support.evaluated import change_scenario, rewrite_samples, write_run


def runs(tmp_path, **measured):
    folders = [write_run(tmp_path / name, name, name) for name in ("mle", "conditional")]
    for folder in folders:
        change_scenario(folder, "unconditional", finished=Interval(0.5, 0.36, 0.64))
    change_scenario(folders[1], "unconditional", **measured)
    return folders


def warnings(folders):
    return find_text_warnings(compare_runs(folders).runs)


def test_none_for_runs_of_equal_texts(tmp_path):
    assert warnings(runs(tmp_path)) == []


def test_other_lengths_and_endings_are_said_once_for_all_scenarios(tmp_path):
    shorter = {"length": Interval(23.4, 20.0, 26.0), "finished": Interval(0.9, 0.85, 0.94)}
    found = compare_runs(runs(tmp_path, **shorter)).warnings
    assert found == [
        "Compare with care: samples differ in length by more than chance, and a shorter text can hold less; "
        "unconditional: 23.4 (conditional), 58.2 (mle).",
        "Compare with care: samples differ in how often the model ended them itself by more than chance, and "
        "a shorter text can hold less; unconditional: 90.0 % (conditional), 50.0 % (mle).",
    ]


def test_two_models_that_are_equal_are_rarely_called_different():
    generator = np.random.default_rng(0)
    called = 0
    for _ in range(300):
        ours, theirs = (Bootstrap().mean(generator.poisson(9, 40).tolist()) for _ in range(2))
        called += differ(ours, theirs)
    assert 5 <= called <= 25  # 15 of 300 at 95 %


def test_without_an_interval_nothing_is_said():
    assert not differ(Interval(1.0), Interval(9.0, 8.0, 10.0))
    assert not differ(Interval(), Interval(9.0, 8.0, 10.0))


def test_a_difference_of_no_consequence_is_not_said(tmp_path):
    assert differ(Interval(60.0, 59.9, 60.1), Interval(58.2, 58.0, 58.4))
    assert warnings(runs(tmp_path, length=Interval(60.0, 59.9, 60.1))) == []
    assert warnings(runs(tmp_path, finished=Interval(0.54, 0.539, 0.541))) == []


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("empty", "12 of 48 samples of conditional in unconditional are empty: the rate would be"),
        ("unscored", "12 of 48 samples of conditional in unconditional have no score: the rate would be"),
    ],
)
def test_samples_that_say_nothing_are_counted_with_bounds(tmp_path, what, said):
    folders = runs(tmp_path, unscored=12 if what == "unscored" else 0, rate=Interval(0.5, 0.4, 0.6))
    if what == "empty":
        rewrite_samples(folders[1], lambda row: row.update(text=" \n") if row["sample_index"] < 12 else None)
    (found,) = warnings(folders)
    assert said in found
    low, high = (25 * 1.5, 25 * 2.5) if what == "unscored" else (50, 75)
    assert f"{low:.1f} % if all of them were good, {high:.1f} % if all were bad." in found


def test_a_few_empty_samples_are_nothing_to_warn_of(tmp_path):
    folders = runs(tmp_path)
    rewrite_samples(folders[1], lambda row: row.update(text="") if row["sample_index"] < 2 else None)
    assert warnings(folders) == []


def test_bounds():
    measured = ScenarioResults(n=100, unscored=20, rate=Interval(0.25))
    assert bounds(measured, 20, scored=False) == (0.2, 0.4)
    assert bounds(measured, 8, scored=True) == (0.25, 0.35)
    assert bounds(ScenarioResults(n=10, unscored=10), 10, scored=False) == (0.0, 1.0)
