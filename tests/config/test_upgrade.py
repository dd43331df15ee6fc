"""Configurations of run folders that an earlier version wrote."""

import json

import pytest

from phf.base.errors import ConfigError
from phf.config import Config, load_config, load_run_config

OLD = {
    "annotations": {"executor": {"name": "local", "options": {"tasks": 3}}},
    "objective": {
        "name": "awr", "threshold": None, "drop_rate": None, "tag_loss": None, "tag_texts": None,
        "times": None, "alpha": 0.5, "beta": 10.0, "max_weight": None, "reward_scaling": "raw",
    },
    "evaluation": {
        "scenarios": {
            "plain": {"guidance": 0.0, "safe_beams": 0},
            "guided": {"guidance": 2.0, "safe_beams": 0},
            "beams": {"guidance": 0.0, "safe_beams": 4},
        },
        "heldout_blocks": 16, "kl": {"reference": "gpt2"}, "ranking": {"max_pairs": 40}, "code": None,
    },
    "redteam": {
        "attacker": "model", "rounds": 2, "examples": 4, "model": "runs/mle", "base_url": None, "api": "chat",
        "key": "OPENAI_API_KEY", "temperature": 0.5, "parents": 10, "niche_similarity": 0.5,
    },
}  # fmt: skip
NEW = {
    "objective": {"name": "awr", "options": {"alpha": 0.5, "beta": 10.0, "reward_scaling": "raw"}},
    "evaluation": {
        "scenarios": {
            "plain": {},
            "guided": {"decoder": {"name": "guidance", "options": {"weight": 2.0}}},
            "beams": {"decoder": {"name": "safe_beams", "options": {"beams": 4}}},
        },
        "measures": {
            "heldout": {"blocks": 16}, "kl": {"reference": "gpt2"}, "ranking": {"max_pairs": 40},
        },
    },
    "redteam": {
        "attacker": {"name": "model", "options": {"model": "runs/mle", "temperature": 0.5, "examples": 4}},
        "rounds": 2,
    },
}  # fmt: skip


def read(folder, kept: dict) -> Config | None:
    (folder / "config.yaml").write_text(json.dumps(kept))  # JSON is YAML
    return load_run_config(folder)


def test_it_means_what_it_meant(tmp_path):
    assert read(tmp_path, OLD) == read(tmp_path, NEW) == load_config([NEW])


def test_what_was_left_at_its_default_is_at_its_default(tmp_path):
    kept = {"objective": {"name": "mle", "alpha": None}, "evaluation": {"heldout_blocks": 512, "kl": None}}
    attacker = {"attacker": "evolution", "model": None, "base_url": None, "parents": 10}
    config = read(tmp_path, kept | {"redteam": attacker})
    assert (config.objective, config.evaluation) == (Config().objective, Config().evaluation)
    assert config.redteam.attacker.options == {"parents": 10}


def test_a_key_that_was_never_there_is_an_error_with_the_file(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.yaml: no key trian; did you mean train\?$"):
        read(tmp_path, {"trian": {}})
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"config\.yaml \(line 2\): not valid YAML"):
        load_run_config(tmp_path)


@pytest.mark.parametrize(
    ("override", "now"),
    [
        ("objective.alpha=1", "objective.alpha is objective.options.alpha now"),
        ("evaluation.kl.reference=gpt2", "evaluation.kl is evaluation.measures.kl now"),
        (
            "evaluation.heldout_blocks=8",
            "evaluation.heldout_blocks is evaluation.measures.heldout.blocks now",
        ),
        (
            "evaluation.scenarios.a.guidance=2",
            "evaluation.scenarios.a.guidance is evaluation.scenarios.a.decoder.options.weight now",
        ),
        ("redteam.base_url=x", "redteam.base_url is redteam.attacker.options.base_url now"),
    ],
)
def test_a_person_is_told_what_a_key_is_called_now(override, now):
    with pytest.raises(ConfigError) as caught:
        load_config([override])
    assert str(caught.value) == f"{override}: {now}"
