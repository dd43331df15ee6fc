"""Rows that become free are filled, prompts are computed once, and the last rows move up."""

import torch

from phf.config import ScenarioConfig
from phf.inference.generate import generate, generate_all
from phf.inference.language_model import LanguageModel

PROMPTS = ["def f(x):\n", "a", "", "import os\nimport sys\n"]


def shapes(model):
    """Collects how many rows and tokens go through the model at a time."""
    seen = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, ids: seen.append(tuple(ids[0].shape)))
    return seen


def test_rows_are_never_idle_while_texts_wait(scripted, tokenizer, control):
    """Of texts that end at random, as many are written at each step as there is room for, to the last few."""
    logits = torch.full((259,), -50.0)
    logits[[65, 256]] = torch.tensor([1.5, 0.0])
    asked = ScenarioConfig(samples=40, max_new_tokens=20, min_new_tokens=1, temperature=1, top_p=1)
    model = scripted(logits)
    seen = shapes(model)
    samples = generate(LanguageModel(model, tokenizer, control), [""], asked, batch_size=8)
    rows = [rows for rows, tokens in seen[1:]]  # the first is the prompt
    assert {tokens for _, tokens in seen[1:]} == {1}
    last = rows.index(next(n for n in rows if n < 8))
    assert rows[:last] == [8] * last
    assert rows[last:] == sorted(rows[last:], reverse=True)
    assert sum(rows) == sum(sample.num_tokens + sample.finished for sample in samples)
    assert len({sample.num_tokens for sample in samples}) > 5


def test_a_prompt_is_computed_once_for_all_its_samples(model, language_model, tokenizer):
    seen = shapes(model)
    asked = ScenarioConfig(prompts=PROMPTS, samples=6, max_new_tokens=4, min_new_tokens=4)
    generate(language_model, PROMPTS, asked, batch_size=5)
    prompts = [(rows, tokens) for rows, tokens in seen if tokens > 1]
    # The opening of a document and the tag stand before each, and its last token goes with the others.
    assert prompts == [(4, max(len(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS) + 1)]


def test_short_texts_come_and_go_beside_a_long_one(scripted, tokenizer, control):
    logits = torch.full((259,), -50.0)
    logits[65] = 0.0
    model = scripted(logits)
    seen = shapes(model)
    options = {"min_new_tokens": 0, "temperature": 1}
    asked = {
        "short": ([""], ScenarioConfig(samples=9, max_new_tokens=10, **options)),
        "long": ([""], ScenarioConfig(samples=1, max_new_tokens=40, **options)),
    }
    drawn = generate_all(LanguageModel(model, tokenizer, control), asked, batch_size=4)
    assert {name: {s.num_tokens for s in samples} for name, samples in drawn.items()} == {
        "short": {10}, "long": {40},
    }  # fmt: skip
    assert [rows for rows, _ in seen[1:]] == [4] * 30 + [1] * 10
