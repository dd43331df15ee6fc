"""The quickstart at a small budget, on the real corpus of this interpreter."""

import json
import math
from unittest.mock import Mock

import pytest

from phf import quickstart as module
from phf.base.errors import ConfigError
from phf.config import load_config
from phf.quickstart import quickstart, write_corpus


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(module, "CORPUS_BYTES", 600_000)


@pytest.mark.slow
def test_the_whole_way(small, tmp_path, capsys):
    config = load_config(
        [
            "quickstart.yaml",
            f"run.folder={tmp_path / 'quick'}",
            "train.tokens=40000",
            "store.heldout_fraction=0.2",
            "train.precision=32-true",
            "train.samples_every=5",
            "train.samples=4",
            "annotations.processes=1",
            "evaluation.scenarios.unconditional.samples=16",
            "evaluation.scenarios.unconditional.max_new_tokens=32",
            "evaluation.scenarios.functions.samples=1",
            "evaluation.scenarios.functions.max_new_tokens=16",
            "evaluation.scenarios.functions.max_prompts=8",
            "evaluation.measures.heldout.blocks=8",
        ]
    )
    folder = quickstart(config)
    results = json.loads((folder / "results.json").read_text())
    assert [run["run"]["objective"] for run in results["runs"]] == ["mle", "conditional"]
    for run in results["runs"]:
        assert run["run"]["tokens"] == 38912
        assert run["run"]["wall_seconds"] > 0
        assert math.isfinite(run["measures"]["heldout"]["loss"]["value"])
        assert set(run["scenarios"]) == {"unconditional", "functions"}
        for scenario in run["scenarios"].values():
            assert scenario["n"] > 0
            for measure in ("mean_score", "rate"):
                assert scenario[measure]["low"] <= scenario[measure]["value"] <= scenario[measure]["high"]
    assert (folder / "index.html").is_file()
    assert "conditional" in capsys.readouterr().out
    made = (tmp_path / "quick" / "mle" / "run.json").stat().st_mtime_ns
    quickstart(config)  # everything is there already
    assert (tmp_path / "quick" / "mle" / "run.json").stat().st_mtime_ns == made


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.name=rwr"], None),
        (["objective.name=rwr", "objective.options.beta=1"], None),
        (["objective.threshold=[0,q0.9]"], None),
        (
            ["objective.name=rwr", "objective.options.bet=1"],
            r"objective\.options: no key bet; did you mean beta",
        ),
        (["objective.name=rwrr"], "no objective 'rwrr'; did you mean rwr"),
    ],
)
def test_any_objective_against_mle_checked_before_any_work(tmp_path, monkeypatch, overrides, message):
    monkeypatch.setattr(module, "write_corpus", Mock(side_effect=InterruptedError("work began")))
    config = load_config(["quickstart.yaml", f"run.folder={tmp_path}", *overrides])
    with pytest.raises(ConfigError if message else InterruptedError, match=message or "work began"):
        quickstart(config)


@pytest.mark.slow
def test_the_corpus_is_the_same_every_time_and_has_no_generated_tables(small, tmp_path):
    write_corpus(tmp_path / "a")
    write_corpus(tmp_path / "b")
    names = []
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        names += [json.loads(line)["id"] for line in path.read_text().splitlines()]
    assert len(names) == len(set(names))
    assert not any(name.startswith(("encodings/", "pydoc_data/")) for name in names)
