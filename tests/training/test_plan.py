"""The run in numbers, what is said of it, two steps on trial, one batch by heart, a profile."""

import json
import math
import subprocess
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from phf.base.errors import ConfigError, PhfError
from phf.blocks.datamodule import StepBlocks
from phf.config import load_config
from phf.store.store import TokenStore
from phf.training.build import build, training_data
from phf.training.flops import flops_per_token, peak_flops
from phf.training.plan import make_plan
from phf.training.run import dry_run, pretrain
from support.runs import NO_DROPOUT, command, configure, metrics, stopped_after


@pytest.mark.parametrize(
    ("span", "steps"), [(0.25, 2), (0, 0), (1, 8), ("3 steps", 3), ("512 tokens", 2), ("1.5e3 tokens", 6)]
)
def test_spans_are_shares_steps_or_tokens(tiny, span, steps):
    config = load_config([{"train": {"warmup": span, "decay": span, "decay_shape": "sqrt"}}], tiny)
    optimization = make_plan(config).optimization
    assert optimization.warmup_steps == steps
    assert optimization.decay_steps == steps
    assert optimization.decay_shape == "sqrt"


@pytest.mark.parametrize(
    ("every", "steps"), [(3, 3), ("2 steps", 2), ("1_024 tokens", 4), ("1 tokens", 1), (0.25, 2), (0.01, 1)]
)
def test_intervals_are_steps_tokens_or_shares(tiny, tmp_path, every, steps):
    config = configure(tiny, tmp_path, f"train.checkpoint_every={every}", f"train.heldout_every={every}")
    plan = make_plan(config)
    assert plan.checkpoint_every == plan.heldout_every == steps
    assert plan.samples_every is None


@pytest.mark.parametrize(
    "override",
    ["train.warmup=2", "train.decay=1e7", "train.checkpoint_every=3 blocks", "train.checkpoint_every=2.5"],
)
def test_a_span_that_is_none(tiny, override):
    with pytest.raises(ConfigError, match=r"^[^\n]*train\.\w+ must be a share in \[0, 1\], or such as"):
        load_config([override], tiny)


@pytest.mark.parametrize("interval", ["checkpoint_every=0", "heldout_every=0.0", "samples_every=-1"])
def test_an_interval_of_nothing(tiny, interval):
    with pytest.raises(ConfigError, match=r"train\.\w+ must be at least 1 or null|must be a share"):
        load_config([f"train.{interval}"], tiny)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup": "9 steps"}, "train.warmup: 9 steps are more than the 8"),
        (
            {"warmup": 0.25, "schedule": "wsd", "decay": 1},
            "train.warmup and decay: 10 steps",
        ),
    ],
)
def test_a_schedule_longer_than_the_run(tiny, options, message):
    with pytest.raises(ConfigError, match=message):
        make_plan(load_config([{"train": options}], tiny))


def test_a_decay_that_no_schedule_uses_is_not_counted(tiny):
    make_plan(load_config([{"train": {"schedule": "linear", "warmup": 1, "decay": 1}}], tiny))


def test_more_devices_than_the_machine_has(tiny, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert make_plan(load_config(["train.accelerator=gpu", "train.devices=2"], tiny)).devices == 2
    with pytest.raises(ConfigError, match=r"train\.devices is 4, and torch finds 2 GPUs"):
        make_plan(load_config(["train.accelerator=gpu", "train.devices=4"], tiny))


def test_checkpoints_by_tokens(tiny, tmp_path):
    overrides = ("train.checkpoint_every=768 tokens", "train.keep_checkpoints=9")
    folder = pretrain(configure(tiny, tmp_path / "run", *overrides))
    steps = [json.loads(path.read_text())["tokens"] for path in sorted(folder.glob("checkpoints/*.json"))]
    assert steps == [768, 1536, 2048]


def test_flops_are_those_of_the_matrix_products():
    """Of GPT-2 small, by nanoGPT's count; and an untied table of embeddings is looked up, not multiplied."""
    with torch.device("meta"):
        gpt2 = GPT2LMHeadModel(GPT2Config())
        untied = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=100,
                hidden_size=8,
                intermediate_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
            )
        )
    assert flops_per_token(gpt2, 1024) == 6 * (124_439_808 - 1024 * 768) + 12 * 12 * 768 * 1024
    layer = 4 * 8 * 8 + 3 * 8 * 16 + 2 * 8
    assert flops_per_token(untied, 10) == 6 * (2 * layer + 8 + 100 * 8) + 12 * 2 * 8 * 10


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", None),
        ("NVIDIA RTX A1000", None),
    ],
)
def test_the_peak_is_that_of_the_whole_name(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda")) == peak


def test_a_dry_run_of_a_state_space_model(tiny, tmp_path):
    size = {"hidden_size": 16, "num_hidden_layers": 1}
    mamba = replace(tiny, model=replace(tiny.model, architecture="mamba", config=size))
    assert "FLOPs per token" in dict(dry_run(configure(mamba, tmp_path / "run")))["model"]


@pytest.mark.slow
def test_a_dry_run_tells_of_the_text_that_the_objective_sees(tiny, tmp_path):
    """Filtered text, whatever goes before it, and though the first epoch lacks what has been read."""

    def said(*overrides: str) -> str:
        return dict(dry_run(configure(tiny, tmp_path / "run", *overrides)))["data"].partition(";")[0]

    filtering = "objective.name=filtering"
    assert said(filtering) != said()
    for phase in ("objective.start=0.25", "train.tokens_seen=1024"):
        assert said(filtering, phase) == said(filtering)


@pytest.mark.slow
def test_the_log_has_speed_memory_waiting_and_mfu(tiny, tmp_path):
    found = metrics(pretrain(configure(tiny, tmp_path / "run", "train.peak_flops=1e9")))
    config = configure(tiny, tmp_path / "run")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    flops = flops_per_token(model, config.model.context_length)
    for (_, speed), (_, mfu) in zip(found["train/tokens_per_second"], found["train/mfu"], strict=True):
        assert mfu == pytest.approx(speed * flops / 1e9)
    assert all(0 < wait < 1 for _, wait in found["train/data_wait"])
    assert all(0.01 < gib < 64 for _, gib in found["train/memory_gib"])


def test_without_a_known_peak_there_is_no_mfu(tiny, tmp_path):
    assert "train/mfu" not in metrics(pretrain(configure(tiny, tmp_path / "run")))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_dry_run_says_what_the_run_will_be_and_leaves_nothing(tiny, tmp_path, devices):
    folder = tmp_path / "run"
    overrides = (f"run.folder={folder}", f"train.devices={devices}", NO_DROPOUT)
    done = subprocess.run(
        [*command(tiny, tmp_path, *overrides), "--dry-run"], capture_output=True, text=True, check=True
    )
    said = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert "2,048 tokens = 8 steps of 256 (8 blocks of 32)" in said["budget"]
    assert said["machine"].startswith(f"{devices} x cpu, 32-true, {8 // devices} blocks per forward pass")
    assert {"model", "data", "schedule", "checkpoints", "speed", "memory", "time"} <= said.keys()
    assert not folder.exists()
    second_step = metrics(pretrain(configure(tiny, folder, NO_DROPOUT)))["train/loss"][1][1]
    assert float(said["loss"].partition(",")[0]) == pytest.approx(second_step, abs=1e-4)


@pytest.mark.slow
def test_a_dry_run_beside_another_run_is_refused(tiny, tmp_path):
    pretrain(configure(tiny, tmp_path / "run"))
    with pytest.raises(ConfigError, match="holds a run with train"):
        dry_run(configure(tiny, tmp_path / "run", "train.learning_rate=1e-2"))


@pytest.mark.slow
def test_one_batch_is_learned_by_heart(tiny, tmp_path):
    overrides = (
        "train.overfit_steps=1", "train.batch_size=1", "train.tokens=12800", "train.learning_rate=1e-2",
        "train.schedule=constant", "train.heldout_every=1000", NO_DROPOUT,
    )  # fmt: skip
    losses = [x for _, x in metrics(pretrain(configure(tiny, tmp_path / "run", *overrides)))["train/loss"]]
    assert losses[0] > 5
    assert losses[-1] < 0.1


def test_the_blocks_of_the_first_steps_come_again():
    sampler = iter(StepBlocks(10, 4, 2, 1, 2, first_step=1, distinct_steps=2))
    assert [next(sampler) for _ in range(3)] == [[16, 17], [12, 13], [16, 17]]


@pytest.mark.slow
def test_a_profile_is_written(tiny, tmp_path):
    folder = pretrain(configure(tiny, tmp_path / "run", "train.profile_steps=2"))
    assert "_FusedHead" in (folder / "profile" / "table.txt").read_text()
    events = json.loads((folder / "profile" / "trace.json").read_text())["traceEvents"]
    assert sum(event.get("name", "").startswith("ProfilerStep#") for event in events) >= 2


@pytest.mark.slow
def test_a_run_that_ends_before_its_profile_says_so(tiny, tmp_path, caplog):
    overrides = ("train.profile_steps=2", "train.checkpoint_every=6", "train.keep_checkpoints=9")
    run = pretrain(configure(tiny, tmp_path / "whole", *overrides))
    assert "no profile" not in caplog.text
    folder = pretrain(configure(tiny, stopped_after(6, run, tmp_path / "run"), *overrides))
    assert "no profile: the run ended before step 6 after its start" in caplog.text
    assert not (folder / "profile").exists()


def test_a_run_too_short_for_its_profile(tiny, tmp_path):
    with pytest.raises(ConfigError, match="4 steps after 5 others are more than the 8 of the run"):
        pretrain(configure(tiny, tmp_path / "run", "train.profile_steps=4"))


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", [8, 2])
def test_the_blocks_of_a_loss_that_is_not_finite_are_named(tiny, tmp_path, micro_batch):
    """A model with one broken embedding fails where the run first reads that token, which the data tells."""
    overrides = (NO_DROPOUT, "train.tokens=25600", f"train.micro_batch_size={micro_batch}")
    seldom = ("train.log_every=100", "train.heldout_every=100")
    config = configure(tiny, tmp_path / "run", *overrides, *seldom)
    plan = make_plan(config)
    store = TokenStore(config.store.path)
    objective, tokenizer = build(config, store, plan.optimization)
    view = training_data(config, store, objective, tokenizer, micro_batch).train
    blocks = [set(view.block(*view.locate(i)).tokens[:-1].tolist()) for i in range(800)]
    token = next(t for t in range(384) if 3 * 8 <= _first(blocks, t) < 60)
    broken = _first(blocks, token)
    objective.model.transformer.wte.weight.data[token, 0] = math.nan
    # Tied to the head, a NaN would be in every logit.
    objective.model.config.tie_word_embeddings = False
    objective.model.lm_head.weight = torch.nn.Parameter(objective.model.transformer.wte.weight.nan_to_num())
    objective.model.save_pretrained(tmp_path / "broken")
    start = broken // micro_batch * micro_batch
    message = (
        rf"step {broken // 8 + 1}: the loss of blocks {start} to {start + micro_batch - 1} of the run is"
    )
    with pytest.raises(PhfError, match=message):
        pretrain(load_config([f"model.start_from={tmp_path / 'broken'}"], config))


def _first(blocks, token):
    return next((i for i, block in enumerate(blocks) if token in block), -1)
