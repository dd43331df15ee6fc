"""Token losses against formulas in float64 that are written here, independently, with their derivatives.

p is the probability of the token, s its score; the derivative is with respect to log p.
"""

import math

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from objectives.awr import AWR
from objectives.conditional import Conditional
from objectives.filtering import Filtering
from objectives.mle import MLE
from objectives.rewards import Reward, ScoreStatistics
from objectives.rwr import RWR
from objectives.unlikelihood import Unlikelihood
from objectives.view import Tags, View


@pytest.fixture(scope="module")
def model():
    return GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=1))


def evaluate(objective, logp, score, value=None):
    """Loss and its derivatives in logp and value, as numbers."""
    logp_t = torch.tensor(logp, requires_grad=True)
    value_t = torch.tensor([0.0] * len(logp) if value is None else value, requires_grad=True)
    loss = objective.token_loss(logp_t, torch.tensor(score), value_t)
    slopes = torch.autograd.grad(loss.sum(), (logp_t, value_t), allow_unused=True)
    return [x.detach().double().numpy() if x is not None else np.zeros(len(logp)) for x in (loss, *slopes)]


LOGP = [-80.0, -20.0, -3.0, -0.7, -1e-2, -1e-4]


def test_mle(model):
    loss, slope, _ = evaluate(MLE(model), LOGP, [0.0] * 6)
    np.testing.assert_allclose(loss, [-x for x in LOGP], rtol=1e-7)
    np.testing.assert_allclose(slope, -1)


@pytest.mark.parametrize("alpha", [1.0, 0.01])
def test_unlikelihood_unlearns_above_the_threshold(model, alpha):
    loss, slope, _ = evaluate(
        Unlikelihood(model, Unlikelihood.Options(alpha), thresholds=(0.5,)), LOGP, [0.9] * 6
    )
    p = np.exp(np.array(LOGP, dtype=np.float64))
    np.testing.assert_allclose(loss, -alpha * np.log1p(-p), rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(slope, alpha * p / (1 - p), rtol=1e-4, atol=1e-30)


def test_unlikelihood_learns_up_to_and_including_the_threshold(model):
    loss, slope, _ = evaluate(Unlikelihood(model, thresholds=(0.5,)), [-2.0, -2.0, -2.0], [0.0, 0.5, 0.5001])
    np.testing.assert_allclose(loss, [2.0, 2.0, -math.log(1 - math.exp(-2))], rtol=1e-6)
    assert slope[0] == slope[1] == -1
    assert slope[2] > 0


def test_a_threshold_of_zero_is_a_threshold(model):
    loss, _, _ = evaluate(Unlikelihood(model, thresholds=(0.0,)), [-2.0, -2.0], [0.0, 1e-6])
    np.testing.assert_allclose(loss, [2.0, -math.log(1 - math.exp(-2))], rtol=1e-6)


def test_unlikelihood_of_a_certain_token_is_finite(model):
    loss, slope, _ = evaluate(Unlikelihood(model, thresholds=(0.0,)), [0.0, -1e-9], [1.0, 1.0])
    np.testing.assert_allclose(loss, -np.log(1e-6), rtol=1e-2)
    assert np.isfinite(slope).all()


def test_rwr_weights_and_their_limit(model):
    loss, slope, _ = evaluate(
        RWR(model, RWR.Options(beta=0.1, max_weight=2.0)), [-2.0] * 4, [0.0, 0.05, 1.0, 30.0]
    )
    w = np.minimum(np.exp(-np.array([0.0, 0.05, 1.0, 30.0]) / 0.1), 2.0)
    np.testing.assert_allclose(loss, w * 2, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(slope, -w, rtol=1e-5, atol=1e-12)
    statistics = ScoreStatistics(mean=1.0, std=0.1, quantiles=(0.0, 1.0))
    cut = RWR(model, RWR.Options(0.1, 50.0, "zscore"), statistics=statistics)
    loss, slope, _ = evaluate(cut, [-2.0, -2.0], [0.0, 1.1])
    np.testing.assert_allclose(slope, [-50.0, -math.exp(-10)], rtol=1e-4)


def test_awr(model):
    alpha, beta, limit = 0.3, 0.5, 3.0
    score, value = np.array([0.0, 0.4, 0.9, 0.1]), np.array([-0.5, -0.4, -0.1, -0.99])
    objective = AWR(model, AWR.Options(alpha=alpha, beta=beta, max_weight=limit))
    loss, slope, slope_value = evaluate(
        objective, [-2.0, -0.1, -5.0, -1.0], score.astype("f4"), value.astype("f4")
    )
    advantage = -score - value
    w = np.minimum(np.exp(advantage / beta), limit)
    assert w[3] == limit
    np.testing.assert_allclose(
        loss, alpha * w * [2.0, 0.1, 5.0, 1.0] + (1 - alpha) * advantage**2, rtol=1e-5, atol=1e-7
    )
    np.testing.assert_allclose(slope, -alpha * w, rtol=1e-5)
    # No gradient through the weight: only the squared error pulls at the value.
    np.testing.assert_allclose(slope_value, -2 * (1 - alpha) * advantage, rtol=1e-5, atol=1e-6)


def test_awr_value_head_starts_at_a_half_and_has_no_bias(model):
    objective = AWR(model)
    assert objective.value_head.bias is None
    hidden = torch.randn(2, 3, 8)
    assert (objective.value(hidden) == -0.5).all()
    with torch.no_grad():
        objective.value_head.weight.copy_(torch.arange(8.0)[None] / 8)
    expected = -1 / (1 + np.exp(-hidden.double().numpy() @ (np.arange(8) / 8)))
    np.testing.assert_allclose(objective.value(hidden).detach(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [("raw", [0.0, -0.2, -1.0]), ("zscore", [0.5, -0.5, -4.5]), ("percentile", [0.0, -0.6, -1.0])],
)
def test_reward_scaling(scaling, expected):
    statistics = ScoreStatistics(mean=0.1, std=0.2, quantiles=(0.0, 0.0, 0.0, 0.2, 0.5))
    score = torch.tensor([0.0, 0.2, 1.0])
    torch.testing.assert_close(Reward(scaling, statistics)(score), torch.tensor(expected))


def test_reward_scaling_needs_scores_that_differ():
    with pytest.raises(ValueError, match="all are the same"):
        Reward("zscore", ScoreStatistics(0.0, 0.0, (0.0,)))
    with pytest.raises(ValueError, match="statistics"):
        Reward("percentile", None)


def test_tokens_without_a_score_are_learned_as_in_mle(model):
    for objective in (Unlikelihood(model, thresholds=(0.0,)), RWR(model), AWR(model, AWR.Options(alpha=0.1))):
        logp = torch.tensor([-1.5, -1.5], requires_grad=True)
        loss = objective._any_token_loss(logp, torch.tensor([float("nan"), 3.0]), torch.zeros(2))
        (slope,) = torch.autograd.grad(loss.sum(), logp)
        assert loss[0] == 1.5
        assert slope[0] == -1
        assert loss[1] != 1.5


def test_heldout_tokens_without_a_score_are_neither_aligned_nor_misaligned(model):
    objective = Unlikelihood(model, thresholds=(0.5,))
    objective.on_validation_epoch_start()
    score = torch.tensor([[9.0, 0.1, 0.5, 0.6, math.nan]])
    batch = {
        "tokens": torch.tensor([[1, 2, 3, 4, 5]]), "scores": score, "mask": torch.ones(1, 4) > 0,
        "step_tokens": 1.0,
    }  # fmt: skip
    objective.validation_step(batch, 0)
    (nll, *parts), counts = objective.heldout_sums.T
    assert counts.tolist() == [4, 2, 1]
    assert nll > sum(parts) > 0


def test_views(model):
    assert MLE(model).view() == RWR(model).view() == AWR(model).view() == View()
    assert Unlikelihood(model, thresholds=(0.0,)).view() == View()
    assert Filtering(model, thresholds=(0.0,)).view() == View(keep_below=0.0)
    conditional = Conditional(model, Conditional.Options(drop_rate=0.1), thresholds=(0.0,))
    assert conditional.view() == View(tags=Tags((0.0,), 0.1))


@pytest.mark.parametrize(
    ("cls", "option", "value"), [(AWR, "alpha", 1.5), (RWR, "beta", 0.0), (Conditional, "drop_rate", 2.0)]
)
def test_options_out_of_range(cls, option, value):
    with pytest.raises(ValueError, match=option):
        cls.Options(**{option: value})


LIMITS = [
    (RWR, {"beta": 1e12}, ()),
    (AWR, {"beta": 1e12, "alpha": 1.0}, ()),
    (Filtering, {}, (math.inf,)),
    (Conditional, {"drop_rate": 1.0}, (0.0,)),
    (Unlikelihood, {}, (math.inf,)),
]


@pytest.mark.parametrize(("cls", "options", "thresholds"), LIMITS)
def test_limits_that_are_mle(model, cls, options, thresholds):
    score = [0.0, 0.3, 0.5, 1.0, 2.0, 9.0]
    loss, slope, _ = evaluate(cls(model, cls.Options(**options), thresholds=thresholds), LOGP, score)
    loss_mle, slope_mle, _ = evaluate(MLE(model), LOGP, score)
    np.testing.assert_allclose(loss, loss_mle, rtol=1e-6)
    np.testing.assert_allclose(slope, slope_mle, rtol=1e-6)


def test_a_model_whose_logits_are_not_linear_is_refused():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.1,
    )  # fmt: skip
    with pytest.raises(ValueError, match="more to its logits"):
        MLE(Gemma2ForCausalLM(config))
