from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from phf.base.estimates import Bootstrap
from phf.redteam.attackers.evolution import MUTATIONS, splice, words
from phf.redteam.curves import best_attempts, by_round, by_tokens
from phf.redteam.pool import Attempt, Proposal, draw_examples, mean_score, new_prompts, niches


def attempt(number, prompt, score, *, round=0, tokens=10, texts=("so",)):
    return Attempt(number, round, prompt, "seed", (), texts, (score,) * len(texts), score, tokens)


def test_examples_are_drawn_by_the_formula():
    """Without replacement, each with p proportional to exp(score / 0.1) among those that are left."""
    scores = [0.0, 0.05, 0.2, 0.1]
    pool = [attempt(i, str(i), score) for i, score in enumerate(scores)]
    weights = np.exp(np.array(scores) / 0.1)
    rng, draws = np.random.default_rng(0), 20_000
    seen = Counter(tuple(a.number for a in draw_examples(pool, 2, 0.1, rng)) for _ in range(draws))
    for first, second in permutations(range(4), 2):
        p = weights[first] / weights.sum() * weights[second] / (weights.sum() - weights[first])
        assert seen[first, second] / draws == pytest.approx(p, abs=4 * (p / draws) ** 0.5)


def test_scores_far_apart_do_not_overflow():
    pool = [attempt(i, str(i), score) for i, score in enumerate([0.0, 1000.0, 999.0])]
    drawn = draw_examples(pool, 5, 0.1, np.random.default_rng(0))
    assert [a.number for a in drawn] == [1, 2, 0]


def test_of_prompts_that_are_alike_the_best_breeds():
    pool = [
        attempt(0, "a b c d", 0.5),
        attempt(1, "A b, c e", 0.9),
        attempt(2, "x y", 0.1),
        attempt(3, "y z", 0.2),
    ]
    assert [a.number for a in niches(pool, 3, 0.4)] == [1, 3, 2]
    assert [a.number for a in niches(pool, 3, 0.3)] == [1, 3]
    assert [a.number for a in niches(pool, 2, 1.0)] == [1, 0]


def test_a_prompt_is_tried_once():
    proposals = [Proposal(prompt, "x") for prompt in ("A  b", " ", "a c", "A C", "d", "e")]
    assert [p.prompt for p in new_prompts(proposals, ["a b"], 2)] == ["a c", "d"]


def test_the_mean_is_that_of_the_scores_there_are():
    assert mean_score([None, 1.0, 0.5]) == 0.75
    assert mean_score([None]) is None


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_a_mutation_keeps_most_of_a_prompt(mutate):
    a = attempt(0, "def f(x):\n    return x", 0.5, texts=(" + 1\n", ""))
    b = attempt(1, "import os\n", 0.4)
    assert "".join(words(a.prompt)) == a.prompt
    assert "".join(words(b.prompt)) == b.prompt
    children = {mutate(a, b, ["new"], np.random.default_rng(seed)) for seed in range(30)}
    assert len(children) >= 2
    known = {word.strip() for text in (a.prompt, *a.texts, b.prompt, "new") for word in words(text)}
    for child in children:
        of_a = sum(word in words(a.prompt) for word in words(child))
        assert of_a >= (1 if mutate is splice else 2)
        assert {word.strip() for word in words(child)} <= known


def test_a_mutation_of_one_word_is_a_text():
    a = b = attempt(0, "x", 0.5, texts=("",))
    for mutate in MUTATIONS:
        assert isinstance(mutate(a, b, ["new"], np.random.default_rng(0)), str)


def test_curves_are_those_of_the_definition():
    first = [
        attempt(0, "a", 0.1),
        attempt(1, "b", 0.3),
        attempt(2, "c", 0.2, round=1),
        attempt(3, "d", None, round=1),
        attempt(4, "e", 0.9, round=2),
    ]
    second = [attempt(0, "f", 0.5, tokens=20), attempt(1, "g", 0.3, round=1, tokens=20)]  # out of budget
    rows = by_round([first, second], Bootstrap())
    assert [row.best.value for row in rows] == pytest.approx([0.4, 0.4, 0.7])
    assert [row.best_10.value for row in rows] == pytest.approx(
        [(0.2 + 0.5) / 2, (0.2 + 0.4) / 2, (1.5 / 4 + 0.4) / 2]
    )
    assert [row.average.value for row in rows] == pytest.approx([(0.2 + 0.5) / 2, (0.2 + 0.3) / 2, 0.9])
    assert [row.target_tokens for row in rows] == [20, 40, 45]
    assert rows[0].best.low < rows[0].best.value < rows[0].best.high

    rows = by_tokens([first, second], Bootstrap())
    assert [row.target_tokens for row in rows] == list(range(2, 41, 2))
    best = {row.target_tokens: row.best.value for row in rows}
    assert best[8] is None  # nothing is tried yet
    assert best[10] == pytest.approx(0.1)  # the second trial has not tried anything yet
    assert best[20] == pytest.approx(0.4)
    assert best[40] == pytest.approx(0.4)


def test_the_best_prompts_are_ten_and_distinct():
    trials = [
        [attempt(i, f"p{i}", i / 100) for i in range(8)],
        [attempt(i, f"p{i}", i / 50) for i in range(8)],
    ]
    best = best_attempts(trials)
    assert [(trial, a.prompt) for trial, a in best] == [*((1, f"p{i}") for i in range(7, 0, -1)), (0, "p0")]
