"""The benchmarks run, and compare what they say they do; how fast anything is, is not for a test to judge."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TINY = "--model tiny --vocabulary 500 --context 16 --no-compile --precision 32-true"


def run(command: str) -> str:
    environment = {
        **os.environ,
        "DEVICE": "cpu",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    result = subprocess.run(
        command.split(), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_head_is_measured():
    arguments = "--tokens 64 --width 16 --vocabulary 300 --repeats 1 --heads fused linear_cross_entropy"
    output = run(f"python benchmarks/head.py {arguments}")
    rows = [line.split()[0] for line in output.splitlines()[2:]]
    assert rows == ["plain", "fused", "linear_cross_entropy"]


def test_data_is_measured(tmp_path):
    run(
        "python benchmarks/data.py --tokens 1e5 --blocks 64 --context 64 --repeats 1 --sizes 1e4 2e5 "
        f"--output {tmp_path}/data.json"
    )
    found = json.loads((tmp_path / "data.json").read_text())
    assert len(found["tokens/s"]) == 8
    assert min(found["tokens/s"].values()) > 0
    small, large, long_segments, long_documents = found["opening"]
    assert small["tokens"] < large["tokens"]
    assert long_segments["segments"] < large["segments"] / 2
    assert long_documents["documents"] < large["documents"] / 2


def test_peers_compute_what_we_compute(tmp_path):
    """Three programs that share only model, data and optimizer have the same loss, step by step."""
    run(f"python benchmarks/pretrain.py {TINY} --batch 4 --steps 4 --turns 1 --output {tmp_path}")
    found = json.loads((tmp_path / "pretrain.json").read_text())
    assert (tmp_path / "losses.png").stat().st_size > 0
    for objective in ("mle", "awr"):
        ours, trainer, plain_loop = (
            found["losses"][f"{objective}, {name}"] for name in ("ours", "Trainer", "plain loop")
        )
        assert len(set(ours)) == 8  # steps on different blocks
        assert ours == pytest.approx(trainer, rel=1e-5)
        assert ours == pytest.approx(plain_loop, rel=1e-5)
    assert found["losses"]["mle, ours"] != pytest.approx(found["losses"]["awr, ours"], rel=1e-2)


def test_objectives_are_measured_beside_mle(tmp_path):
    run(
        f"python benchmarks/objective_speed.py {TINY} --batch 2 --steps 1 --turns 1 "
        f"--objectives conditional --output {tmp_path}"
    )
    found = json.loads((tmp_path / "objectives.json").read_text())
    assert found["mle"]["x MLE"] == 1
    assert found["conditional"]["x MLE"] > 0


def test_options_are_measured_beside_a_run_without(tmp_path):
    run(
        f"python benchmarks/options.py {TINY} --batch 2 --steps 1 --turns 1 "
        f"--options document_mask activation_checkpointing --output {tmp_path}"
    )
    found = json.loads((tmp_path / "options.json").read_text())
    assert list(found) == ["none", "document_mask", "activation_checkpointing"]
    assert min(figure for row in found.values() for figure in row.values()) > 0


def test_the_script_for_a_gpu_runs_from_end_to_end_on_a_cpu(tmp_path):
    arguments = f"{TINY} --batches 2 --steps 6 --turns 1 --output {tmp_path} --objectives"
    output = run(f"bash benchmarks/gpu.sh {arguments}")
    found = [(row["contender"], row["objective"]) for row in json.loads((tmp_path / "gpu.json").read_text())]
    assert found == [(name, "mle") for name in ("ours", "Trainer", "plain loop")]
    assert "_FusedHead" in (tmp_path / "profile.txt").read_text()
    assert "linear_cross_entropy" in output  # the output head comes last


def test_generation_is_measured(tmp_path):
    """Both ways draw as many samples, of about the same lengths."""
    run(
        "python benchmarks/generation.py --model tiny --samples 32 --mean-tokens 14 --turns 1 "
        f"--output {tmp_path}/generation.json"
    )
    found = json.loads((tmp_path / "generation.json").read_text())
    loop, ours = found["loop of generate"], found["ours"]
    assert loop["samples"] == ours["samples"] == 32
    assert loop["mean tokens"] == pytest.approx(ours["mean tokens"], rel=0.3)
    assert 11 < ours["mean tokens"] < 18
    assert found["ratio"] == pytest.approx(ours["samples/s"] / loop["samples/s"])


def test_intervals_are_measured(tmp_path):
    output = run(f"python benchmarks/intervals.py --draws 20 --prompts 2 12 --rates 0.1 --output {tmp_path}")
    found = json.loads((tmp_path / "intervals.json").read_text())
    assert [(row["correlation"], row["prompts"]) for row in found] == [(0, 2), (0, 12), (0.1, 2), (0.1, 12)]
    assert all(row["covered"] >= 0.8 and row["alone"] >= 0.8 for row in found)
    assert len(output.splitlines()) == 5


def test_a_contender_that_fails_is_named(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from turns import ContenderError, take_turns

    with pytest.raises(ContenderError, match="broken: TypeError"):
        take_turns({"broken": len}, steps=1, turns=1)
    with pytest.raises(ContenderError, match="short: ended before its last turn"):
        take_turns({"short": id}, steps=1, turns=1)
