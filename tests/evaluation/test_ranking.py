import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from phf.config import EvaluationConfig, RankingConfig
from phf.data.store import TokenStore
from phf.errors import ConfigError, PhfError
from phf.evaluation.generation import ControlTokens
from phf.evaluation.likelihood import Reader
from phf.evaluation.ranking import heldout_pairs, measure_ranking, read_pairs


@pytest.fixture
def reader(model, tokenizer, control):
    return Reader(model, tokenizer, control)


def by_hand(model, given, asked, banned):
    """Log-probability in nats, a token at a time."""
    ids, total = list(given), 0.0
    for token in asked:
        logits = model(torch.tensor([ids])).logits[0, -1].double()
        logits[list(banned)] = -torch.inf
        total += logits.log_softmax(-1)[token].item()
        ids.append(token)
    return total


def test_log_probabilities_are_those_of_the_distribution_that_is_sampled(reader, control):
    rows = [([256], [1, 2, 3]), ([256, 257, 5, 6, 7], [9]), ([256], []), ([256, 257], list(range(40)))]
    banned = [token for tag in control.tags for token in tag]
    found = reader.log_probabilities(rows)
    with torch.no_grad():
        wanted = [by_hand(reader.model, *row, banned) for row in rows]
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)
    assert found.tolist() == pytest.approx([reader.log_probabilities([row])[0] for row in rows], rel=1e-5)
    assert reader.log_probabilities([]).tolist() == []


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_accuracy_counts_pairs_and_ties_are_not_right(scripted, tokenizer, control, tmp_path):
    """A model that gives `a` more than `b`, whatever came before."""
    logits = torch.full((259,), -20.0)
    logits[tokenizer("ab")["input_ids"]] = torch.tensor([2.0, 1.0])
    reader = Reader(scripted(logits), tokenizer, control)
    pairs = write(
        tmp_path / "pairs.jsonl",
        {"prompt": "x", "good": "a", "bad": "b"},
        {"prompt": "", "good": "b", "bad": "a"},
        {"prompt": "xyz" * 100, "good": "a", "bad": "a"},
        {"prompt": "x", "good": "aaaaaaaa", "bad": "b"},  # less probable as it is longer
        {"prompt": "x", "good": "a" * 1000, "bad": "b"},  # longer than the context
    )
    measured = measure_ranking(reader, {}, EvaluationConfig(), RankingConfig(pairs))
    assert (measured["pairs"], measured["too_long"], measured["source"]) == (4, 1, pairs)
    for tag in ("good_tag", "no_tag"):
        assert measured[tag]["plain"]["value"] == 0.25
        assert measured[tag]["length_normalized"]["value"] == 0.5
        assert 0 <= measured[tag]["plain"]["low"] < 0.25 < measured[tag]["plain"]["high"] <= 1
    few = measure_ranking(reader, {}, EvaluationConfig(), RankingConfig(pairs, max_pairs=2))
    assert few["pairs"] == 2
    plain = replace(reader, control=ControlTokens(control.eos_id))
    assert measure_ranking(plain, {}, EvaluationConfig(), RankingConfig(pairs))["good_tag"] is None


def test_the_good_tag_is_given(reader, tmp_path):
    """A random model gives other probabilities behind a tag; what is measured are those."""
    rows = [{"prompt": f"p{i}", "good": f"g{i * 7}", "bad": f"b{i * 5}"} for i in range(30)]
    pairs = write(tmp_path / "pairs.jsonl", *rows)
    measured = measure_ranking(reader, {}, EvaluationConfig(), RankingConfig(pairs))
    wanted = {}
    for tag in ("good", "none"):
        given = [reader.prefix(tag) + reader.encode(row["prompt"]) for row in rows]
        good, bad = (
            reader.log_probabilities([(g, reader.encode(r[side])) for g, r in zip(given, rows, strict=True)])
            for side in ("good", "bad")
        )
        wanted[tag] = float((good > bad).mean())
    assert reader.prefix("good") == [256, 257]
    assert measured["good_tag"]["plain"]["value"] == pytest.approx(wanted["good"])
    assert measured["no_tag"]["plain"]["value"] == pytest.approx(wanted["none"])


def test_pairs_of_held_out_text(tiny):
    store = TokenStore(tiny.store.path)
    options = {"scorer": "pep8", "threshold": 0.0, "max_prompt_tokens": 50, "seed": 0}
    pairs = heldout_pairs(store, max_pairs=10**6, **options)
    split, tokenizer = store.split("heldout"), store.tokenizer()
    tokens = np.asarray(split.tokens).tolist()
    scores, ends = split.scores("pep8"), split.segment_ends.tolist()
    starts = [0, *ends]
    first_of = {0, *split.document_ends.tolist()}
    good_first = 0
    for pair in pairs:
        size = len(pair.prompt)
        assert tokenizer.decode(pair.good).strip()
        assert tokenizer.decode(pair.bad).strip()
        assert size <= 50
        # They stand in the corpus one after the other behind this prompt, in one of both orders.
        places = [
            (i, order)
            for i in range(len(ends) - 1)
            for order, both in enumerate(((pair.good, pair.bad), (pair.bad, pair.good)))
            if [tokens[starts[i] : ends[i]], tokens[ends[i] : ends[i + 1]]] == list(both)
            and tokens[starts[i] - size : starts[i]] == pair.prompt
            and i + 1 not in first_of
            and (scores[i] > 0, scores[i + 1] > 0) == ((False, True), (True, False))[order]
        ]
        assert places
        good_first += places[0][1] == 0
    assert len(pairs) >= 20
    assert good_first == len(pairs) / 2
    some = heldout_pairs(store, max_pairs=10, **options)
    assert len(some) == 10
    assert some == heldout_pairs(store, max_pairs=10, **options)
    with pytest.raises(PhfError, match=r"no neighbours with scores of pep8 on both sides of 1e\+09"):
        heldout_pairs(store, max_pairs=10, **options | {"threshold": 1e9})


def test_what_is_no_pair_is_one_line(tmp_path, reader, caplog):
    with pytest.raises(ConfigError, match=r"evaluation\.ranking\.pairs: .*lost.jsonl cannot be read"):
        list(read_pairs(str(tmp_path / "lost.jsonl")))
    for bad in ({"prompt": "a", "good": "b"}, {"prompt": "a", "good": "", "bad": "b"}, ["a"], "text"):
        path = write(tmp_path / "bad.jsonl", {"prompt": "", "good": "a", "bad": "b"}, bad)
        with pytest.raises(PhfError, match=r"bad\.jsonl, line 2: no pair; each line must look like"):
            list(read_pairs(path))
    caplog.set_level(logging.INFO, logger="phf")
    assert measure_ranking(reader, {}, EvaluationConfig(), RankingConfig()) is None
    assert "no ranking accuracy: the model names no token store" in caplog.text
    lost = {"store": str(tmp_path / "lost"), "scorer": {"name": "pep8"}}
    assert measure_ranking(reader, lost, EvaluationConfig(), RankingConfig()) is None
    assert "no ranking accuracy: no token store in" in caplog.text
