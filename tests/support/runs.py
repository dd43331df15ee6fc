"""Real runs of a tiny model, and what they leave behind."""

import csv
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from objectives.engine import Batch
from phf.config import Config, load_config, to_yaml
from phf.training.checkpoints import latest_checkpoint
from phf.training.objective import OBJECTIVES

# Its noise is drawn for each micro-batch, so it depends on how a step is divided.
NO_DROPOUT = "model.config={resid_pdrop: 0.0, embd_pdrop: 0.0, attn_pdrop: 0.0}"


def configure(tiny: Config, folder: Path, *overrides: str) -> Config:
    return load_config([f"run.folder={folder}", *overrides], tiny)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def metrics(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    with (folder / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            found.setdefault(row["name"], []).append((int(row["step"]), float(row["value"])))
    return found


def command(tiny: Config, tmp_path: Path, *overrides: str) -> list[str]:
    path = tmp_path / "tiny.yaml"
    path.write_text(to_yaml(tiny))
    return [sys.executable, "-m", "phf", "pretrain", str(path), *overrides]


def start(arguments: Sequence[str]) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_checkpoint(folder: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while latest_checkpoint(folder / "checkpoints") is None:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stopped_after(step: int, run: Path, folder: Path) -> Path:
    """The run as it would have been left, had it been killed after a step."""
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "store.json", "metrics.csv", f"checkpoints/step-{step:08d}.ckpt"):
        shutil.copy(run / name, folder / name)
    return folder


def assert_same_losses(run: Path, other: Path) -> None:
    ours, theirs = metrics(run), metrics(other)
    for name in ("train/loss", "heldout/loss"):
        assert [step for step, _ in ours[name]] == [step for step, _ in theirs[name]]
        assert [x for _, x in ours[name]] == pytest.approx([x for _, x in theirs[name]], rel=1e-5)


def assert_equal_to_rounding(run: Path, other: Path) -> None:
    for key, weight in weights(run).items():
        torch.testing.assert_close(weights(other)[key], weight, rtol=1e-4, atol=1e-6, msg=key)
    assert_same_losses(run, other)


def watch(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Batch]:
    """The batches that an objective is given from now on."""
    seen: list[Batch] = []
    cls = OBJECTIVES.find(name)
    losses = cls.losses

    def watched(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(batch)
        return losses(self, batch)

    monkeypatch.setattr(cls, "losses", watched)
    return seen


def can_compile() -> bool:
    """Whether torch.compile can work here: Triton for a GPU; for a CPU a compiler and Python's headers."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    if torch.cuda.is_available():
        return True
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return False
    try:
        return bool(get_cpp_compiler())
    except InvalidCxxCompiler:
        return False
