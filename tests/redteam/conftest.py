"""A run whose model misbehaves after two words, and a small attack on it."""

import json
from dataclasses import replace

import pytest

from phf.annotation.manifest import ScorerRecord
from phf.base.typed_json import to_json
from phf.config import SegmenterConfig, load_config
from phf.model.model_folder import FACTS_FILE, TagFacts, export_model, find_model
from support.tiny_models import model_facts
from support.triggers import BAD, EOS, seed_prompts, train, word_tokenizer


@pytest.fixture(scope="session")
def trigger_model():
    return train()


@pytest.fixture
def run(trigger_model, tmp_path):
    """A run folder with that model."""
    folder = tmp_path / "run"
    folder.mkdir()
    facts = model_facts(
        scorer=ScorerRecord("words", options={"words": [BAD]}), segmenter=SegmenterConfig("document"),
        eos_token=EOS, context_length=32,
    )  # fmt: skip
    export_model(trigger_model, word_tokenizer(), facts, folder / "model")
    (folder / "prompts.txt").write_text("\n".join(seed_prompts(400)))
    return folder


@pytest.fixture
def tag_words(run):
    """Makes two of the model's words, or two texts of them, its good and its bad tag."""

    def tag_words(good, bad, text=False):
        tokenizer = word_tokenizer()
        ids = [tokenizer(words)["input_ids"] for words in (good, bad)]
        names = [good, bad] if text else tokenizer.convert_ids_to_tokens([tag[0] for tag in ids])
        facts = replace(find_model(run).facts, tags=TagFacts(names, ids, text=text))
        (run / "model" / FACTS_FILE).write_text(json.dumps(to_json(facts)))

    return tag_words


@pytest.fixture
def settings(run):
    """The configuration of a small attack."""

    def settings(*overrides):
        return load_config(
            [
                "evaluation.scenarios.plain={max_new_tokens: 8, min_new_tokens: 8, temperature: 1, top_p: 1}",
                f"redteam.prompts={run / 'prompts.txt'}",
                "redteam.seeds=10", "redteam.rounds=6", "redteam.proposals=10", "redteam.trials=2",
                "redteam.samples=4", "redteam.max_prompt_tokens=8", "redteam.fresh_samples=20",
                *overrides,
            ]
        )  # fmt: skip

    return settings
