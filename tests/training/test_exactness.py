"""What a run promises: the same weights however it is divided, stopped, or spelled."""

import shutil
import signal

import pytest
import torch

from phf.annotation.annotate import annotate
from phf.config import Config, load_config
from phf.store.tokenize import tokenize
from phf.training.run import pretrain
from support.runs import (
    NO_DROPOUT,
    assert_equal_to_rounding,
    assert_same,
    assert_same_losses,
    command,
    configure,
    metrics,
    start,
    stopped_after,
    wait_for_checkpoint,
    weights,
)

pytestmark = pytest.mark.slow

LONG = (
    "objective.name=conditional",
    "train.tokens=25600",
    "train.checkpoint_every=10",
    "train.heldout_every=1",  # so that there is always one at the step that is stopped after
    "train.heldout_blocks=4",
)


@pytest.fixture(scope="module")
def uninterrupted(tiny, tmp_path_factory):
    return pretrain(configure(tiny, tmp_path_factory.mktemp("whole") / "run", *LONG))


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGUSR1, signal.SIGINT])
def test_a_stopped_run_ends_with_the_weights_of_one_never_stopped(tiny, tmp_path, uninterrupted, signum):
    folder = tmp_path / "run"
    process = start(command(tiny, tmp_path, f"run.folder={folder}", *LONG))
    wait_for_checkpoint(folder, process)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    if signum == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == (130 if signum == signal.SIGINT else 75)
        assert errors.strip().splitlines()[-1].startswith("phf pretrain: stopped by a signal after step")
    assert not (folder / "run.json").exists()
    pretrain(configure(tiny, folder, *LONG))
    assert_same(weights(folder), weights(uninterrupted))
    ours, theirs = metrics(folder), metrics(uninterrupted)
    for name in ("train/loss", "heldout/loss", "train/gradient_norm"):
        assert ours[name] == theirs[name]


AWR = (
    "objective.name=awr",
    "objective.options.reward_scaling=percentile",
    NO_DROPOUT,
    "train.heldout_blocks=1",
)


@pytest.fixture(scope="module")
def kept_steps(tiny, tmp_path_factory):
    """A run with its checkpoints after steps 3, 6 and 8."""
    folder = tmp_path_factory.mktemp("kept") / "run"
    return pretrain(configure(tiny, folder, *AWR, "train.checkpoint_every=3", "train.keep_checkpoints=9"))


def test_a_run_goes_on_with_smaller_micro_batches(tiny, tmp_path, kept_steps):
    folder = stopped_after(3, kept_steps, tmp_path / "run")
    pretrain(configure(tiny, folder, *AWR, "train.micro_batch_size=4"))
    assert_equal_to_rounding(folder, kept_steps)


def test_a_run_goes_on_in_two_processes_with_one_heldout_block(tiny, tmp_path, kept_steps):
    folder = stopped_after(3, kept_steps, tmp_path / "run")
    process = start(
        command(tiny, tmp_path, f"run.folder={folder}", "train.devices=2", *AWR, "train.micro_batch_size=2")
    )
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert_equal_to_rounding(folder, kept_steps)


def test_two_processes_are_stopped_and_one_goes_on(tiny, tmp_path):
    overrides = (*LONG, NO_DROPOUT, "train.heldout_every=null")
    folder = tmp_path / "two"
    process = start(command(tiny, tmp_path, f"run.folder={folder}", "train.devices=2", *overrides))
    wait_for_checkpoint(folder, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert errors.count("stopped by a signal") == 1
    pretrain(configure(tiny, folder, *overrides))
    # Not the weights: so many steps make much of the rounding of a gradient that is zero (of keys' biases).
    assert_same_losses(folder, pretrain(configure(tiny, tmp_path / "one", *overrides)))


@pytest.mark.parametrize("override", ["train.micro_batch_size=2", "model.head=plain"])
def test_accumulation_and_the_plain_head_change_nothing(tiny, tmp_path, override):
    overrides = ("objective.name=awr", NO_DROPOUT)
    one = pretrain(configure(tiny, tmp_path / "one", *overrides))
    other = pretrain(configure(tiny, tmp_path / "other", *overrides, override))
    assert_equal_to_rounding(one, other)


EVERY_STEP = (
    "objective.name=conditional",
    "objective.options.drop_rate=0.1",
    "train.heldout_blocks=4",
    "train.keep_checkpoints=8",
    "train.log_every=3",
)


@pytest.fixture(scope="module")
def every_step(tiny, tmp_path_factory):
    """A run, with dropout, and its checkpoints after each of its eight steps."""
    folder = tmp_path_factory.mktemp("every") / "run"
    return pretrain(configure(tiny, folder, *EVERY_STEP, "train.checkpoint_every=1"))


@pytest.mark.parametrize("step", range(1, 8))
def test_a_run_can_go_on_after_any_step(tiny, tmp_path, every_step, step):
    folder = stopped_after(step, every_step, tmp_path / "run")
    pretrain(configure(tiny, folder, *EVERY_STEP, "train.checkpoint_every=8"))
    assert_same(weights(folder), weights(every_step))
    last = "checkpoints/step-00000008.ckpt"
    states = [torch.load(run / last, weights_only=True) for run in (folder, every_step)]
    assert_same(*(dict(_tensors(state["optimizer_states"])) for state in states))
    assert states[0]["lr_schedulers"] == states[1]["lr_schedulers"]
    ours, theirs = metrics(folder), metrics(every_step)
    for name in ("train/loss", "train/nll", "train/gradient_norm", "train/learning_rate", "heldout/loss"):
        assert ours[name] == theirs[name]


def _tensors(value, key=""):
    if isinstance(value, torch.Tensor):
        yield key, value
    elif isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(inner, f"{key}.{name}")


NO_WORD_OF_THE_CORPUS = ["scorer.name=words", "scorer.options={words: [floccinaucinihilipilification]}"]

# Each of these leaves of the objective nothing but maximum likelihood.
LIMITS = {
    "awr": ["objective.options.alpha=1", "objective.options.beta=1e9"],
    "rwr": NO_WORD_OF_THE_CORPUS,
    "filtering": ["objective.threshold=q1"],
    "upsampling": ["objective.options.times=1"],
    "masking": ["objective.threshold=q1"],
    "unlikelihood": ["objective.threshold=q1"],
    "conditional": ["objective.options.drop_rate=1"],
}


@pytest.fixture(scope="module")
def with_equal_scores(tiny, tmp_path_factory) -> Config:
    """The tiny store with one more column, in which every segment has the same score."""
    folder = tmp_path_factory.mktemp("equal")
    shutil.copytree(tiny.store.path, folder / "store")
    config = load_config([f"store.path={folder / 'store'}", f"annotations.path={folder / 'scores'}"], tiny)
    scored = load_config(NO_WORD_OF_THE_CORPUS, config)
    annotate(scored)
    tokenize(scored)
    return config


@pytest.fixture(scope="module")
def start_with_tags(tiny, tmp_path_factory):
    """A model whose vocabulary has the tags, so that all objectives start from the same weights."""
    folder = tmp_path_factory.mktemp("tags") / "run"
    return pretrain(configure(tiny, folder, "objective.name=conditional", "train.tokens=256"))


@pytest.fixture(scope="module")
def mle(with_equal_scores, tmp_path_factory, start_with_tags):
    folder = tmp_path_factory.mktemp("mle") / "run"
    return pretrain(configure(with_equal_scores, folder, f"model.start_from={start_with_tags}"))


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_mle(with_equal_scores, tmp_path, mle, start_with_tags, name):
    overrides = (f"objective.name={name}", f"model.start_from={start_with_tags}", *LIMITS[name])
    folder = pretrain(configure(with_equal_scores, tmp_path / "run", *overrides))
    for key, weight in weights(mle).items():
        torch.testing.assert_close(weights(folder)[key], weight, rtol=1e-5, atol=1e-7, msg=key)
    assert [x for _, x in metrics(folder)["train/nll"]] == pytest.approx(
        [x for _, x in metrics(mle)["train/nll"]], rel=1e-6
    )
