"""`slurm/pretrain.sbatch`: two nodes train the model that one process trains, stopped and requeued or not."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from phf.config import to_yaml

pytestmark = [pytest.mark.slow, pytest.mark.slurm]


def test_two_nodes_train_what_one_process_trains(slurm, tiny, tmp_path):
    from phf.training.run import pretrain

    # Each process draws its own dropout: only without it are two processes one.
    without_dropout = {**tiny.model.config, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = replace(
        tiny,
        objective=replace(tiny.objective, name="conditional"),
        model=replace(tiny.model, config=without_dropout),
    )
    (tmp_path / "tiny.yaml").write_text(to_yaml(config))
    job = slurm.submit(
        "pretrain.sbatch",
        "tiny.yaml",
        "run.folder=distributed",
        options=("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1"),
        folder=tmp_path,
    )
    assert slurm.wait(job, seconds=300) == ["CD"], logs(tmp_path)

    distributed = tmp_path / "distributed"
    single = pretrain(replace(config, run=replace(config.run, folder=str(tmp_path / "single"))))

    steps = [json.loads((run / "run.json").read_text())["steps"] for run in (distributed, single)]
    assert steps[0] == steps[1] > 1
    names = [{p.name for p in (run / "checkpoints").glob("step-*.ckpt")} for run in (distributed, single)]
    assert names[0] == names[1] != set()
    checkpoint = torch.load(
        distributed / "checkpoints" / names[0].pop(), map_location="cpu", weights_only=True
    )
    assert checkpoint["global_step"] == steps[0]
    # Two processes add the gradients up in another order: equal to rounding.
    there, here = (load_file(run / "model" / "model.safetensors") for run in (distributed, single))
    assert there.keys() == here.keys()
    for name, weight in here.items():
        torch.testing.assert_close(
            there[name], weight, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_a_run_that_is_asked_to_stop_is_requeued_and_goes_on(slurm, tiny, tmp_path):
    train = replace(tiny.train, tokens=60 * tiny.train.tokens, checkpoint_every=10**6, heldout_every=10**6)
    (tmp_path / "tiny.yaml").write_text(to_yaml(replace(tiny, train=train)))
    options = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1")
    job = slurm.submit("pretrain.sbatch", "tiny.yaml", "run.folder=run", options=options, folder=tmp_path)
    end = time.monotonic() + 180
    while "step 20/" not in logs(tmp_path):
        assert time.monotonic() < end, logs(tmp_path)
        time.sleep(0.2)

    # What --signal does before the time is up.
    slurm.signal(job, "USR1")

    assert slurm.wait(job, seconds=300) == ["CD"], logs(tmp_path)
    stopped = re.search(r"stopped by a signal after step (\d+)", logs(tmp_path))
    assert stopped, logs(tmp_path)
    assert 20 <= int(stopped[1]) < 480
    assert f"resuming from run/checkpoints/step-{int(stopped[1]):08d}.ckpt" in logs(tmp_path)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["steps"] == 480


def logs(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("*.log")))
