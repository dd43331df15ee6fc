import csv
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from phf.annotation.manifest import ScorerRecord
from phf.base.errors import PhfError
from phf.base.estimates import Interval
from phf.evaluation.measures.kl import KLResults
from phf.evaluation.measures.ranking import RankingResults
from phf.evaluation.results import EvaluationResults, JudgeRecord, RunInfo, ScenarioResults
from phf.report import cells
from phf.report.cells import amount, duration, interval, number
from phf.report.contents import Contents
from phf.report.differences import paired_difference, probability_of_improvement
from phf.report.legend import legend
from phf.report.read_runs import Sample, read_runs
from phf.report.report import compare_runs, write_report
from phf.report.side_by_side import MAX_ROWS, NUM_WORST, choose_rows
from phf.report.table_formats import print_table
from support.evaluated import (
    change,
    change_scenario,
    heldout,
    read,
    rewrite_samples,
    write,
    write_attacks,
    write_run,
    write_seeds,
    write_two_runs,
)


def browser(output: Path) -> dict:
    page = (output / "index.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def terminal(contents: Contents, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    print_table(contents, console)
    return console.file.getvalue()


@pytest.fixture
def two_runs(tmp_path):
    return write_two_runs(tmp_path)


@dataclass
class Written:
    """A report that tests read and leave as it is."""

    folders: list[Path]
    output: Path
    contents: Contents
    page: str


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    folders = write_two_runs(folder)
    contents = write_report(folders, folder / "report")
    page = (folder / "report" / "index.html").read_text("utf-8")
    return Written(folders, folder / "report", contents, page)


class TestReport:
    @pytest.mark.slow
    def test_writes_everything(self, two_runs, tmp_path, capsys):
        output = tmp_path / "report"
        contents = write_report(two_runs, output)
        results = json.loads((output / "results.json").read_text())
        assert results == contents.to_json()
        assert results["format"] == 2
        assert [run["run"]["name"] for run in results["runs"]] == ["mle", "conditional"]
        assert [(c["run"], c["baseline"], c["scenario"]) for c in results["comparisons"]] == [
            ("conditional", "mle", "unconditional"),
            ("conditional", "mle", "signatures"),
        ]
        figures = {
            "misalignment-against-loss-unconditional", "misalignment-against-loss-signatures",
            "misalignment-in-training", "heldout-loss", "training-loss", "scores-unconditional",
            "scores-signatures",
        }  # fmt: skip
        for ending in ("svg", "png", "pdf", "csv"):
            assert {path.stem for path in (output / "plots").glob(f"*.{ending}")} == figures
        for path in (output / "plots").glob("*.svg"):
            ElementTree.parse(path)
        for ending in ("csv", "tex"):
            tables = {path.stem for path in (output / "tables").glob(f"*.{ending}")}
            assert tables == {"misalignment", "cost", "variety", "scenarios", "runs"}
        assert not list(output.glob(".*"))
        assert capsys.readouterr().out == ""

    def test_comparison_measures_the_gap(self, written):
        comparison = written.contents.comparisons[0]
        means = [run.scenarios["unconditional"].mean_score.value for run in written.contents.runs]
        difference, improvement = comparison.difference, comparison.improvement
        assert comparison.num_pairs == 200
        assert difference.value == pytest.approx(means[1] - means[0])
        assert difference.low < difference.value < difference.high < 0
        assert comparison.ratio == pytest.approx(means[1] / means[0])
        assert comparison.overlap is False
        assert 0.5 < improvement.low < improvement.value < 1
        markdown = (written.output / "report.md").read_text()
        assert "| Better |" in markdown
        assert f"| {100 * improvement.value:.1f} % [" in markdown
        assert re.match(
            r"conditional: 0\.0\d+ violations a character against 0\.0\d+ for mle "
            r"\(\u2212\d+ %, unconditional\)$",
            written.contents.headline,
        )

    @pytest.mark.slow
    def test_same_inputs_give_the_same_bytes(self, two_runs, tmp_path):
        for name in ("a", "b"):
            write_report(two_runs, tmp_path / name)
        for path in (p for p in (tmp_path / "a").rglob("*") if p.is_file()):
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path

    def test_first_mle_run_is_the_baseline_wherever_it_stands(self, two_runs, tmp_path):
        contents = compare_runs(two_runs[::-1])
        assert {c.baseline for c in contents.comparisons} == {"mle"}

    def test_without_mle_the_first_run_is_the_baseline(self, tmp_path):
        runs = [write_run(tmp_path / name, name, name) for name in ("rwr", "awr")]
        assert {c.baseline for c in compare_runs(runs).comparisons} == {"rwr"}

    def test_runs_of_one_name_are_told_apart(self, tmp_path):
        folders = [write_run(tmp_path / "a"), write_run(tmp_path / "b", noise=1)]
        assert [run.label for run in compare_runs(folders).runs] == [
            f"mle ({tmp_path / 'a'})",
            f"mle ({tmp_path / 'b'})",
        ]

    @pytest.mark.slow
    def test_one_run_alone(self, tmp_path):
        contents = write_report([write_run(tmp_path / "mle")] * 2, tmp_path / "report")
        assert len(contents.runs) == 1
        assert contents.comparisons == []
        assert contents.headline.startswith("mle: 0.0")
        assert "Against" not in (tmp_path / "report" / "report.md").read_text()

    def test_no_clear_difference_is_said(self, tmp_path):
        runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", "conditional", "conditional", noise=1)]
        headline = compare_runs(runs).headline
        assert headline.startswith("No clear difference. conditional: ")


class TestMissingPieces:
    def test_no_metrics_no_samples_no_heldout(self, two_runs, tmp_path):
        for folder in two_runs:
            (folder / "metrics.csv").unlink()
            (folder / "evaluation" / "samples.parquet").unlink()
            change(folder, measures={})
        comparison = write_report(two_runs, tmp_path / "report").comparisons[0]
        assert comparison.difference.low is None
        assert comparison.difference.value < 0
        assert comparison.num_pairs == 0
        page = (tmp_path / "report" / "index.html").read_text()
        assert "No samples were kept" in page
        assert "<figure>" not in page
        assert not list((tmp_path / "report" / "plots").iterdir())
        assert "Held-out loss" not in (tmp_path / "report" / "report.md").read_text()

    def test_bare_results(self, tmp_path):
        write(tmp_path / "model", EvaluationResults(RunInfo(""), ScorerRecord("pep8"), 0.0, {}))
        contents = compare_runs([tmp_path / "model"])
        assert contents.headline == "model: no scenario was evaluated"
        assert terminal(contents)

    @pytest.mark.parametrize("field", ["run", "scorer", "threshold", "seed", "scenarios"])
    def test_a_part_that_is_null_is_named(self, tmp_path, field):
        path = write_run(tmp_path / "mle") / "evaluation" / "results.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {field: None}))
        with pytest.raises(PhfError, match=rf"results\.json: {field}: .*; run `phf evaluate") as error:
            write_report([tmp_path / "mle"], tmp_path / "report")
        assert "\n" not in str(error.value)

    @pytest.mark.slow
    def test_unknown_measurements(self, two_runs, tmp_path):
        change(two_runs[1], measures={"heldout": heldout(None)})
        change_scenario(two_runs[1], "signatures", mean_score=Interval())
        scenarios = read(two_runs[1]).scenarios
        change(two_runs[1], scenarios=scenarios | {"unconditional": ScenarioResults()})
        contents = write_report(two_runs, tmp_path / "report")
        assert "Max of 25" in terminal(contents)
        assert "NaN" not in (tmp_path / "report" / "results.json").read_text()

    def test_scenario_of_one_run_only(self, tmp_path):
        both = ("unconditional", "signatures")
        runs = [write_run(tmp_path / "a", scenarios=both), write_run(tmp_path / "b", "b", "rwr")]
        contents = compare_runs(runs)
        assert len(contents.comparisons) == 1
        assert contents.warnings == ["Compare with care: scenario signatures only for mle."]

    def test_scenario_that_makes_no_sense_for_a_run(self, tmp_path):
        both, reason = ("unconditional", "bad_tag"), "the model has no tags"
        runs = [
            write_run(tmp_path / "a", skipped={"bad_tag": reason}),
            write_run(tmp_path / "b", "b", "conditional", scenarios=both),
        ]
        assert compare_runs(runs).warnings == []

    def test_baseline_without_violations_has_no_ratio(self, tmp_path):
        runs = [write_run(tmp_path / "a", mean=0.0), write_run(tmp_path / "b", "b", "rwr")]
        assert compare_runs(runs).comparisons[0].ratio is None

    def test_unscored_samples_are_left_out_of_the_pairs(self, two_runs, tmp_path):
        rewrite_samples(two_runs[0], lambda row: row.update(score=None) if row["sample_index"] < 10 else None)
        assert compare_runs(two_runs).comparisons[0].num_pairs == 190

    def test_broken_and_repeated_rows_of_metrics(self, tmp_path):
        folder = write_run(tmp_path / "mle")
        rows = [
            "step,tokens,name,value",
            "1,10,heldout/loss,5.0",
            "2,20,heldout/loss,nan",
            "1,10,heldout/loss,4.0",
            "0,0,heldout/loss,6",
            "3,30,held",
        ]
        (folder / "metrics.csv").write_text("\n".join(rows))
        (run,) = read_runs([folder])
        assert run.metrics == {"heldout/loss": [(0.0, 6.0), (10.0, 4.0)]}


class TestErrors:
    def test_no_runs(self, tmp_path):
        with pytest.raises(PhfError, match="at least one run"):
            write_report([], tmp_path)

    @pytest.mark.parametrize("content", [None, "", "{", "[]", '{"format": 2}', '{"format": 3}'])
    def test_not_an_evaluated_run(self, tmp_path, content):
        folder = tmp_path / "run"
        (folder / "evaluation").mkdir(parents=True)
        if content is not None:
            (folder / "evaluation" / "results.json").write_text(content)
        with pytest.raises(PhfError, match="run `phf evaluate") as error:
            write_report([folder], tmp_path / "report")
        assert "\n" not in str(error.value)
        assert not (tmp_path / "report").exists()

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(PhfError, match=r"no such folder.*run `phf evaluate"):
            write_report([tmp_path / "nothing"], tmp_path / "report")

    def test_broken_samples(self, tmp_path):
        folder = write_run(tmp_path / "mle")
        (folder / "evaluation" / "samples.parquet").write_text("no parquet")
        with pytest.raises(PhfError, match=r"samples\.parquet.*run `phf evaluate`"):
            write_report([folder], tmp_path / "report")

    @pytest.mark.slow
    def test_output_is_a_file(self, tmp_path):
        (tmp_path / "report").write_text("")
        with pytest.raises(PhfError, match="cannot be written"):
            write_report([write_run(tmp_path / "mle")], tmp_path / "report")


class TestWarnings:
    @pytest.mark.parametrize(
        ("other", "said"),
        [
            ({"fingerprint": "fedcba9876543210"}, "the scorer differs"),
            ({"threshold": 0.01}, "the threshold differs: 0.0 (mle), 0.01 (other)."),
            ({"seed": 1}, "the seed differs: 0 (mle), 1 (other)."),
            ({"n": 64}, "the number of samples in unconditional differs: 48 (mle), 64 (other)."),
            (
                {"tokens": 10_000_000},
                "the number of training tokens differs: 5,000,000 (mle), 10,000,000 (other).",
            ),
        ],
    )
    def test_shown_everywhere(self, tmp_path, other, said):
        runs = [write_run(tmp_path / "mle"), write_run(tmp_path / "other", "other", "rwr", **other)]
        contents = compare_runs(runs)
        assert any(said in warning for warning in contents.warnings)
        assert said in " ".join(terminal(contents, width=1000).split())

    @pytest.mark.slow
    def test_decoding_and_prompts(self, two_runs, tmp_path):
        decoding = read(two_runs[1]).scenarios["unconditional"].decoding
        change_scenario(two_runs[1], "unconditional", decoding=decoding | {"temperature": 1.0})
        rewrite_samples(two_runs[1], lambda row: row.update(prompt=row["prompt"] and "class A:"))
        contents = write_report(two_runs, tmp_path / "report")
        warnings = " ".join(contents.warnings)
        said = "temperature in unconditional differs: 0.7 (mle), 1.0 (conditional)."
        for text in (warnings, *((tmp_path / "report" / n).read_text() for n in ("index.html", "report.md"))):
            assert said in text
        assert "the prompts in signatures differ" in warnings
        assert contents.comparisons[1].num_pairs == 0

    def test_one_line_for_what_differs_in_several_scenarios(self, tmp_path):
        names = ("unconditional", "signatures", "other")
        older = write_run(tmp_path / "older", "older", scenarios=names)  # lacks later options
        newer = write_run(tmp_path / "newer", "newer", scenarios=names[:2])
        default = {"decoder": {"name": "sampling", "options": {}}, "best_by": None}
        for name, scenario in read(newer).scenarios.items():
            change_scenario(newer, name, decoding=scenario.decoding | default | {"temperature": 1.0})
        assert compare_runs([older, newer]).warnings == [
            "Not comparable: the temperature in unconditional, signatures differs: 0.7 (older), 1.0 (newer).",
            "Compare with care: scenario other only for older.",
        ]

    @pytest.mark.parametrize(
        ("part", "path", "value", "said"),
        [
            ("evaluation", ("backend",), "vllm", "backend differs: transformers (a), vllm (b)."),
            ("kl", ("reference",), "gpt2", "reference in KL from a reference differs: ref (a), gpt2 (b)."),
            ("kl", ("samples",), 64, "number of samples in KL from a reference differs: 4,096 (a), 64 (b)."),
            ("kl", ("by",), "tokens", "reading (by) in KL from a reference differs: text (a), tokens (b)."),
            ("kl", ("max_tokens",), 9, "max_tokens in KL from a reference differs: 64 (a), 9 (b)."),
            ("ranking", ("pairs",), 7, "number of pairs in ranking accuracy differs: 8 (a), 7 (b)."),
            ("ranking", ("source",), "f", "source in ranking accuracy differs: held-out (a), f (b)."),
            ("evaluation", ("scorers", "x", "fingerprint"), "f", "scorer x differs: x 0 (a), x f (b)."),
            ("evaluation", ("scorers", "x", "threshold"), 1.0, "threshold of x differs: 0.5 (a), 1.0 (b)."),
            ("redteam", ("attacker", "name"), "random", "attacker in redteam differs: evo (a), random (b)."),
            ("redteam", ("budget",), None, "budget in redteam differs: 9,000 (a), none (b)."),
            ("redteam", ("scenario", "top_p"), 1.0, "top_p in redteam differs: 0.9 (a), 1.0 (b)."),
            ("redteam", ("scorer", "name"), "y", "scorer in redteam differs: x 0 (a), y 0 (b)."),
            (
                "redteam", ("attacker", "options"), {"parents": 3},
                "attacker in redteam differs: evo (a), evo parents=3 (b).",
            ),
            (
                "redteam", ("scenario", "decoder"), {"name": "guidance", "options": {"weight": 2.0}},
                "decoder in redteam differs: sampling (a), guidance weight=2.0 (b).",
            ),
            ("tamper", ("finetuning", "seed"), 2, "finetuning seed in tamper differs: 4 (a), 2 (b)."),
            ("tamper", ("scenario", "name"), "z", "scenario in tamper differs: unconditional (a), z (b)."),
        ],
    )  # fmt: skip
    def test_every_measure_has_conditions(self, tmp_path, part, path, value, said):
        scorer = ScorerRecord("x", fingerprint="0")
        for name in ("a", "b"):
            folder = write_attacks(write_run(tmp_path / name, name))
            change(
                folder,
                scorers={"x": JudgeRecord("x", fingerprint="0", threshold=0.5)},
                measures={
                    "kl": KLResults(4096, "text", "ref", 64),
                    "ranking": RankingResults("held-out", 8),
                },
            )
            scenario = {"name": "unconditional", "top_p": 0.9}
            attacker = {"name": "evo", "options": {}}
            change(folder, "redteam", attacker=attacker, budget=9000, scenario=scenario, scorer=scorer)
            change(folder, "tamper", finetuning={"seed": 4}, scenario={"name": "unconditional"})
        if part in ("kl", "ranking"):
            part, path = "evaluation", ("measures", part, *path)
        write(folder, changed(read(folder, part), path, value))
        (warning,) = compare_runs([tmp_path / "a", tmp_path / "b"]).warnings
        assert warning == f"Not comparable: the {said}"

    def test_a_measure_of_one_run_only_is_nothing_to_warn_of(self, tmp_path):
        kl = KLResults(4096, "text", "ref", 64)
        runs = [
            write_attacks(write_run(tmp_path / "a", "a", measures={"kl": kl})),
            write_run(tmp_path / "b", "b"),
        ]
        assert compare_runs(runs).warnings == []

    def test_tags_are_compared_where_there_are_some(self, tmp_path):
        names = ("mle", "conditional", "other")
        runs = [write_run(tmp_path / n, n, "mle" if n == "mle" else "conditional") for n in names]
        assert compare_runs(runs).warnings == []
        change_scenario(runs[2], "unconditional", tag="bad")
        (warning,) = compare_runs(runs).warnings
        assert warning == "Not comparable: the tag in unconditional differs: good (conditional), bad (other)."

    def test_scored_otherwise_than_trained(self, tmp_path):
        folder = write_run(tmp_path / "mle", scorer_differs=True)
        (warning,) = compare_runs([folder]).warnings
        assert warning == "Compare with care: samples are scored by another scorer than the corpus of mle."

    def test_aligned_text_under_another_threshold(self, tmp_path):
        runs = [
            write_run(tmp_path / name, name, measures={"heldout": heldout(1.9, threshold=threshold)})
            for name, threshold in (("a", 0.0), ("b", 0.5))
        ]
        (warning,) = compare_runs(runs).warnings
        assert warning.startswith("Compare with care: the threshold of aligned text in held-out loss differs")

    def test_other_scorer_makes_no_headline_claim(self, tmp_path):
        runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", "b", "rwr", mean=0.001, fingerprint="f")]
        assert "cannot be compared" in compare_runs(runs).headline

    def test_none_for_comparable_runs(self, written):
        assert written.contents.warnings == []


def changed(node, path: tuple[str, ...], value):
    """Results with another value in one place."""
    if not path:
        return value
    first, *rest = path
    if isinstance(node, dict):
        return node | {first: changed(node.get(first), rest, value)}
    return replace(node, **{first: changed(getattr(node, first), rest, value)})


@pytest.mark.parametrize(("by", "even"), [("text", True), ("tokens", False)])
def test_legend_says_how_kl_was_read(tmp_path, by, even):
    kl = KLResults(4096, by, "gpt2", 64, kl=Interval(2.4, 2.0, 2.8))
    lines = legend(compare_runs([write_run(tmp_path / "a", measures={"kl": kl})]))
    (said,) = [line for line in lines if line.startswith("KL:")]
    assert f"by {by};" in said
    assert ("even the reference" in said) is even


class TestPage:
    def test_asks_the_network_for_nothing(self, written):
        page = written.page
        assert not re.search(r'(?:src|href)\s*=\s*"(?!#|data:text/csv;charset=utf-8,[\w%./~-]*")', page)
        assert not re.search(r"@import|url\((?!#)", page)
        assert "default-src 'none'" in page
        assert page.count("<svg") == 7

    @pytest.mark.slow
    def test_ids_are_unique(self, written):
        ids = re.findall(r'\bid="([^"]+)"', written.page)
        assert len(ids) == len(set(ids))

    def test_plots_take_the_colours_of_the_page(self, written):
        for svg in re.findall(r"<svg.*?</svg>", written.page, re.DOTALL):
            ElementTree.fromstring(svg)
            assert "var(--ink)" in svg
            assert not re.search(r"(?:fill|stroke): #", svg)

    @pytest.mark.slow
    def test_nothing_a_model_or_a_user_writes_is_markup(self, tmp_path):
        attack = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\u2028'\"&"
        folder = write_run(tmp_path / "mle", name=attack)
        rewrite_samples(folder, lambda row: row.update(text=attack, prompt=attack))
        write_report([folder], tmp_path / "report")
        page = (tmp_path / "report" / "index.html").read_text()
        assert "alert(1)</script>" not in page
        assert "<img" not in page
        assert browser(tmp_path / "report")["scenarios"][0]["rows"][0]["cells"][0]["text"] == attack

    @pytest.mark.slow
    def test_names_of_any_kind(self, tmp_path, recwarn):
        names = ["_hidden", "$x^2$ \u5927\u6a21\u578b", "a|b*c " * 20]
        scenario = {"scenarios": ('"><b>&',)}
        runs = [write_run(tmp_path / str(i), name, **scenario) for i, name in enumerate(names)]
        contents = write_report(runs, tmp_path / "report")
        page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
        assert "<b>" not in page
        for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
            text = "".join(ElementTree.fromstring(svg).itertext())
            assert "_hidden" in text
            assert names[1] in text
        assert terminal(contents)
        assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]

    @pytest.mark.slow
    def test_whitespace_of_samples_is_kept(self, tmp_path):
        folder, text = write_run(tmp_path / "mle"), "if x:\n\n\treturn  1 \n"
        rewrite_samples(folder, lambda row: row.update(text=text))
        write_report([folder], tmp_path / "report")
        assert browser(tmp_path / "report")["scenarios"][0]["rows"][0]["cells"][0]["text"] == text

    @pytest.mark.slow
    def test_samples_stand_side_by_side(self, written):
        for scenario in browser(written.output)["scenarios"]:
            assert len(scenario["rows"]) == scenario["total"] == 200
            for row in scenario["rows"]:
                for cell, run in zip(row["cells"], read_runs(written.folders), strict=True):
                    sample = run.samples[scenario["name"]][row["prompt_index"], row["sample_index"]]
                    assert (cell["text"], cell["score"], row["prompt"]) == (
                        sample.text,
                        sample.score,
                        sample.prompt,
                    )

    @pytest.mark.slow
    def test_stays_small(self, tmp_path):
        runs = [write_run(tmp_path / str(i), str(i), "mle", n=150, noise=i) for i in range(5)]
        for folder in runs:
            rewrite_samples(folder, lambda row: row.update(text="x = 1\n" * 3000))
        write_report(runs, tmp_path / "report")
        assert (tmp_path / "report" / "index.html").stat().st_size < 4_000_000
        assert browser(tmp_path / "report")["scenarios"][0]["rows"][0]["cells"][0]["cut"] == 12_000


class TestChooseRows:
    def samples(self, scores):
        return {(i, 0): Sample("", "", score, 1, True) for i, score in enumerate(scores)}

    def test_few_are_all_shown(self):
        samples = self.samples([0.1, None, 0.3])
        assert sorted(choose_rows(sorted(samples), [samples])) == [((i, 0), True) for i in range(3)]

    def test_many_are_the_worst_and_the_first(self):
        samples = self.samples(np.arange(1000) / 1000)
        chosen = choose_rows(sorted(samples), [samples])
        assert len(chosen) == MAX_ROWS
        assert {key[0] for key, drawn in chosen if drawn} == set(range(MAX_ROWS - NUM_WORST))
        assert {key[0] for key, drawn in chosen if not drawn} == set(range(1000 - NUM_WORST, 1000))


class TestPairedDifference:
    def samples(self, scores, prompts=None):
        prompts = range(len(scores)) if prompts is None else prompts
        return {
            (p, i): Sample(str(p), "", float(s), 1, True)
            for i, (p, s) in enumerate(zip(prompts, scores, strict=True))
        }

    def test_constant_difference_has_no_width(self):
        theirs = np.random.default_rng(0).random(50)
        difference, num_pairs = paired_difference(self.samples(theirs + 0.5), self.samples(theirs))
        assert num_pairs == 50
        assert list(astuple(difference)) == pytest.approx([0.5, 0.5, 0.5])

    def test_interval_of_independent_samples_is_the_textbook_one(self):
        generator = np.random.default_rng(1)
        ours, theirs = generator.normal(1, 1, 400), generator.normal(0, 1, 400)
        difference, _ = paired_difference(self.samples(ours, [0] * 400), self.samples(theirs, [0] * 400))
        half = 1.96 * (ours - theirs).std() / 20
        assert difference.high - difference.low == pytest.approx(2 * half, rel=0.1)

    def test_samples_of_one_prompt_are_drawn_together(self):
        by_prompt = np.random.default_rng(2).normal(size=20)
        prompts = np.repeat(np.arange(20), 25)
        zeros = self.samples(np.zeros(500), prompts)
        difference, _ = paired_difference(self.samples(by_prompt[prompts], prompts), zeros)
        half = 1.96 * by_prompt.std() / np.sqrt(20)
        assert difference.high - difference.low == pytest.approx(2 * half, rel=0.15)

    def test_no_pairs(self):
        assert paired_difference({}, self.samples([1.0])) == (None, 0)


class TestProbabilityOfImprovement:
    samples = TestPairedDifference.samples

    def test_is_the_share_of_all_pairs_of_a_prompt(self):
        generator = np.random.default_rng(0)
        prompts = np.repeat(np.arange(6), 7)
        ours, theirs = generator.integers(0, 5, (2, 42))
        wanted = np.mean(
            [
                np.mean((x[:, None] < y) + (x[:, None] == y) / 2)
                for x, y in zip(ours.reshape(6, 7), theirs.reshape(6, 7), strict=True)
            ]
        )
        improvement = probability_of_improvement(self.samples(ours, prompts), self.samples(theirs, prompts))
        assert improvement.value == pytest.approx(wanted)
        assert 0 < improvement.low < wanted < improvement.high < 1
        # Without prompts all samples are one group.
        alone = probability_of_improvement(self.samples(ours, [0] * 42), self.samples(theirs, [0] * 42))
        assert alone.value == pytest.approx(np.mean((ours[:, None] < theirs) + (ours[:, None] == theirs) / 2))

    def test_interval_of_one_group_is_the_textbook_one(self):
        generator = np.random.default_rng(1)
        ours, theirs = generator.normal(0.3, 1, 300), generator.normal(0, 1, 300)
        improvement = probability_of_improvement(
            self.samples(ours, [0] * 300), self.samples(theirs, [0] * 300)
        )
        below = (ours[:, None] < theirs).astype(float)
        delong = np.sqrt((below.mean(0).var(ddof=1) + below.mean(1).var(ddof=1)) / 300)
        assert improvement.high - improvement.low == pytest.approx(2 * 1.96 * delong, rel=0.1)

    def test_always_better_is_not_certain(self):
        improvement = probability_of_improvement(self.samples(np.zeros(50)), self.samples(np.ones(50)))
        assert (improvement.value, improvement.high) == (1, 1)
        assert improvement.low == pytest.approx(0.025 ** (1 / 50))

    def test_ties_and_what_has_no_pair(self):
        zeros = self.samples(np.zeros(5))
        tied = probability_of_improvement(zeros, zeros)
        assert tied.value == 0.5
        assert tied.low < 0.2 < 0.8 < tied.high  # five ties are not certain to go on
        assert probability_of_improvement({}, zeros) is None
        unscored = {key: Sample("0", "", None, 1, True) for key in zeros}
        assert probability_of_improvement(zeros, unscored) is None


def read_csv(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class TestFiles:
    @pytest.mark.slow
    def test_csv_of_a_table_has_it_in_full(self, written):
        rows = read_csv(written.output / "tables" / "misalignment.csv")
        assert [(row["group"], row["Run"]) for row in rows] == [
            ("unconditional", "mle"), ("unconditional", "conditional"), ("signatures", "mle"),
            ("signatures", "conditional"),
        ]  # fmt: skip
        score = written.contents.runs[1].scenarios["unconditional"].mean_score
        columns = ("Mean score", "Mean score (low)", "Mean score (high)")
        assert [float(rows[1][column]) for column in columns] == list(astuple(score))
        assert float(rows[1]["Samples"]) == 200
        assert rows[0]["Against mle"] == ""

    @pytest.mark.slow
    def test_seeds(self, tmp_path):
        folders = [*write_seeds(tmp_path), *write_seeds(tmp_path, "conditional", mean=0.001)]
        contents = write_report(folders, tmp_path / "report")
        assert [(group.label, len(group.runs)) for group in contents.groups] == [
            ("mle", 3), ("conditional", 3),
        ]  # fmt: skip
        assert contents.headline.startswith("conditional: ")
        rows = read_csv(tmp_path / "report" / "tables" / "cost.csv")
        assert [row["seed of a group"] for row in rows] == ["no", "yes", "yes", "yes"] * 2
        assert "| - conditional-2 |" in (tmp_path / "report" / "report.md").read_text()
        shown = terminal(contents)
        assert "3 seeds" in shown
        assert "conditional-2" not in shown

    @pytest.mark.slow
    def test_latex_and_spreadsheets_find_no_commands(self, tmp_path):
        names = ("=1+1", r"\input{x} 50%_a&b", "@x")
        folders = [write_run(tmp_path / str(i), name) for i, name in enumerate(names)]
        write_report(folders, tmp_path / "report")
        rows = read_csv(tmp_path / "report" / "tables" / "runs.csv")
        assert [row["Run"] for row in rows] == ["'=1+1", names[1], "'@x"]
        table = (tmp_path / "report" / "tables" / "misalignment.tex").read_text()
        assert r"\textbackslash{}input\{x\} 50\%\_a\&b &" in table
        assert table.count("\\begin{") == table.count("\\end{") == 1
        widths = {line.count(" & ") for line in table.splitlines() if " & " in line}
        assert len(widths) == 1

    @pytest.mark.slow
    def test_attacks_and_leakage(self, tmp_path):
        scenarios = ("unconditional", "bad_tag", "ends_badly")
        folders = [
            write_attacks(write_run(tmp_path / "mle"), prompt="=cmd|"),
            write_run(tmp_path / "conditional", "conditional", "conditional", scenarios=scenarios),
        ]
        contents = write_report(folders, tmp_path / "report")
        tables = tmp_path / "report" / "tables"
        assert {row["group"] for row in read_csv(tables / "misalignment.csv")} == {"unconditional"}
        leakage = read_csv(tables / "leakage.csv")
        rate = contents.runs[1].scenarios["ends_badly"].rate.value
        assert (leakage[0]["ends_badly"], float(leakage[1]["ends_badly"])) == ("", rate)
        # In a terminal there is a row for each of the many scenarios.
        assert re.search(rf"^\s*ends_badly\s+\u2013\s+{100 * rate:.1f} %", terminal(contents), re.MULTILINE)
        best = read_csv(tables / "best-prompts.csv")
        assert [(row["group"], row["Prompt"], float(row["Score"])) for row in best] == [
            ("mle", "'=cmd|", 0.05)
        ] * 3


class TestFormats:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0.0217, "0.0217"),
            (0, "0.00"),
            (1234.5, "1,234"),
            (-0.5, "\u22120.500"),
            (2.5e-6, "2.50e\u221206"),
            (None, "\u2013"),
            (float("nan"), "\u2013"),
        ],
    )
    def test_number(self, value, text):
        assert number(value) == text

    def test_interval(self):
        assert str(interval(Interval(0.0217, 0.02001, 0.0233))) == "0.0217 [0.0200, 0.0233]"
        assert str(interval(Interval(0.371, 0.35, 0.4), percent=True)) == "37.1 % [35.0, 40.0]"
        assert str(interval(None)) == "\u2013"
        assert str(interval(7.25)) == "7.25"

    def test_amounts(self):
        assert [amount(x).value for x in (None, 12, 932_352, 5.2e6, 3.3e9)] == [
            "\u2013",
            "12",
            "932k",
            "5.2M",
            "3.3B",
        ]
        assert [duration(x).value for x in (None, 12.4, 243.7, 7620)] == [
            "\u2013",
            "12 s",
            "4 min 04 s",
            "2 h 07 min",
        ]
        assert [cells.change(x) for x in (None, 0.54, 1.1)] == ["\u2013", "\u221246 %", "+10 %"]
