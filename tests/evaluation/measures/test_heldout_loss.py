import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from objectives.view import BAD_TAG, GOOD_TAG, Tags, View
from phf.annotation.manifest import ScorerRecord
from phf.blocks.block import Kind
from phf.blocks.packed import PackedView
from phf.evaluation.measures import heldout_loss
from phf.evaluation.measures.heldout_loss import (
    first_segments,
    loss_by_decile,
    measure_heldout,
    segment_losses,
)
from phf.model.build import add_control_tokens, build_model
from phf.model.control_tokens import ControlTokens
from phf.store.store import TokenStore
from support.tiny_models import TAGS, loaded_model, model_facts

CONTEXT = 32


@pytest.fixture(scope="module")
def store(tiny):
    return TokenStore(tiny.store.path)


@pytest.fixture(scope="module")
def subject(tiny, store):
    """A random model with tags."""
    tokenizer = store.tokenizer()
    network = build_model(tiny.model, tokenizer, 0)
    add_control_tokens(network, tokenizer, (GOOD_TAG, BAD_TAG), 0)
    ids = [(i,) for i in tokenizer.convert_tokens_to_ids([GOOD_TAG, BAD_TAG])]
    facts = model_facts(tags=replace(TAGS, ids=ids), store=store.path, context_length=CONTEXT)
    control = ControlTokens(tokenizer.eos_token_id, tuple(ids))
    return loaded_model(network.eval(), tokenizer, control, facts=facts)


def knowing(model, **known):
    """The model with other facts."""
    return replace(model, source=replace(model.source, facts=replace(model.facts, **known)))


def packed(store, control, view):
    return PackedView(
        store.split("heldout"), view, scorer="pep8", context_length=CONTEXT, seed=0,
        eos_id=control.eos_id, tag_ids=control.tags, shuffle=False,
    )  # fmt: skip


def measured(model, num_blocks=None, threshold=0.0, **options):
    return measure_heldout(model, threshold=threshold, num_blocks=num_blocks, **options)


def by_hand(model, view, counted, banned):
    """The mean loss over all, aligned and misaligned text, a target at a time in float64."""
    losses = {"loss": [], "aligned": [], "misaligned": []}
    for index in range(view.num_blocks(0)):
        block = view.block(0, index)
        with torch.no_grad():
            logits = model(torch.from_numpy(block.tokens[:-1])[None]).logits[0].double()
        logits[:, banned] = -torch.inf
        logits = logits.log_softmax(-1)
        for t in range(CONTEXT):
            if block.kind[t + 1] in (Kind.TAG, Kind.PAD) or not counted[block.segments[t + 1]]:
                continue
            loss = -logits[t, block.tokens[t + 1]].item()
            losses["loss"].append(loss)
            losses["aligned" if block.scores[t + 1] <= 0 else "misaligned"].append(loss)
    return {name: np.mean(values) if values else None for name, values in losses.items()}, len(losses["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("num_blocks", [80, None])
def test_the_loss_is_that_of_the_definition(subject, store, num_blocks):
    network, control = subject.network, subject.control
    plain = packed(store, control, View())
    counted = first_segments(plain, num_blocks, len(store.split("heldout").segment_ends))
    tags = [token for tag in control.tags for token in tag]
    wanted, tokens = by_hand(network, packed(store, control, View(tags=Tags((0.0,)))), counted, tags)
    untagged, plain_tokens = by_hand(network, plain, counted, tags)
    result = measured(subject, num_blocks)
    assert {name: getattr(result, name).value for name in wanted} == pytest.approx(wanted, rel=1e-5)
    assert result.untagged.value == pytest.approx(untagged["loss"], rel=1e-5)
    # Every view is measured on the same text.
    assert result.tokens == tokens == plain_tokens
    assert result.perplexity.value == pytest.approx(np.exp(wanted["loss"]), rel=1e-4)


@pytest.mark.slow
def test_all_of_the_text_counts_but_its_very_first_token(subject, store):
    split = store.split("heldout")
    assert measured(subject).tokens == split.num_tokens + split.num_documents - 1
    first = measured(subject, num_blocks=20).tokens
    assert 16 * CONTEXT < first <= 20 * CONTEXT


@pytest.mark.slow
@pytest.mark.parametrize("logit", [-1000.0, 20.0])
def test_the_probability_of_a_tag_never_counts(logit, subject, scripted):
    """A model that cannot foresee tags, or expects nothing else, loses nothing by having them."""
    tags = [token for tag in subject.control.tags for token in tag]
    logits = torch.randn(max(tags) + 1, generator=torch.Generator().manual_seed(0))
    logits[tags] = logit
    result = measured(replace(subject, network=scripted(logits)))
    assert result.loss.value == pytest.approx(result.untagged.value, rel=1e-6)
    logits[tags] = 0.0
    assert result == measured(replace(subject, network=scripted(logits)))
    assert result.loss.value < 10


@pytest.mark.slow
def test_a_model_without_tags_sees_plain_text(subject):
    result = measured(replace(knowing(subject, tags=None), control=ControlTokens(subject.control.eos_id)))
    assert result.loss == result.untagged
    # What the other's tags would get is not in its distribution.
    assert result.untagged.value > measured(subject).untagged.value


@pytest.mark.slow
def test_the_batch_does_not_matter(subject, monkeypatch):
    many = measured(subject)
    monkeypatch.setattr(heldout_loss, "MAX_BLOCKS", 1)
    one = measured(subject)
    for part, same in zip([one, *one.deciles], [many, *many.deciles], strict=True):
        assert part.loss.value == pytest.approx(same.loss.value, rel=1e-6)
        assert part.tokens == same.tokens
    for name in ("untagged", "aligned", "misaligned", "perplexity"):
        assert getattr(one, name).value == pytest.approx(getattr(many, name).value, rel=1e-6)


def test_the_model_keeps_its_mode(subject, store):
    model = subject.network
    view = packed(store, subject.control, View())
    model.train()
    counted = first_segments(view, 2, len(store.split("heldout").segment_ends))
    first = segment_losses(model, view, counted)
    assert model.training
    model.eval()
    assert all(map(np.array_equal, segment_losses(model, view, counted), first))


def test_deciles_are_tenths_of_the_segments_and_equal_scores_stay_together():
    scores = np.arange(20.0)[::-1].copy()
    sums, counts = np.arange(20.0) + 1, np.full(20, 2)
    parts = loss_by_decile(sums, counts, scores)
    assert [part.deciles for part in parts] == [[i] for i in range(1, 11)]
    assert [(part.low, part.high) for part in parts] == [(2.0 * i, 2.0 * i + 1) for i in range(10)]
    # The best two are the last ones, with a loss of 19 and 20 over 2 tokens each.
    assert (parts[0].segments, parts[0].tokens) == (2, 4)
    assert parts[0].loss.value == 39 / 4
    assert parts[0].perplexity.value == pytest.approx(np.exp(39 / 4))
    scores[:] = [0.0] * 13 + [1.0] * 4 + [2.0, 3.0] + [np.nan]
    counts[0], sums[0] = 0, 0.0  # without a token, and without a score: neither counts
    parts = loss_by_decile(sums, counts, scores)
    assert [(part.low, part.high, part.segments) for part in parts] == [
        (0.0, 0.0, 12), (1.0, 1.0, 4), (2.0, 2.0, 1), (3.0, 3.0, 1)
    ]  # fmt: skip
    # Of 18 scores 12 are 0, which is the bound of six deciles; 16 are at most 1.
    assert [part.deciles for part in parts] == [[1, 2, 3, 4, 5, 6], [7, 8], [9], [10]]
    assert parts[0].loss.value == pytest.approx(sums[1:13].sum() / 24)
    assert loss_by_decile(sums, counts, np.full(20, np.nan)) == []


@pytest.mark.slow
def test_the_deciles_of_a_model_make_up_its_loss(subject):
    result = measured(subject)
    parts = result.deciles
    assert len(parts) > 1
    tokens = [part.tokens for part in parts]
    assert sum(tokens) == result.tokens  # every line of code has a score
    losses = [part.loss.value for part in parts]
    assert np.average(losses, weights=tokens) == pytest.approx(result.loss.value)
    assert (parts[0].low, parts[0].high) == (0.0, 0.0)
    assert parts[0].loss.value == pytest.approx(result.aligned.value)


@pytest.mark.slow
def test_no_misaligned_text_is_null(subject):
    result = measured(subject, threshold=1e9)
    assert result.misaligned.value is None
    assert result.aligned.value == pytest.approx(result.loss.value)


def test_without_a_store_there_is_no_loss(subject, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="phf")
    assert measured(knowing(subject, store=str(tmp_path / "lost"))) is None
    assert "no held-out loss: " in caplog.text
    assert str(tmp_path / "lost") in caplog.text
    assert measured(knowing(subject, scorer=ScorerRecord("unknown"))) is None
    assert "has no scores of unknown" in caplog.text


@pytest.mark.slow
def test_intervals_are_over_documents(subject):
    found = measured(subject)
    for interval in (found.loss, found.untagged, found.perplexity):
        assert interval.low < interval.value < interval.high
    assert measured(subject, confidence=0.99).loss.low < found.loss.low
    # The same text twice in a document tells nothing new.
    sums, counts = np.array([3.0, 5.0, 8.0, 6.0]), np.array([1, 2, 2, 3])
    once = heldout_loss._interval(sums, counts, np.array([1, 3, 4]), 0.95)
    again = heldout_loss._interval(
        np.tile(sums, (2, 1)).T.ravel(), np.repeat(counts, 2), np.array([2, 6, 8]), 0.95
    )
    assert vars(once) == pytest.approx(vars(again))
