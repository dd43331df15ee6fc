"""Tags through a run and its evaluation: levels, ordinary text, without loss, and phases of plain text."""

import json
from itertools import pairwise

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer

from phf.base.errors import ConfigError, PhfError
from phf.evaluation.evaluate import evaluate
from phf.store.store import TokenStore
from phf.training.run import pretrain
from support.runs import (
    NO_DROPOUT,
    assert_same,
    assert_same_losses,
    command,
    configure,
    metrics,
    start,
    stopped_after,
    watch,
    weights,
)

CONDITIONAL = "objective.name=conditional"
TAGS = torch.tensor([384, 385])  # the store has 384 tokens


def steps(seen) -> list:
    """The batches that were trained on, one a step."""
    return [batch for batch in seen if batch["step_tokens"] > 1]


PHASES = (CONDITIONAL, "objective.start=0.25", "objective.cooldown=0.375")


@pytest.fixture(scope="module")
def in_phases(tiny, tmp_path_factory):
    """A run of eight steps, of which the first two and the last three read plain text; every checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        seen = watch(patch, "conditional")
        every = ("train.checkpoint_every=1", "train.keep_checkpoints=8")
        folder = pretrain(configure(tiny, tmp_path_factory.mktemp("phases") / "run", *PHASES, *every))
        return folder, steps(seen)


def test_text_is_plain_at_the_start_and_at_the_end(in_phases):
    tagged = [bool(torch.isin(batch["tokens"], TAGS).any()) for batch in in_phases[1]]
    assert tagged == [False] * 2 + [True] * 3 + [False] * 3


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 2, 4, 5])
def test_a_run_in_phases_can_go_on_after_any_step(tiny, tmp_path, in_phases, step):
    run, _ = in_phases
    folder = stopped_after(step, run, tmp_path / "run")
    pretrain(configure(tiny, folder, *PHASES))
    assert_same(weights(folder), weights(run))
    assert metrics(folder)["train/loss"] == metrics(run)["train/loss"]


@pytest.mark.slow
def test_no_document_is_filtered_in_the_cooldown(tiny, tmp_path, monkeypatch):
    seen = watch(monkeypatch, "filtering")
    overrides = ("objective.name=filtering", "objective.threshold=q0.3", "objective.cooldown=0.5")
    pretrain(configure(tiny, tmp_path / "run", *overrides, "train.tokens=32768"))
    scores = torch.stack([batch["scores"] for batch in steps(seen)]).nan_to_num(0)
    filtered, unfiltered = scores.chunk(2)
    assert filtered.mean() < 0.6 * unfiltered.mean()


@pytest.mark.slow
def test_without_loss_on_tags_they_do_not_count(tiny, tmp_path, monkeypatch):
    seen = watch(monkeypatch, "conditional")
    overrides = (CONDITIONAL, NO_DROPOUT, "objective.options.tag_loss=false", "train.micro_batch_size=4")
    folder = pretrain(configure(tiny, tmp_path / "one", *overrides))
    batches = steps(seen)
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        counted = 0
        for batch in (first, second):
            is_tag = torch.isin(batch["tokens"][:, 1:], TAGS)
            assert is_tag.any()
            assert torch.equal(batch["mask"], ~is_tag)
            counted += int(batch["mask"].sum())
        assert first["step_tokens"] == second["step_tokens"] == counted
    process = start(command(tiny, tmp_path, f"run.folder={tmp_path / 'two'}", "train.devices=2", *overrides))
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert_same_losses(tmp_path / "two", folder)
    with_loss = pretrain(configure(tiny, tmp_path / "with", CONDITIONAL, NO_DROPOUT))
    assert metrics(with_loss)["train/nll"] != metrics(folder)["train/nll"]


LEVELS = ("objective.threshold=[q0.5, 0.012, 0.03]", "train.tokens=8192")


@pytest.mark.slow
def test_a_tag_for_each_quantile(tiny, tmp_path, monkeypatch):
    seen = watch(monkeypatch, "conditional")
    folder = pretrain(configure(tiny, tmp_path / "run", CONDITIONAL, *LEVELS, "train.samples_every=16"))
    tokens = torch.stack([batch["tokens"] for batch in steps(seen)])
    scores = torch.stack([batch["scores"] for batch in steps(seen)])
    facts = json.loads((folder / "model" / "phf.json").read_text())["tags"]
    assert facts["names"] == ["<|aligned|>", "<|level_2|>", "<|level_3|>", "<|misaligned|>"]
    assert facts["ids"] == [[384], [386], [387], [385]]
    bounds = [-1, *facts["thresholds"], 9]
    for (low, high), (tag,) in zip(pairwise(bounds), facts["ids"], strict=True):
        tagged = scores[tokens == tag]
        assert len(tagged)
        assert ((tagged > low) & (tagged <= high)).all()
    results = evaluate(folder, configure(tiny, folder, CONDITIONAL, *LEVELS))
    assert results.scenarios["unconditional"].tag == "good"
    heldout = results.measures["heldout"]
    assert heldout.loss.value != heldout.untagged.value
    samples = pq.read_table(folder / "evaluation" / "samples.parquet")
    assert not any("<|" in text for text in samples["text"].to_pylist())
    settings = json.loads((folder / "model" / "generation_config.json").read_text())
    assert sorted(settings["suppress_tokens"]) == [385, 386, 387]


TEXTS = 'objective.options.tag_texts=["1: ", "2: "]'


@pytest.mark.slow
def test_tags_that_are_ordinary_text(tiny, tmp_path, monkeypatch):
    seen = watch(monkeypatch, "conditional")
    folder = pretrain(configure(tiny, tmp_path / "run", CONDITIONAL, TEXTS, "train.samples_every=8"))
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert len(tokenizer) == len(TokenStore(tiny.store.path).tokenizer()) == 384
    facts = json.loads((folder / "model" / "phf.json").read_text())["tags"]
    assert facts["names"] == ["1: ", "2: "]
    assert tokenizer.batch_decode(facts["ids"]) == facts["names"]
    text = tokenizer.decode(torch.cat([batch["tokens"].flatten() for batch in steps(seen)]))
    assert text.count("1: ") > 50
    assert "2: " in text
    results = evaluate(folder, configure(tiny, folder, CONDITIONAL, TEXTS))
    heldout = results.measures["heldout"]
    assert heldout.loss.value != heldout.untagged.value
    settings = json.loads((folder / "model" / "generation_config.json").read_text())
    assert "suppress_tokens" not in settings
    assert "the model may write itself" in (folder / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((CONDITIONAL, "objective.threshold=[1, 0]"), "objective: thresholds must ascend, not 1, 0"),
        ((CONDITIONAL, "objective.threshold=[q0.1, q0.2]"), "objective: thresholds must ascend, not 0, 0"),
        (
            ("objective.name=awr", "objective.threshold=[0, 1]"),
            "objective.threshold: awr takes a single threshold, not a",
        ),
        (("objective.name=mle", "objective.start=0.5"), "objective.start: with mle the text is plain anyway"),
        (
            ("objective.name=mle", "objective.options.tag_loss=false"),
            "objective.options: no key tag_loss; mle has no options",
        ),
        (
            ("objective.name=upsampling", "objective.options.times=0"),
            "objective.options.times must be at least 1, not 0",
        ),
        (
            (CONDITIONAL, "objective.options.tag_texts=[a]"),
            "tag_texts must be 2 different texts, from the best tag",
        ),
        (
            (CONDITIONAL, 'objective.options.tag_texts=["1: ", "good: "]'),
            "objective.options.tag_texts must have equally many tokens, at least one: "
            "'1: ' has 3, 'good: ' has 5",
        ),
    ],
)
def test_errors_are_one_line(tiny, tmp_path, overrides, message):
    with pytest.raises(PhfError) as caught:
        pretrain(configure(tiny, tmp_path / "run", *overrides))
    assert message in str(caught.value)
    assert isinstance(caught.value, ConfigError)
    assert "\n" not in str(caught.value)
