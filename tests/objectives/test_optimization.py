import math

import pytest
import torch
from torch import nn

from objectives.optimization import Optimization


def course(**options):
    optimization = Optimization(total_steps=100, **options)
    return [optimization.factor(step) for step in range(101)]


def test_warm_up_is_linear_and_reaches_the_peak():
    factors = course(schedule="constant", warmup_steps=10)
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert set(factors[10:]) == {1.0}


def test_linear_falls_to_the_minimum():
    factors = course(schedule="linear", warmup_steps=20, minimum=0.1)
    assert factors[20] == 1.0
    assert factors[60] == pytest.approx(0.55)
    assert factors[100] == pytest.approx(0.1)


def test_cosine():
    factors = course(schedule="cosine", warmup_steps=0)
    assert factors[0] == 1.0
    assert factors[25] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert factors[100] == pytest.approx(0.0)


def test_wsd_is_level_and_then_falls():
    factors = course(schedule="wsd", warmup_steps=10, decay_steps=20)
    assert set(factors[10:81]) == {1.0}
    assert factors[90] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("shape", "left"),
    [("linear", 0.75), ("cosine", (2 + math.sqrt(2)) / 4), ("sqrt", 0.5), ("square", 0.5625)],
)
def test_wsd_falls_along_any_shape(shape, left):
    factors = course(schedule="wsd", decay_steps=20, decay_shape=shape, minimum=0.2)
    assert factors[80] == 1.0
    assert factors[85] == pytest.approx(0.2 + 0.8 * left)  # a quarter of the fall is done
    assert factors[100] == pytest.approx(0.2)


def test_weight_decay_spares_embeddings_and_a_head_that_is_tied_to_them():
    embedding, head, inner = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False), nn.Linear(3, 3, bias=False)
    head.weight = embedding.weight
    module = nn.Sequential(embedding, inner, head)
    optimizer = Optimization(total_steps=1, decay_embeddings=False).build(module, fused=False)
    decayed, spared = (group["params"] for group in optimizer.param_groups)
    assert [id(p) for p in decayed] == [id(inner.weight)]
    assert [id(p) for p in spared] == [id(embedding.weight)]


def test_weight_decay_spares_biases_and_norms():
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Embedding(5, 3))
    optimizer = Optimization(total_steps=1, weight_decay=0.1).build(module, fused=False)
    decayed, spared = optimizer.param_groups
    assert [p.shape for p in decayed["params"]] == [torch.Size([4, 3]), torch.Size([5, 3])]
    assert decayed["weight_decay"] == 0.1
    assert spared["weight_decay"] == 0.0
    assert len(spared["params"]) == 3
