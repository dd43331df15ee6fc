import json
import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from phf.base.errors import ConfigError, PhfError
from phf.config import EvaluationConfig
from phf.evaluation.measures import ranking
from phf.evaluation.measures.base import Evaluated
from phf.evaluation.measures.ranking import Ranking, RankingOptions, heldout_pairs, read_pairs
from phf.inference.language_model import LanguageModel
from phf.model.control_tokens import ControlTokens
from phf.store.store import TokenStore
from support.tiny_models import loaded_model, model_facts


@pytest.fixture
def subject(model, tokenizer, control):
    return loaded_model(model, tokenizer, control)


def measure_ranking(model, *options, **named):
    evaluated = Evaluated(model, EvaluationConfig(), Path())
    return Ranking(RankingOptions(*options, **named)).measure(evaluated)


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_accuracy_counts_pairs_and_ties_are_not_right(scripted, tokenizer, control, tmp_path):
    """A model that gives `a` more than `b`, whatever came before."""
    logits = torch.full((259,), -20.0)
    logits[tokenizer("ab")["input_ids"]] = torch.tensor([2.0, 1.0])
    subject = loaded_model(scripted(logits), tokenizer, control)
    pairs = write(
        tmp_path / "pairs.jsonl",
        {"prompt": "x", "good": "a", "bad": "b"},
        {"prompt": "", "good": "b", "bad": "a"},
        {"prompt": "xyz" * 100, "good": "a", "bad": "a"},
        {"prompt": "x", "good": "aaaaaaaa", "bad": "b"},  # less probable as it is longer
        {"prompt": "x", "good": "a" * 1000, "bad": "b"},  # longer than the context
    )
    measured = measure_ranking(subject, pairs)
    assert (measured.pairs, measured.too_long, measured.source) == (4, 1, pairs)
    for accuracy in (measured.good_tag, measured.no_tag):
        assert accuracy.plain.value == 0.25
        assert accuracy.length_normalized.value == 0.5
        assert 0 <= accuracy.plain.low < 0.25 < accuracy.plain.high <= 1
    assert measure_ranking(subject, pairs, max_pairs=4).pairs == 4
    plain = replace(subject, control=ControlTokens(control.eos_id))
    assert measure_ranking(plain, pairs).good_tag is None


def test_the_good_tag_is_given(subject, tmp_path):
    """A random model gives other probabilities behind a tag; what is measured are those."""
    rows = [{"prompt": f"p{i}", "good": f"g{i * 7}", "bad": f"b{i * 5}"} for i in range(30)]
    pairs = write(tmp_path / "pairs.jsonl", *rows)
    measured = measure_ranking(subject, pairs)
    wanted = {}
    for tag in ("good", "none"):
        good, bad = (
            subject.log_probabilities(
                [subject.row(tag, subject.encode(row["prompt"]), subject.encode(row[side])) for row in rows]
            )
            for side in ("good", "bad")
        )
        wanted[tag] = float((good > bad).mean())
    assert measured.good_tag.plain.value == pytest.approx(wanted["good"])
    assert measured.no_tag.plain.value == pytest.approx(wanted["none"])


def test_a_prompt_that_is_too_long_loses_its_first_segments(
    scripted, tokenizer, control, tmp_path, monkeypatch
):
    subject = loaded_model(scripted(torch.zeros(259)), tokenizer, control, segment=lambda text: text.split())
    seen = []
    monkeypatch.setattr(
        LanguageModel,
        "log_probabilities",
        lambda self, rows, progress: (seen.extend(rows), np.zeros(len(rows)))[1],
    )
    pairs = write(tmp_path / "pairs.jsonl", {"prompt": "aaaa " * 30, "good": "b" * 8, "bad": "b" * 5})
    measure_ranking(subject, pairs)
    # Of 64 tokens 1 opens the document, 9 are for the longer end and its tag: 10 words of 4, each with a tag.
    sizes = [1 + 4 * 10 + 8, 1 + 4 * 10 + 5, 1 + 5 * 10 + 9, 1 + 5 * 10 + 6]  # without the tag, and with it
    assert [len(row.ids) for row in seen] == sizes


def test_pairs_of_held_out_text(tiny, monkeypatch):
    monkeypatch.setattr(ranking, "MAX_SEGMENTS", 10**6)
    store = TokenStore(tiny.store.path)
    options = {"scorer": "pep8", "threshold": 0.0, "seed": 0}
    pairs = heldout_pairs(store, max_pairs=10**6, **options)
    split, tokenizer = store.split("heldout"), store.tokenizer()
    scores = split.scores("pep8")
    ends = split.segment_ends.tolist()
    segments = [
        np.asarray(split.tokens[start:end]).tolist() for start, end in zip([0, *ends], ends, strict=False)
    ]
    kinds = Counter()
    for pair in pairs:
        (good,), (bad,) = pair.good, pair.bad
        assert tokenizer.decode(good).strip()
        assert tokenizer.decode(bad).strip()
        # They stand in their document one after the other behind the prompt, in one of both orders.
        first, last = [0, *split.document_ends.tolist()][pair.group : pair.group + 2]
        at = first + len(pair.prompt)
        assert pair.prompt == segments[first:at]
        assert at + 1 < last
        good_first = segments[at : at + 2] == [good, bad] and scores[at] <= 0 < scores[at + 1]
        assert good_first or (segments[at : at + 2] == [bad, good] and scores[at] > 0 >= scores[at + 1])
        kinds[good_first, len(good) > len(bad)] += 1
        assert len(good) != len(bad)
    assert len(pairs) >= 8
    assert set(kinds.values()) == {len(pairs) / 4}
    some = heldout_pairs(store, max_pairs=8, **options)
    assert len(some) == 8
    assert some == heldout_pairs(store, max_pairs=8, **options)
    with pytest.raises(
        PhfError, match=r"lacks neighbouring segments with scores of pep8 on both sides of 1e\+09"
    ):
        heldout_pairs(store, max_pairs=10, **options | {"threshold": 1e9})


def test_what_is_no_pair_is_one_line(tmp_path):
    with pytest.raises(
        ConfigError, match=r"evaluation\.measures\.ranking\.pairs: .*lost.jsonl cannot be read"
    ):
        list(read_pairs(str(tmp_path / "lost.jsonl")))
    for bad in ({"prompt": "a", "good": "b"}, {"prompt": "a", "good": "", "bad": "b"}, ["a"], "text"):
        path = write(tmp_path / "bad.jsonl", {"prompt": "", "good": "a", "bad": "b"}, bad)
        with pytest.raises(PhfError, match=r"bad\.jsonl, line 2: not a pair; each line must look like"):
            list(read_pairs(path))


def test_without_a_store_there_are_no_pairs(tmp_path, subject, caplog):
    caplog.set_level(logging.INFO, logger="phf")
    assert measure_ranking(subject) is None
    assert "no ranking accuracy: the model names no token store" in caplog.text
    facts = model_facts(store=str(tmp_path / "lost"))
    assert (
        measure_ranking(loaded_model(subject.network, subject.tokenizer, subject.control, facts=facts))
        is None
    )
    assert "no ranking accuracy: no token store in" in caplog.text
