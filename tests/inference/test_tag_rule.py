"""The rule of tags, against probabilities computed by hand."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM

from phf.config import ScenarioConfig
from phf.inference import generate as generation
from phf.inference.generate import generate
from phf.inference.language_model import LanguageModel
from phf.inference.sampler import Sampling, row_keys
from phf.inference.tag_rule import TagRule, follow_tags, tag_rule
from phf.model.control_tokens import ControlTokens
from phf.model.model_folder import export_model
from support.tiny_models import TAGS, byte_tokenizer, loaded_model, model_facts, tiny_gpt2

X, Y, EOS, GOOD, MIDDLE, BAD = range(6)
CONTROL = ControlTokens(EOS, ((GOOD,), (MIDDLE,), (BAD,)))
PROBABILITIES = np.array([0.15, 0.05, 0.1, 0.2, 0.05, 0.45])


def scenario(**options):
    return ScenarioConfig(**{"temperature": 1.0, "top_p": 1.0, "min_new_tokens": 0} | options)


def drawn_shares(asked, control=CONTROL, probabilities=PROBABILITIES, rows=20_000, recent=()):
    """How often each token is drawn."""
    logits = torch.tensor(probabilities).log().float().expand(rows, -1).clone()
    sampling = Sampling(asked, tuple(control.banned(asked)), control.eos_id, tag_rule(asked, control))
    keys = row_keys(0, [0] * rows, range(rows))
    tokens = sampling.draw(logits, keys, torch.zeros_like(keys), recent=[recent] * rows)
    return np.bincount(tokens.numpy(), minlength=len(probabilities))


def assert_follows(counts, wanted):
    wanted = np.array(wanted) / np.sum(wanted)
    assert (counts[wanted == 0] == 0).all()
    kept = wanted > 0
    if kept.sum() == 1:
        return
    assert stats.chisquare(counts[kept], counts.sum() * wanted[kept]).pvalue > 0.01


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [0.15, 0.05, 0.1, 0.7, 0, 0]),
        ({"tag": "bad"}, [0.15, 0.05, 0.1, 0, 0, 0.7]),
        ({"tag": "none"}, PROBABILITIES),
        ({"emit_tags": "force"}, [0, 0, 0, 1, 0, 0]),
        ({"emit_tags": "force", "temperature": 30.0}, [0, 0, 0, 1, 0, 0]),
        ({"emit_tags": "all"}, PROBABILITIES),
        ({"emit_tags": "good"}, [0.15, 0.05, 0.1, 0.2, 0, 0]),
        ({"emit_tags": "none"}, [0.15, 0.05, 0.1, 0, 0, 0]),
        # Tags count as one before temperature, top-k and top-p.
        ({"temperature": 2.0}, np.sqrt([0.15, 0.05, 0.1, 0.7, 0, 0])),
        ({"top_k": 2}, [0.15, 0, 0, 0.7, 0, 0]),
        ({"top_p": 0.69}, [0, 0, 0, 1, 0, 0]),
        ({"top_p": 0.71}, [0.15, 0, 0, 0.7, 0, 0]),
        ({"min_new_tokens": 1}, [0.15, 0.05, 0, 0.7, 0, 0]),
    ],
)
def test_the_tag_of_the_scenario_has_the_probability_of_all_tags(options, wanted):
    assert_follows(drawn_shares(scenario(**options)), wanted)


def test_without_a_majority_of_tags_nothing_is_forced():
    rare = np.array([0.5, 0.1, 0.1, 0.05, 0.05, 0.2])
    assert_follows(drawn_shares(scenario(emit_tags="force"), probabilities=rare), [0.5, 0.1, 0.1, 0.3, 0, 0])


A, B, C, D = range(3, 7)
SHARED = ControlTokens(EOS, ((A, B, D), (A, C, D)), tags_are_text=True)
DIFFERENT = ControlTokens(EOS, ((B, D), (C, D)), tags_are_text=True)


@pytest.mark.parametrize(
    ("control", "recent", "probabilities", "wanted"),
    [
        # Tags that begin alike: nothing changes before the token in which they differ, nor after it.
        (SHARED, (X, Y), [0.1, 0.1, 0.1, 0.1, 0.2, 0.3, 0.1], None),
        (SHARED, (Y, A), [0.1, 0.1, 0.1, 0.1, 0.2, 0.3, 0.1], [0.1, 0.1, 0.1, 0.1, 0.5, 0, 0.1]),
        (SHARED, (A, B), [0.1, 0.1, 0.1, 0.1, 0.2, 0.3, 0.1], None),
        (SHARED, (A, C), [0.1, 0.1, 0.1, 0.1, 0.2, 0.3, 0.1], None),
        # Tags that differ at once: their first tokens may be text, unless they are what comes next.
        (DIFFERENT, (X,), [0.1, 0.1, 0.1, 0.15, 0.2, 0.25, 0.1], None),
        (DIFFERENT, (X,), [0.1, 0.1, 0.1, 0.05, 0.2, 0.35, 0.1], [0.1, 0.1, 0.1, 0.05, 0.55, 0, 0.1]),
        (DIFFERENT, (), [0.1, 0.1, 0.1, 0.05, 0.2, 0.35, 0.1], [0.1, 0.1, 0.1, 0.05, 0.55, 0, 0.1]),
    ],
)
def test_tags_of_several_tokens(control, recent, probabilities, wanted):
    counts = drawn_shares(scenario(), control, np.array(probabilities), recent=recent)
    assert_follows(counts, probabilities if wanted is None else wanted)


def test_tags_that_are_text_are_the_good_one_wherever_the_model_writes_one(scripted, tokenizer, monkeypatch):
    """The model writes `<a>` and `<b>` alike; the rows have the first alone."""
    ids = {text: tuple(tokenizer(text)["input_ids"]) for text in ("<a>", "<b>", "x")}
    control = ControlTokens(256, (ids["<a>"], ids["<b>"]), tags_are_text=True)
    logits = torch.full((259,), -50.0)
    logits[[*ids["<a>"], *ids["<b>"], *ids["x"]]] = 0.0
    asked = scenario(samples=40, max_new_tokens=20)
    rows = []
    decode = generation._decode
    monkeypatch.setattr(generation, "_decode", lambda *a: rows.append(a[2]) or decode(*a))
    samples = generate(LanguageModel(scripted(logits), tokenizer, control), [""], asked)
    texts = tokenizer.batch_decode(rows)
    assert any("<a>" in text for text in texts)
    assert not any("<b>" in text for text in texts)
    assert all("<a>" not in sample.text[:3] for sample in samples)


def test_the_length_of_a_text_does_not_count_its_tags(scripted, tokenizer, control):
    logits = torch.full((259,), -50.0)
    logits[[65, 257, 258]] = 0.0
    asked = ScenarioConfig(samples=30, max_new_tokens=10, min_new_tokens=0, top_p=1, temperature=1)
    for samples in (
        generate(LanguageModel(scripted(logits), tokenizer, control), [""], asked),
        generate(LanguageModel(scripted(logits), tokenizer, control), [""], replace(asked, tag="none")),
    ):
        lengths = [sample.num_tokens for sample in samples]
        # Two of three tokens are tags, and at most as many tags as text are written.
        assert max(lengths) == 10
        assert 5 <= np.mean(lengths) < 10
        assert [len(sample.text) for sample in samples] == lengths


def test_an_exported_model_follows_its_tags_in_generate(tmp_path):
    """Greedy text of `generate` with the processor is the text of `phf generate`."""
    tokenizer, model = byte_tokenizer(), tiny_gpt2()
    with torch.no_grad():  # so that tags are written
        model.lm_head.weight[257:] *= -3
    control = ControlTokens(256, ((257,), (258,)))
    export_model(model, tokenizer, model_facts(tags=TAGS, objective="conditional"), tmp_path / "exported")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    follow = follow_tags(tmp_path / "exported")
    assert follow["logits_processor"][0].rule == TagRule(control.tags, (257,))
    asked = ScenarioConfig(samples=1, temperature=0, max_new_tokens=12, min_new_tokens=0, prompts=["ab", "c"])
    written = 0
    for sample in generate(loaded_model(model, tokenizer, control), ["ab", "c"], asked):
        ids = torch.tensor([[256, 257, *tokenizer(sample.prompt)["input_ids"]]])
        row = model.generate(ids, **follow, do_sample=False, max_new_tokens=24)
        tokens = [token for token in row[0, ids.shape[1] :].tolist() if token != 257][:12]
        written += 257 in row[0, ids.shape[1] :]
        assert sample.text == tokenizer.decode(tokens, skip_special_tokens=True)
        assert 258 not in row
    assert written
    assert follow_tags(tmp_path / "exported", tag="none") == {"suppress_tokens": [], "logits_processor": []}
    banned = follow_tags(tmp_path / "exported", emit_tags="none")
    assert banned == {"suppress_tokens": [257, 258], "logits_processor": []}


def test_plain_generate_of_an_exported_model_writes_the_good_tag_at_most(tmp_path):
    tokenizer, model = byte_tokenizer(), tiny_gpt2()
    export_model(model, tokenizer, model_facts(tags=TAGS, objective="conditional"), tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).generation_config.suppress_tokens == [258]


def test_the_snippet_for_exported_models(tmp_path, monkeypatch, capsys):
    """The Python of docs/guides/export.md."""
    page = (Path(__file__).parents[2] / "docs" / "guides" / "export.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(
        r"```python\n(.*?follow_tags.*?)```", page[page.index("### Write under") :], re.DOTALL
    )
    facts = model_facts(tags=TAGS, objective="conditional")
    export_model(
        tiny_gpt2(context_length=128), byte_tokenizer(), facts, tmp_path / "exported" / "conditional"
    )
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(snippet, found)
    assert found["prompt"]["input_ids"][0, :2].tolist() == [256, 257]
    assert capsys.readouterr().out.startswith("def f(x):")
