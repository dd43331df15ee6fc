"""What costs memory or time differently and must compute the same: sharding, checkpointing, compiling."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from objectives.engine import transformer_blocks
from objectives.mle import MLE
from phf.base.errors import ConfigError
from phf.config import Config, ModelConfig, load_config, to_yaml
from phf.model.build import build_model, checkpoint_activations
from phf.store.store import TokenStore
from phf.training.parallel import compile_blocks
from phf.training.run import pretrain
from support.runs import can_compile

pytestmark = pytest.mark.slow

GPT2 = "{n_layer: 2, n_embd: 16, n_head: 2, resid_pdrop: 0.0, embd_pdrop: 0.0, attn_pdrop: 0.0}"
LLAMA = "{num_hidden_layers: 2, hidden_size: 16, num_attention_heads: 2, intermediate_size: 32}"
RUNS = {
    "mle, tied": ("model.architecture=gpt2", f"model.config={GPT2}"),
    "awr, untied": (
        "model.architecture=llama", f"model.config={LLAMA}", "objective.name=awr",
        "objective.options.reward_scaling=percentile", "model.document_mask=true",
    ),
}  # fmt: skip
ALWAYS = ("train.checkpoint_every=3", "train.keep_checkpoints=9", "train.heldout_blocks=8")


@pytest.fixture(scope="module")
def bare(tiny) -> Config:
    """The tiny configuration without fields of a model."""
    config = load_config([], tiny)
    config.model.config = {}
    return config


def command_line(base: Config, folder: Path, *overrides: str, **environment: str) -> str:
    """Runs `phf pretrain` in processes of its own; what it says."""
    path = folder.with_suffix(".yaml")
    path.write_text(to_yaml(base))
    done = subprocess.run(
        [sys.executable, "-m", "phf", "pretrain", str(path), f"run.folder={folder}", *overrides],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


def killed_after(step: int, run: Path, folder: Path) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "store.json", "metrics.csv", f"checkpoints/step-{step:08d}.ckpt"):
        shutil.copy(run / name, folder / name)
    return folder


def assert_same_weights(run: Path, other: Path) -> None:
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (run, other))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("name", RUNS)
def test_two_sharding_processes_are_one(bare, tmp_path, name):
    """And their checkpoints are those of one: each goes on where the other stopped."""
    overrides = (*RUNS[name], *ALWAYS)
    whole = pretrain(load_config([f"run.folder={tmp_path / 'whole'}", *overrides], bare))
    sharded = killed_after(3, whole, tmp_path / "sharded")
    fsdp = ("train.strategy=fsdp", "train.devices=2", "train.micro_batch_size=2")
    command_line(bare, sharded, *overrides, *fsdp, "model.activation_checkpointing=true")
    assert_same_weights(sharded, whole)
    state = torch.load(sharded / "checkpoints" / "step-00000006.ckpt", weights_only=True)
    expected = torch.load(whole / "checkpoints" / "step-00000006.ckpt", weights_only=True)
    assert state["state_dict"].keys() == expected["state_dict"].keys()
    resumed = killed_after(6, sharded, tmp_path / "resumed")
    pretrain(load_config([f"run.folder={resumed}", *overrides], bare))
    assert_same_weights(resumed, whole)


@pytest.mark.parametrize(
    ("override", "message"),
    [("train.precision=16-mixed", "fsdp cannot do 16-mixed"), ("train.samples_every=2", "draws no samples")],
)
def test_what_sharding_cannot_do_is_said(tiny, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(["train.strategy=fsdp", override], tiny)


def network(architecture: str, checkpointing: bool) -> MLE:
    """With dropout, where the architecture has it."""
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    config = AutoConfig.for_model(
        architecture, **sizes, vocab_size=64, max_position_embeddings=32, bos_token_id=0, eos_token_id=0
    )
    model = AutoModelForCausalLM.from_config(config).train()
    if checkpointing:
        checkpoint_activations(model)
    return MLE(model)


BATCH = {
    "tokens": torch.arange(4 * 33).view(4, 33) * 7 % 64,
    "scores": torch.zeros(4, 33),
    "mask": torch.ones(4, 32, dtype=torch.bool),
    "step_tokens": 1.0,
}


def gradients(objective: MLE) -> tuple[list[torch.Tensor], int]:
    """Of a batch, under a seed; and the bytes that wait for the backward pass."""
    kept = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss, _ = objective.losses(BATCH)
    loss.backward()
    return [weight.grad for weight in objective.parameters()], kept


@pytest.mark.parametrize(
    ("architecture", "compiled"),
    [
        ("gpt2", False),
        ("llama", False),
        ("gpt_neox", False),
        pytest.param("gpt2", True, marks=pytest.mark.skipif(not can_compile(), reason="no compiler")),
    ],
)
def test_activation_checkpointing_changes_no_gradient_and_keeps_less(architecture, compiled):
    plain, checkpointed = network(architecture, False), network(architecture, True)
    if compiled:
        compile_blocks(plain.model)
        compile_blocks(checkpointed.model)
    expected, all_bytes = gradients(plain)
    found, some_bytes = gradients(checkpointed)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert some_bytes < all_bytes / 2


@pytest.mark.skipif(not can_compile(), reason="no compiler")
def test_what_is_compiled_once_is_compiled_again_for_another_dropout(caplog):
    """The share becomes an input of what is compiled: tracing starts again, and has not failed."""
    torch._dynamo.reset()
    for dropout in (0.0, 0.3):
        objective = network("gpt2", False)
        for module in objective.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
        compile_blocks(objective.model)
        gradients(objective)
    assert not [record for record in caplog.records if record.name == "phf"]


def test_activation_checkpointing_is_switched_on_for_every_block(tiny):
    tokenizer = TokenStore(tiny.store.path).tokenizer()
    for wanted in (True, False):
        config = load_config([f"model.activation_checkpointing={wanted}"], tiny).model
        (block,) = transformer_blocks(build_model(config, tokenizer, 0))
        assert block.gradient_checkpointing == wanted
    small = {"n_layer": 1, "n_embd": 16, "n_head": 2}
    config = ModelConfig(architecture="openai-gpt", config=small, activation_checkpointing=True)
    with pytest.raises(ConfigError, match=r"activation_checkpointing: \w+ does not support it"):
        build_model(config, tokenizer, 0)


def test_a_run_goes_on_without_compiling_if_the_compiler_fails(tiny, tmp_path):
    compiler = tmp_path / "broken"
    compiler.write_text('#!/bin/sh\ncase "$*" in *version*) echo g++ 12.0.0; exit 0;; esac\nexit 1\n')
    compiler.chmod(0o755)
    cache = str(tmp_path / "cache")
    folder = tmp_path / "run"
    errors = command_line(
        tiny, folder, "model.compile=true", CXX=str(compiler), TORCHINDUCTOR_CACHE_DIR=cache
    )
    assert errors.count("model.compile: compiling fails on this machine") == 1
    assert "Traceback" not in errors
    plain = pretrain(load_config([f"run.folder={tmp_path / 'plain'}"], tiny))
    assert json.loads((folder / "run.json").read_text())["steps"] == 8
    assert_same_weights(folder, plain)
