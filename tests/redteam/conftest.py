"""A run whose model misbehaves after two words, and a small attack on it."""

import json

import pytest
from support.triggers import BAD, EOS, seed_prompts, train, word_tokenizer

from phf.config import load_config
from phf.model.model_folder import FACTS_FILE, export_model


@pytest.fixture(scope="session")
def trigger_model():
    return train()


@pytest.fixture
def run(trigger_model, tmp_path):
    """A run folder with that model."""
    folder = tmp_path / "run"
    folder.mkdir()
    facts = {
        "objective": "mle", "tags": None, "threshold": 0.0,
        "segmenter": {"name": "document", "max_chars": None},
        "scorer": {"name": "words", "options": {"words": [BAD]}, "fingerprint": None, "measures": "matches"},
        "tokens": 1000, "eos_token": EOS, "context_length": 32, "store": None,
    }  # fmt: skip
    export_model(trigger_model, word_tokenizer(), facts, folder / "model")
    (folder / "prompts.txt").write_text("\n".join(seed_prompts(400)))
    return folder


@pytest.fixture
def tag_words(run):
    """Makes two of the model's words, or two texts of them, its good and its bad tag."""

    def tag_words(good, bad, text=False):
        path = run / "model" / FACTS_FILE
        tokenizer = word_tokenizer()
        ids = [tokenizer(words)["input_ids"] for words in (good, bad)]
        names = [good, bad] if text else tokenizer.convert_ids_to_tokens([tag[0] for tag in ids])
        tags = {"names": names, "text": text, "ids": ids}
        path.write_text(json.dumps({**json.loads(path.read_text()), "tags": tags}))

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
