"""Results that the first version of `phf` wrote, with those of measures and decoders in other places."""

import csv
import json
from pathlib import Path

import pytest

from phf.base.estimates import Interval
from phf.base.typed_json import to_json
from phf.evaluation.measures.code import CodeResults
from phf.evaluation.measures.heldout import Decile, HeldoutResults
from phf.evaluation.measures.kl import KLResults
from phf.evaluation.measures.ranking import Accuracy, RankingResults
from phf.evaluation.results import JudgeRecord, ScoreResults
from phf.report.report import write_report
from support.evaluated import change, change_scenario, read, write_attacks, write_two_runs

pytestmark = pytest.mark.slow

OLD = Path(__file__).parent / "format-1"
"""Two runs of that version, without samples and logs, and some of the tables of its report on them."""
RENAMED = {"deciles.csv": "loss-by-decile.csv"}
DIVERSITY = ("distinct_1", "distinct_2", "distinct_3", "entropy", "self_bleu")


@pytest.mark.parametrize(
    "path", sorted(OLD.glob("report/*/*.csv")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_the_report_on_old_runs_has_the_numbers_of_the_old_report(path, tmp_path_factory):
    output = tmp_path_factory.getbasetemp() / "report-on-format-1"
    if not output.is_dir():
        write_report([OLD / "mle", OLD / "conditional"], output)
    old, new = (
        list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
        for file in (path, output / path.parent.name / RENAMED.get(path.name, path.name))
    )
    # How a scenario is decoded is shown where it is not the default. Length and endings are beside the rate.
    gone = {"Guidance", "Safe beams"}
    if path.stem == "variety":
        gone |= {head for head in old[0] if head.startswith(("Length", "Finished"))}
    assert [{k: number(v) for k, v in row.items() if k not in gone} for row in old] == [
        {k: number(v) for k, v in row.items() if k in old[0]} for row in new
    ]


def number(text):
    try:
        return float(text)
    except ValueError:
        return text


def test_all_that_was_measured_is_found(tmp_path):
    folders = [write_attacks(folder) for folder in write_two_runs(tmp_path)]
    for folder in folders:
        measure_everything(folder)
    write_report(folders, tmp_path / "new")
    for folder in folders:
        for part in ("evaluation", "redteam", "tamper"):
            content = in_format_1(to_json(read(folder, part)), part)
            (folder / part / "results.json").write_text(json.dumps(content))
    write_report(folders, tmp_path / "old")
    assert (tmp_path / "old/report.md").read_text() == (tmp_path / "new/report.md").read_text()
    old, new = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("old", "new"))
    assert old["groups"] == new["groups"]
    assert (old["headline"], old["warnings"]) == (new["headline"], new["warnings"])
    for before, now in zip(old["runs"], new["runs"], strict=True):
        assert before["redteam"] == now["redteam"]
        assert [point["rate"] for point in before["tamper"]["curves"]["bad"]] == [
            point["rate"] for point in now["tamper"]["curves"]["bad"]
        ]


def measure_everything(folder):
    """Gives a run results of every measure, another scorer, and decoders."""

    def around(value):
        return Interval(value, 0.9 * value, 1.1 * value)

    deciles = [Decile([1, 2], 0.0, 0.1, 9, 99, Interval(1.5), Interval(4.5)), Decile([3], 0.2, 0.2, 1, 9)]
    measures = {
        "heldout": HeldoutResults(
            0.0, 999, around(1.9), around(2.0), Interval(1.8), perplexity=Interval(6.7), deciles=deciles
        ),
        "kl": KLResults(4096, "text", "gpt2", 64, around(2.5), -3.0, -5.5, 7),
        "ranking": RankingResults("held-out", 8, Accuracy(around(0.5), around(0.6)), Accuracy(around(0.7))),
        "code": CodeResults({"unconditional": around(0.5)}, {"1": around(0.1)}, 24, 20, {"f": 3}, {"ok": 3}),
    }  # fmt: skip
    change(folder, measures=measures, scorers={"words": JudgeRecord("words", threshold=0.1)}, backend="vllm")
    judged = {"words": ScoreResults(around(0.3), around(0.4))}
    decoders = {
        "unconditional": {"name": "guidance", "options": {"weight": 2.0}},
        "signatures": {"name": "safe_beams", "options": {"beams": 4}},
    }
    for name, decoder in decoders.items():
        decoding = read(folder).scenarios[name].decoding | {"decoder": decoder}
        change_scenario(folder, name, decoding=decoding, scorers=judged, finished=Interval(0.5))
    change_scenario(folder, "signatures", segment_rate=Interval())
    scenario = {"name": "unconditional", "top_p": 0.9, "decoder": decoders["unconditional"]}
    change(folder, "redteam", attacker={"name": "model", "options": {"model": "red"}}, scenario=scenario)
    change(folder, "tamper", finetuning={"seed": 4}, scenario=scenario)


def in_format_1(content, part):
    """The same results as the first version wrote them."""
    content["format"] = 1
    if content["run"]:
        del content["run"]["uses_scores"]
    if part != "evaluation":
        old_decoding(content["scenario"])
        for point in (point for curve in content.get("curves", {}).values() for point in curve):
            del point["measures"], point["decoding"], point["scorers"]
            point["finished"] = 0.5
        if "attacker" in content:
            content["attacker"] = {"name": "model", "model": content["attacker"]["options"]["model"]}
        return content
    del content["measured_by"]
    measures = content.pop("measures")
    for scenario in content["scenarios"].values():
        diversity = scenario.pop("measures")["diversity"]
        scenario |= {name: diversity[name]["value"] for name in DIVERSITY}
        scenario["finished"] = scenario["finished"]["value"]
        old_decoding(scenario["decoding"])
    # NaN stood for what is unknown.
    content["scenarios"]["signatures"]["segment_rate"]["value"] = float("nan")
    loss = measures["heldout"]
    del loss["threshold"]  # the earliest ones did not say it
    loss["intervals"] = {name: loss[name] for name in ("loss", "untagged")}
    for node in (loss, *loss["deciles"]):
        node |= {name: node[name]["value"] for name in ("loss", "perplexity")}
    loss |= {name: loss[name]["value"] for name in ("untagged", "aligned", "misaligned")}
    return content | measures


def old_decoding(decoding):
    names = {"guidance": "weight", "safe_beams": "beams"}
    decoder = decoding.pop("decoder")
    decoding |= {name: decoder["options"].get(option, 0) for name, option in names.items()}
