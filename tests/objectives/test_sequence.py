"""Objectives that are not elementwise: a loss on whole sequences, and one on what the trunk returns."""

import math
from functools import partial

import lightning as L
import pytest
import torch
from torch.nn.functional import logsigmoid
from torch.utils.data import DataLoader

from objectives import head as heads
from objectives.optimization import Optimization
from objectives.sequence import SequenceObjective
from objectives.token import TokenObjective
from support.tiny_models import tiny_gpt2

BLOCKS, LENGTH, SEQUENCES = 3, 20, 4


class PreferBetter(SequenceObjective):
    """Bradley and Terry's loss of pairs: the sequence with the lower score should be the likelier one."""

    name = "prefer-better"

    def sequence_loss(self, logp, score, group):
        order = score.argsort()
        order = order[group[order].argsort(stable=True)]
        better, worse = logp[order].view(-1, 2).unbind(1)
        return -logsigmoid(0.05 * (better - worse)).sum()


@pytest.fixture
def batch():
    """Sequences of several lengths, one over two blocks, prompts (-1), padding, and pairs that interlace."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(BLOCKS, LENGTH, dtype=torch.bool)
    mask[2, 15:] = False
    sequences = torch.full((BLOCKS, LENGTH), -1)
    sequences[0, 2:9], sequences[0, 11:], sequences[1, 4:], sequences[2, 3:18] = 0, 1, 2, 3
    sequences[1, :3] = 1
    return {
        "tokens": torch.randint(259, (BLOCKS, LENGTH + 1), generator=generator),
        "scores": torch.zeros(BLOCKS, LENGTH + 1),
        "mask": mask,
        "step_tokens": 2.0,
        "sequences": sequences,
        "sequence_scores": torch.tensor([0.3, 0.1, 0.0, 0.5]),
        "sequence_groups": torch.tensor([0, 1, 0, 1]),
    }


def in_float64(batch):
    """The loss, log-probabilities and gradients from the definition: all logits, plain autograd."""
    model = tiny_gpt2().double().train(False)
    logits = model(batch["tokens"][:, :-1]).logits
    logp = logits.log_softmax(-1).gather(-1, batch["tokens"][:, 1:, None])[..., 0]
    of_sequence = [logp[batch["mask"] & (batch["sequences"] == i)].sum() for i in range(SEQUENCES)]
    loss = 0.0
    for better, worse in ((2, 0), (1, 3)):
        loss = loss - logsigmoid(0.05 * (of_sequence[better] - of_sequence[worse]))
    loss.backward()
    return loss.detach(), logp.detach(), {n: p.grad for n, p in model.named_parameters()}


@pytest.mark.parametrize("head", ["fused", "plain"])
def test_a_loss_on_sequences_agrees_with_float64(batch, head, monkeypatch):
    monkeypatch.setattr(heads, "chunk_size", lambda *_: 7)
    objective = PreferBetter(tiny_gpt2().train(False), head=head)
    loss, logp = objective.losses(batch)
    loss.backward()
    loss64, logp64, grads64 = in_float64(batch)
    torch.testing.assert_close(loss.double(), loss64, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logp.double(), logp64, rtol=1e-4, atol=1e-4)
    for name, parameter in objective.model.named_parameters():
        scale = grads64[name].abs().max().item()
        torch.testing.assert_close(parameter.grad.double(), grads64[name], rtol=1e-3, atol=1e-5 * scale)


def test_the_trunk_runs_once_and_no_matrix_of_logits_is_built(batch, monkeypatch):
    monkeypatch.setattr(heads, "chunk_size", lambda *_: 7)
    rows = []
    product = torch.mm

    def spied(a, b, **options):
        rows.append(len(a))
        return product(a, b, **options)

    monkeypatch.setattr(torch, "mm", spied)
    objective = PreferBetter(tiny_gpt2())
    runs = []
    objective.model.base_model.register_forward_hook(lambda *_: runs.append(1))
    loss, _ = objective.losses(batch)
    loss.backward()
    assert len(runs) == 1
    assert rows
    assert max(rows) <= 7


def test_sequences_without_a_token_are_undecided(batch):
    loss, _ = PreferBetter(tiny_gpt2()).losses(batch | {"sequences": torch.full_like(batch["sequences"], -1)})
    assert loss.item() == pytest.approx(2 * math.log(2))


def test_it_trains_in_the_real_loop(batch):
    """Two micro-batches a step, each with pairs of its own; the model comes to prefer what it should."""
    pairs = [batch | {"step_tokens": 4.0}, batch | {"tokens": batch["tokens"].flip(0), "step_tokens": 4.0}]
    optimization = Optimization(learning_rate=3e-3, total_steps=12)
    objective = PreferBetter(tiny_gpt2(), optimization=optimization)
    before = [objective.losses(one)[0].item() for one in pairs]
    trainer = L.Trainer(
        max_steps=12, accumulate_grad_batches=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(objective, DataLoader(pairs * 12, batch_size=None))
    after = [objective.eval().losses(one)[0].item() for one in pairs]
    assert sum(after) < 0.5 * sum(before)
    assert objective.first_not_finite.tolist() == [objective.NEVER] * 2


class Quiet(TokenObjective):
    """MLE with a penalty on hidden states and on attention to the token before."""

    name = "quiet"
    trunk_outputs = ("hidden_states", "attentions")

    def token_loss(self, logp, score, value):
        return -logp

    def auxiliary_loss(self, trunk, batch):
        counts = batch["mask"][..., None]
        states = sum(state.square().mean(-1, keepdim=True) for state in trunk.hidden_states[1:])
        back = sum(weights.diagonal(-1, 2, 3).square().mean() for weights in trunk.attentions)
        return 0.1 * states.where(counts, 0).sum() + back


def test_an_auxiliary_loss_on_the_trunk_agrees_with_float64(batch):
    network = tiny_gpt2()
    network.set_attn_implementation("eager")  # the others keep no weights
    objective = Quiet(network.train(False))
    loss, _ = objective.losses(batch)
    loss.backward()

    model = tiny_gpt2().double().train(False)
    model.set_attn_implementation("eager")
    output = model(batch["tokens"][:, :-1], output_hidden_states=True, output_attentions=True)
    logp = output.logits.log_softmax(-1).gather(-1, batch["tokens"][:, 1:, None])[..., 0]
    expected = -logp[batch["mask"]].sum()
    for state in output.hidden_states[1:]:
        expected = expected + 0.1 * state.square().mean(-1)[batch["mask"]].sum()
    for weights in output.attentions:
        expected = expected + weights.diagonal(-1, 2, 3).square().mean()
    expected.backward()
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        ours = objective.model.get_parameter(name).grad.double()
        torch.testing.assert_close(
            ours, parameter.grad, rtol=1e-3, atol=1e-5 * parameter.grad.abs().max().item()
        )


def test_without_an_auxiliary_loss_the_trunk_keeps_nothing_more(batch):
    class Plain(Quiet):
        trunk_outputs = ()
        auxiliary_loss = TokenObjective.auxiliary_loss

    trunk = Plain(tiny_gpt2()).trunk(batch)
    assert trunk.hidden_states is None
    assert trunk.attentions is None


def test_the_head_of_sequences_takes_either_head(batch):
    """`sequence_head` on plain tensors, with chunks of any size."""
    generator = torch.Generator().manual_seed(1)
    count, width, vocabulary = 30, 8, 11
    labels = torch.randint(vocabulary, (count,), generator=generator)
    owners = torch.randint(-1, SEQUENCES, (count,), generator=generator)
    mask = torch.rand(count, generator=generator) > 0.2
    found = []
    for head in (heads.plain_head, *(partial(heads.fused_head, chunk_tokens=n) for n in (1, 7, 100))):
        inner = torch.Generator().manual_seed(2)
        hidden = torch.randn(count, width, generator=inner).requires_grad_()
        weight = torch.randn(vocabulary, width, generator=inner).requires_grad_()
        loss, logp = heads.sequence_head(
            head, hidden, weight, labels, lambda logp: (logp - 1).square().sum(),
            sequence_N=owners, num_sequences=SEQUENCES, mask_N=mask,
        )  # fmt: skip
        loss.backward()
        found.append((loss.detach(), logp, hidden.grad, weight.grad))
    for other in found[1:]:
        for ours, theirs in zip(found[0], other, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
