"""A run whose model misbehaves after two words, and a small attack on it."""

import pytest
from triggers import BAD, EOS, seed_prompts, train, word_tokenizer

from phf.config import load_config
from phf.model.export import export_model


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
