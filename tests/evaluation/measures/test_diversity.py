import json
import math
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phf.evaluation.measures.diversity import distinct, diversity, entropy, self_bleu


def test_distinct_and_entropy_by_hand():
    texts = [["a", "b", "a", "b"], ["a"]]
    assert distinct(texts, 1) == 2 / 5
    assert distinct(texts, 2) == 2 / 3
    assert distinct(texts, 5) is None
    assert entropy(texts, 2) == pytest.approx(math.log2(3) - 2 / 3)
    assert entropy([["a", "a", "a"]], 1) == 0
    assert entropy([], 1) is None


def test_self_bleu_by_hand():
    texts = [["the", "cat", "sat", "on", noun] for noun in ("mat", "rug")]
    # Precisions 4/5, 3/4, 2/3, 1/2, and 0.1/1 in place of 0/1.
    assert self_bleu(texts) == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2 * 0.1) ** 0.2)
    assert self_bleu([texts[0]] * 3) == pytest.approx(1)
    assert self_bleu([texts[0]]) is None
    assert self_bleu([texts[0], []]) is None
    # A text shorter than the others is penalised: exp(1 - 5/1).
    short = self_bleu([["the"], texts[0]], order=1)
    assert short == pytest.approx((math.exp(-4) + 1 / 5) / 2)


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=8), min_size=2, max_size=6))
def test_self_bleu_is_that_of_the_definition(texts):
    def bleu(text, others):
        log_precision = 0.0
        for n in range(1, 6):
            grams = [Counter(zip(*(t[i:] for i in range(n)), strict=False)) for t in [text, *others]]
            matches = sum(min(c, max(o[g] for o in grams[1:])) for g, c in grams[0].items())
            log_precision += math.log((matches or 0.1) / max(1, grams[0].total())) / 5
        nearest = min((abs(len(o) - len(text)), len(o)) for o in others)[1]
        return math.exp(log_precision) * min(1, math.exp(1 - nearest / len(text)))

    wanted = np.mean([bleu(text, texts[:i] + texts[i + 1 :]) for i, text in enumerate(texts)])
    assert self_bleu(texts) == pytest.approx(wanted)


@given(st.lists(st.text(max_size=20), max_size=4))
def test_diversity_has_no_nan(texts):
    json.dumps(asdict(diversity(texts)), allow_nan=False)


def test_diversity_counts_words_and_marks():
    assert diversity(["x = f(x)"]).distinct_1.value == 5 / 6
