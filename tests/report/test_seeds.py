import json

import numpy as np
import pytest
from scipy import stats
from support.evaluated import write_config, write_results, write_run, write_seeds

from phf.base.errors import PhfError
from phf.report.read_runs import lookup, read_runs
from phf.report.seeds import compare_groups, group_runs, merge, over_seeds


def grouped(folders):
    return [[run.label for run in group.runs] for group in group_runs(read_runs(folders))]


def means(group):
    return [run.scenarios["unconditional"]["mean_score"]["value"] for run in group.runs]


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    return group_runs(
        read_runs([*write_seeds(folder, "conditional", mean=0.01), *write_seeds(folder, "mle", mean=0.03)])
    )


class TestGroupRuns:
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
        with pytest.raises(PhfError, match=r"config\.yaml: cannot be read"):
            group_runs(read_runs([folder]))


class TestMerge:
    def test_mean_and_interval_over_seeds(self, groups):
        values = means(groups[0])
        merged = groups[0].results["scenarios"]["unconditional"]["mean_score"]
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert merged["value"] == pytest.approx(np.mean(values))
        assert (merged["low"], merged["high"]) == pytest.approx((max(expected.low, 0), expected.high))

    def test_a_plain_number_gets_an_interval_where_seeds_differ(self):
        merged = merge([{"a": 1.0, "b": 2, "c": "x"}, {"a": 2.0, "b": 2, "c": "y"}], 0.95)
        assert merged["a"]["low"] < merged["a"]["value"] == 1.5 < merged["a"]["high"]
        assert (merged["b"], merged["c"]) == (2, None)

    def test_lists_and_what_is_missing(self):
        assert merge([[{"value": 1.0}], [{"value": 3.0}]], 0.95)[0]["value"] == 2
        assert merge([[1, 2], [1]], 0.95) is None
        assert merge([None, {"value": 3.0, "low": 2.0, "high": 4.0}], 0.95)["low"] is None
        assert merge([None, None], 0.95) is None

    def test_seeds_that_agree_do_not_make_it_certain(self):
        same = [{"value": 0.0, "low": 0.0, "high": 0.1}, {"value": 0.0, "low": 0.0, "high": 0.2}]
        assert over_seeds(same, 0.95) == {"value": 0.0, "low": 0.0, "high": 0.2}

    @pytest.mark.parametrize(
        ("path", "values", "lowest", "highest"),
        [
            (("scenarios", "a", "rate"), (0.9, 1.0), 0.0, 1.0),
            (("scenarios", "a", "mean_score"), (0.0, 0.1), 0.0, np.inf),
            (("code", "pass_at", "1"), (0.9, 1.0), 0.0, 1.0),
            (("code", "parses", "a"), (0.0, 0.1), 0.0, 1.0),
            (("ranking", "no_tag", "plain"), (0.5, 0.9), 0.0, 1.0),
            (("kl", "kl"), (-0.2, -0.1), -np.inf, np.inf),
            (("kl", "model_logp"), (-200.0, -190.0), -np.inf, np.inf),
            (("difference",), (-0.2, 0.1), -np.inf, np.inf),
            (("improvement",), (0.6, 0.9), 0.0, 1.0),
        ],
    )
    def test_intervals_hold_the_value_and_nothing_impossible(self, path, values, lowest, highest):
        parts = [{"value": value} for value in values]
        for key in reversed(path):
            parts = [{key: part} for part in parts]
        merged = lookup(merge(parts, 0.95), *path)
        free = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert merged["low"] == pytest.approx(max(free.low, lowest))
        assert merged["high"] == pytest.approx(min(free.high, highest))
        assert merged["low"] <= merged["value"] <= merged["high"]


class TestCompareGroups:
    def test_is_the_paired_t_interval(self, groups):
        record = next(r for r in compare_groups(groups) if r["run"] == "conditional")
        ours, theirs = means(groups[1]), means(groups[0])
        expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
        assert (record["baseline"], record["num_seeds"]) == ("mle", 3)
        assert record["difference"]["value"] == pytest.approx(np.mean(ours) - np.mean(theirs))
        bounds = record["difference"]["low"], record["difference"]["high"]
        assert bounds == pytest.approx((expected.low, expected.high))
        assert record["ratio"] == pytest.approx(np.mean(ours) / np.mean(theirs))

    def test_each_seed_has_one_of_the_baseline(self, groups):
        pairs = [(r["run"], r["baseline"]) for r in compare_groups(groups) if "num_seeds" not in r]
        assert pairs == [(f"conditional-{seed}", f"mle-{seed}") for seed in range(3)]

    def test_one_run_says_nothing_of_other_seeds(self, tmp_path):
        folders = [*write_seeds(tmp_path, "mle"), write_run(tmp_path / "rwr", "rwr", "rwr", mean=0.01)]
        groups = group_runs(read_runs(folders))
        (record,) = compare_groups(groups)
        assert record["difference"]["value"] == pytest.approx(means(groups[1])[0] - np.mean(means(groups[0])))
        assert record["difference"]["low"] is record["improvement"] is None


def test_broken_attack(tmp_path):
    folder = write_run(tmp_path / "mle")
    write_results(folder, {"format": 9}, "redteam")
    with pytest.raises(PhfError, match=r"not results of format 1; run `phf redteam"):
        _ = read_runs([folder])[0].redteam
