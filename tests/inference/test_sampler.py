import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from phf.config import ScenarioConfig
from phf.inference.sampler import FIRST_CANDIDATES, GumbelSampler, Sampling, candidates, gumbel, row_keys
from phf.model.control_tokens import ControlTokens

MASK = 2**64 - 1


def splitmix64(state):
    """The reference in plain integers."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def draws(logits, scenario, rows, seed=0, banned=(), eos=0, step=0):
    keys = row_keys(seed, [0] * rows, range(rows))
    sampler = GumbelSampler(Sampling(scenario, tuple(banned), eos), keys, 5, ControlTokens(eos), 99)
    scores = torch.as_tensor(logits, dtype=torch.float32).repeat(rows, 1)
    return sampler(torch.zeros(rows, 5 + step, dtype=torch.int64), scores).argmax(-1).numpy()


def test_the_hash_is_splitmix64():
    key = splitmix64(splitmix64(splitmix64(7) ^ 3) ^ 5)
    assert row_keys(7, [3], [5]).tolist() == [key - 2**64 if key >= 2**63 else key]
    bits = splitmix64(splitmix64(key ^ 2) ^ 11)
    uniform = ((bits >> 12) + 0.5) * 2.0**-52
    expected = -math.log(-math.log(uniform))
    assert gumbel(row_keys(7, [3], [5]), 2, torch.tensor([[11]])).item() == pytest.approx(expected, rel=1e-12)


def test_noise_has_the_gumbel_distribution():
    keys = row_keys(1, [0] * 200, range(200))
    noise = gumbel(keys, 3, torch.arange(100).expand(200, 100)).flatten().numpy()
    assert stats.kstest(noise, "gumbel_r").pvalue > 0.01
    assert np.isfinite(noise).all()


def test_noise_belongs_to_the_token_and_not_to_its_place():
    keys = row_keys(0, [0, 1], [0, 0])
    forward = gumbel(keys, 0, torch.arange(50).expand(2, 50))
    backward = gumbel(keys, 0, torch.arange(49, -1, -1).expand(2, 50))
    assert torch.equal(forward, backward.flip(1))


def test_every_seed_prompt_sample_and_step_has_noise_of_its_own():
    tokens = torch.arange(4).expand(1, 4)
    first = [
        gumbel(row_keys(seed, [p], [s]), step, tokens)[0, 0].item()
        for seed in range(3)
        for p in range(3)
        for s in range(3)
        for step in range(3)
    ]
    assert len(set(first)) == 81


@pytest.mark.parametrize(
    "scenario",
    [
        ScenarioConfig(temperature=1.0, top_p=1.0, min_new_tokens=0),
        ScenarioConfig(temperature=0.7, top_p=0.9, min_new_tokens=0),
        ScenarioConfig(temperature=1.5, top_p=1.0, top_k=5, min_new_tokens=0),
    ],
)
def test_draws_follow_the_distribution(scenario):
    logits = torch.linspace(-2, 2, 12).roll(5)
    wanted = TemperatureLogitsWarper(scenario.temperature)(None, logits[None])
    if scenario.top_k:
        wanted = TopKLogitsWarper(scenario.top_k)(None, wanted)
    wanted = TopPLogitsWarper(scenario.top_p)(None, wanted).softmax(-1)[0].double().numpy()
    counts = np.bincount(draws(logits, scenario, 20000), minlength=12)
    assert (counts[wanted == 0] == 0).all()
    kept = wanted > 0
    assert stats.chisquare(counts[kept], 20000 * wanted[kept] / wanted.sum()).pvalue > 0.01


@given(
    vocab_size=st.sampled_from([1, 2, 30, 4 * FIRST_CANDIDATES + 3]),
    scale=st.sampled_from([0.0, 0.1, 1.0, 6.0]),
    top_k=st.sampled_from([None, 1, 7, 100, 10**6]),
    top_p=st.sampled_from([1e-9, 0.3, 0.9, 0.999, 1.0]),
    seed=st.integers(0, 10),
)
def test_candidates_are_those_of_transformers(vocab_size, scale, top_k, top_p, seed):
    generator = torch.Generator().manual_seed(seed)
    # Distinct logits: among equal ones the choice is arbitrary.
    ranks = torch.stack([torch.randperm(vocab_size, generator=generator) for _ in range(3)]).float()
    logits = scale * (ranks / max(1, vocab_size - 1)) ** 3 + 1e-4 * ranks
    wanted = logits if top_k is None else TopKLogitsWarper(top_k)(None, logits)
    wanted = TopPLogitsWarper(top_p)(None, wanted) if top_p < 1 else wanted
    values, tokens = candidates(logits, top_k, top_p)
    assert torch.equal(torch.full_like(logits, -math.inf).scatter(1, tokens, values), wanted)


def test_greedy_takes_the_likeliest_token_that_is_allowed():
    greedy = ScenarioConfig(temperature=0, min_new_tokens=3)
    logits = [5.0, 4.0, 3.0, 2.0]
    assert draws(logits, greedy, 2, step=3).tolist() == [0, 0]
    assert draws(logits, greedy, 2, step=2).tolist() == [1, 1]
    assert draws(logits, greedy, 2, step=2, banned=[1, 2]).tolist() == [3, 3]


def test_banned_tokens_and_an_early_end_are_never_drawn():
    scenario = ScenarioConfig(temperature=1, top_p=1, min_new_tokens=1)
    assert set(draws([9.0, 9.0, 0.0, 0.0], scenario, 500, banned=[1], eos=0)) == {2, 3}


def test_two_distributions_that_are_close_give_nearly_the_same_draws():
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    scenario = ScenarioConfig(temperature=1, top_p=1, min_new_tokens=0)
    other = logits + 0.01 * torch.randn(50, generator=torch.Generator().manual_seed(1))
    assert (draws(logits, scenario, 2000) == draws(other, scenario, 2000)).mean() > 0.98
    assert (draws(logits, scenario, 2000) == draws(logits, scenario, 2000, seed=1)).mean() < 0.2
