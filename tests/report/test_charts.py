import csv
import io
from dataclasses import astuple

import numpy as np
import pytest

from phf.base.estimates import Interval
from phf.evaluation.measures.heldout import Decile
from phf.evaluation.measures.ranking import Accuracy, RankingResults
from phf.report.charts import make_charts, pareto_front
from phf.report.curves import mean_curve
from phf.report.plots import draw_plots, to_csv
from phf.report.read_runs import read_runs
from phf.report.report import compare_runs
from support.evaluated import change, heldout, write_attacks, write_run, write_seeds

CONFIDENCE = 0.95


def charts(folders):
    return {chart.name: chart for chart in make_charts(compare_runs(folders))}


class TestParetoFront:
    def test_none_on_it_is_dominated_and_all_others_are(self):
        points = np.random.default_rng(0).integers(0, 8, (60, 2)).tolist()
        front = pareto_front(points)

        def dominates(p, q):
            return p != q and p[0] <= q[0] and p[1] <= q[1]

        for i, point in enumerate(points):
            assert (i in front) == (not any(dominates(points[j], point) for j in front))

    def test_equal_points_are_all_on_it(self):
        assert pareto_front([(1, 1), (1, 1), (2, 1)]) == {0, 1}

    def test_in_the_chart(self, tmp_path):
        folders = [
            write_run(tmp_path / "mle", mean=0.04, measures={"heldout": heldout(1.9)}),
            write_run(tmp_path / "rwr", "rwr", "rwr", mean=0.01, measures={"heldout": heldout(2.1)}),
            write_run(tmp_path / "awr", "awr", "awr", mean=0.06, measures={"heldout": heldout(2.2)}),
        ]
        chart = charts(folders)["misalignment-against-loss"]
        assert {s.label: s.is_dominated for s in chart.series} == {"mle": False, "rwr": False, "awr": True}
        assert [x for x, _ in chart.front] == [1.9, 2.1]

    def test_more_of_a_share_is_better(self, tmp_path):
        folders = [write_run(tmp_path / "mle", mean=0.02), write_run(tmp_path / "b", "b", "rwr", mean=0.02)]
        for folder, share in zip(folders, (0.8, 0.6), strict=True):
            accuracy = Accuracy(Interval(share, share - 0.1, share + 0.1))
            change(folder, measures={"ranking": RankingResults("held-out", 8, accuracy)})
        chart = charts(folders)["misalignment-against-ranking"]
        assert [s.is_dominated for s in chart.series] == [False, True]
        assert chart.x_higher_is_better
        assert astuple(chart.series[0].x[0]) == pytest.approx((0.8, 0.7, 0.9))


class TestSeeds:
    def test_mean_and_single_seeds(self, tmp_path):
        chart = charts(write_seeds(tmp_path))["heldout-loss"]
        assert [(s.label, s.is_seed) for s in chart.series] == [
            ("mle", False), ("mle-0", True), ("mle-1", True), ("mle-2", True),
        ]  # fmt: skip
        mean, *seeds = ([y.value for y in s.y] for s in chart.series)
        assert mean == pytest.approx(np.mean(seeds, axis=0))

    def test_seeds_are_interpolated_and_not_continued(self):
        def curve(*points):
            return [(x, Interval(y)) for x, y in points]

        curves = curve((0, 0), (10, 10), (20, 20)), curve((0, 2), (5, 7), (15, 17))
        assert [(x, y.value) for x, y in mean_curve(curves, CONFIDENCE)] == [(0, 1), (10, 11)]


class TestWhatWasMeasured:
    def test_only_what_is_there_is_drawn(self, tmp_path):
        assert not [c for c in charts([write_run(tmp_path / "mle")]).values() if c.section == "attacks"]

    @pytest.mark.slow
    def test_attacks(self, tmp_path):
        folders = [write_attacks(folder) for folder in write_seeds(tmp_path, seeds=2)]
        found = charts(folders)
        attacks = {name for name, chart in found.items() if chart.section == "attacks"}
        assert attacks == {
            "redteam-by-round-best", "redteam-by-round-best-10", "redteam-by-round-average",
            "redteam-by-cost-best-10", "tamper-bad", "tamper-benign",
        }  # fmt: skip
        best = found["redteam-by-round-best"].series[1]
        assert [x.value for x in best.x] == [0, 1, 2, 3]
        assert astuple(best.y[3]) == pytest.approx((0.25, 0.225, 0.275))
        assert len(draw_plots(list(found.values()))) == len(found)

    def test_deciles_stand_in_the_middle_of_what_they_are(self, tmp_path):
        losses = {(1, 2, 3, 4): 1.5, (5,): None, (10,): 2.5}
        deciles = [Decile(list(which), 0, 0, 9, 99, Interval(loss)) for which, loss in losses.items()]
        folder = write_run(tmp_path / "mle", measures={"heldout": heldout(1.9, deciles=deciles)})
        (series,) = charts([folder])["loss-by-decile"].series
        assert [(x.value, y.value) for x, y in zip(series.x, series.y, strict=True)] == [
            (2.5, 1.5), (10, 2.5),
        ]  # fmt: skip

    def test_csv_has_every_point_in_full(self, tmp_path):
        folders = write_seeds(tmp_path)
        chart = charts(folders)["misalignment-against-loss"]
        rows = list(csv.DictReader(io.StringIO(to_csv(chart))))
        assert [row["run"] for row in rows] == ["mle", "mle-0", "mle-1", "mle-2"]
        score = read_runs(folders)[1].scenarios["unconditional"].mean_score
        y = "Mean score (violations a character)"
        assert [float(rows[2][name]) for name in (y, f"{y} (low)", f"{y} (high)")] == list(astuple(score))
