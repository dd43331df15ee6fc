import json
from dataclasses import astuple, replace

import numpy as np
import pytest
from scipy import stats

from phf.base.errors import ConfigError, PhfError
from phf.base.estimates import ExpectedMax, Interval
from phf.evaluation.measures.code import CodeResults
from phf.evaluation.measures.kl import KLResults
from phf.evaluation.measures.ranking import Accuracy, RankingResults
from phf.evaluation.results import BestPrompt, RunInfo, ScenarioResults
from phf.report.differences import Comparison
from phf.report.read_runs import read_runs
from phf.report.seeds import compare_groups, group_runs, merge, over_seeds
from support.evaluated import write_config, write_run, write_seeds


def grouped(folders):
    return [[run.label for run in group.runs] for group in group_runs(read_runs(folders))]


def means(group):
    return [run.scenarios["unconditional"].mean_score.value for run in group.runs]


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    return group_runs(
        read_runs([*write_seeds(folder, "conditional", mean=0.01), *write_seeds(folder, "mle", mean=0.03)])
    )


class TestGroupRuns:
    @pytest.mark.slow
    def test_seeds_of_one_configuration(self, groups):
        assert [group.label for group in groups] == ["mle", "conditional"]
        assert [run.label for run in groups[0].runs] == ["mle-0", "mle-1", "mle-2"]

    def test_any_other_difference_parts_them(self, tmp_path):
        a, b, c = write_seeds(tmp_path)
        write_config(b, 1, learning_rate=1e-3)
        assert grouped([a, b, c]) == [["mle-0", "mle-2"], ["mle-1"]]

    def test_how_it_was_evaluated_and_where_it_lies_do_not_part_them(self, tmp_path):
        a, b = write_seeds(tmp_path, seeds=2)
        config = json.loads((b / "config.yaml").read_text())
        (b / "config.yaml").write_text(
            json.dumps(config | {"evaluation": {"seed": 7}, "run": {"folder": "x"}})
        )
        assert grouped([a, b]) == [["mle-0", "mle-1"]]

    def test_one_seed_twice_and_no_configuration_stay_apart(self, tmp_path):
        a, b = write_seeds(tmp_path, seeds=2)
        write_config(b, 0)
        bare = [write_run(tmp_path / name, name) for name in ("x", "y")]
        assert grouped([a, b, *bare]) == [["mle-0"], ["mle-1"], ["x"], ["y"]]

    def test_order_and_colours_do_not_depend_on_the_command_line(self, tmp_path):
        names = ("upsampling", "rwr", "mle", "conditional")
        folders = [write_run(tmp_path / name, name, name) for name in names]
        given, turned, fewer = (group_runs(read_runs(f)) for f in (folders, folders[::-1], folders[1:3]))
        shown = [(group.label, group.colour) for group in given]
        assert [label for label, _ in shown] == ["mle", "conditional", "rwr", "upsampling"]
        assert len({colour for _, colour in shown}) == 4
        assert [(group.label, group.colour) for group in turned] == shown
        assert {(group.label, group.colour) for group in fewer} < set(shown)

    @pytest.mark.slow
    def test_groups_of_one_name_are_told_apart(self, tmp_path):
        folders = [*write_seeds(tmp_path / "a"), *write_seeds(tmp_path / "b")]
        for seed, folder in enumerate(folders[3:]):
            write_config(folder, seed, learning_rate=1e-3)
        labels = [group.label for group in group_runs(read_runs(folders))]
        assert len(set(labels)) == 2
        assert all(label.startswith("mle (mle-0 (") for label in labels)

    def test_broken_configuration(self, tmp_path):
        folder = write_run(tmp_path / "mle")
        (folder / "config.yaml").write_text("a: [")
        with pytest.raises(ConfigError, match=r"config\.yaml \(line 2\): not valid YAML"):
            group_runs(read_runs([folder]))


class TestMerge:
    def test_mean_and_interval_over_seeds(self, groups):
        values = means(groups[0])
        merged = groups[0].results.scenarios["unconditional"].mean_score
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert merged.value == pytest.approx(np.mean(values))
        assert (merged.low, merged.high) == pytest.approx((max(expected.low, 0), expected.high))

    def test_what_is_no_estimate_is_averaged_if_it_is_a_number(self):
        one = RunInfo("x", tokens=2, wall_seconds=1.0, uses_scores=True)
        two = replace(one, name="y", wall_seconds=2.0, uses_scores=False)
        assert merge([one, two], 0.95) == RunInfo("", tokens=2, wall_seconds=1.5, uses_scores=None)

    def test_lists_and_what_is_missing(self):
        assert merge([[Interval(1.0)], [Interval(3.0)]], 0.95)[0].value == 2
        assert merge([[1, 2], [1]], 0.95) == []
        assert merge([None, None], 0.95) is None

    def test_an_interval_over_samples_says_nothing_of_seeds(self):
        one = Interval(3.0, 2.0, 4.0)
        assert merge([one], 0.95) == one
        assert merge([None, one], 0.95) == merge([Interval(), one], 0.95) == Interval(3.0)
        assert merge([None, {"kl": one}], 0.95) == merge([{}, {"kl": one}], 0.95) == {"kl": Interval(3.0)}

    def test_the_expected_maximum_is_of_as_many_samples_or_of_an_unknown_number(self):
        assert merge([ExpectedMax(1.0, k=5), ExpectedMax(3.0, k=5)], 0.95).k == 5
        assert merge([ExpectedMax(1.0, k=5), ExpectedMax(3.0, k=4)], 0.95).k == 0

    def test_seeds_that_agree_do_not_make_it_certain(self):
        same = [Interval(0.0, 0.0, 0.1), Interval(0.0, 0.0, 0.2)]
        assert over_seeds(same, 0.95) == Interval(0.0, 0.0, 0.2)
        assert over_seeds([Interval(0.5), Interval(0.5)], 0.95) == Interval(0.5)

    @pytest.mark.parametrize(
        ("make", "values", "lowest", "highest"),
        [
            (lambda x: ScenarioResults(rate=x), (0.9, 1.0), 0.0, 1.0),
            (lambda x: ScenarioResults(mean_score=x), (0.0, 0.1), 0.0, np.inf),
            (lambda x: ScenarioResults(scorers={"a": ScenarioResults(rate=x)}), (0.9, 1.0), 0.0, 1.0),
            (lambda x: BestPrompt("", fresh_rate=x), (0.9, 1.0), 0.0, 1.0),
            (lambda x: CodeResults(pass_at={"1": x}), (0.9, 1.0), 0.0, 1.0),
            (lambda x: CodeResults(parses={"a": x}), (0.0, 0.1), 0.0, 1.0),
            (lambda x: RankingResults("", 8, Accuracy(plain=x)), (0.5, 0.9), 0.0, 1.0),
            (lambda x: KLResults(1, "text", "", 9, kl=x), (-0.2, -0.1), -np.inf, np.inf),
            (lambda x: Comparison("", "", "", difference=x), (-0.2, 0.1), -np.inf, np.inf),
            (lambda x: Comparison("", "", "", improvement=x), (0.6, 0.9), 0.0, 1.0),
        ],
    )
    def test_intervals_hold_the_value_and_nothing_impossible(self, make, values, lowest, highest):
        free = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        low, high = max(free.low, lowest), min(free.high, highest)
        merged = merge([make(Interval(value)) for value in values], 0.95)
        (found,) = intervals(merged)
        assert astuple(found) == pytest.approx((np.mean(values), low, high))
        assert found.low <= found.value <= found.high


def intervals(node):
    """The estimates in some results that have a value."""
    if isinstance(node, Interval):
        return [node] if node.value is not None else []
    inner = node if isinstance(node, dict) else getattr(node, "__dict__", {})
    return [found for value in inner.values() for found in intervals(value)]


class TestCompareGroups:
    def test_is_the_paired_t_interval(self, groups):
        record = next(r for r in compare_groups(groups) if r.run == "conditional")
        ours, theirs = means(groups[1]), means(groups[0])
        expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
        assert (record.baseline, record.num_seeds) == ("mle", 3)
        assert astuple(record.difference) == pytest.approx(
            (np.mean(ours) - np.mean(theirs), expected.low, expected.high)
        )
        assert record.ratio == pytest.approx(np.mean(ours) / np.mean(theirs))

    def test_each_seed_has_one_of_the_baseline(self, groups):
        pairs = [(r.run, r.baseline) for r in compare_groups(groups) if r.num_seeds is None]
        assert pairs == [(f"conditional-{seed}", f"mle-{seed}") for seed in range(3)]

    def test_one_run_says_nothing_of_other_seeds(self, tmp_path):
        folders = [*write_seeds(tmp_path, "mle"), write_run(tmp_path / "rwr", "rwr", "rwr", mean=0.01)]
        groups = group_runs(read_runs(folders))
        (record,) = compare_groups(groups)
        assert record.difference == Interval(pytest.approx(means(groups[1])[0] - np.mean(means(groups[0]))))
        assert record.improvement == Interval()


def test_broken_attack(tmp_path):
    folder = write_run(tmp_path / "mle")
    (folder / "redteam").mkdir()
    (folder / "redteam" / "results.json").write_text('{"format": 9}')
    with pytest.raises(PhfError, match=r"not results of format 1 or 2; run `phf redteam"):
        _ = read_runs([folder])[0].redteam
