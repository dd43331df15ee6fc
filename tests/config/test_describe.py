"""The sentences of the schema: `phf help`, `--print-config` and the generated page say the same."""

import pytest

from phf.base.errors import ConfigError
from phf.cli import main
from phf.config import Config, find_config, load_config
from phf.config.describe import commented_yaml, describe, help_text
from phf.documents.formats import FORMATS
from phf.evaluation.measures import MEASURES
from phf.inference.decoders import DECODERS
from phf.redteam.attackers import ATTACKERS
from phf.training.objective import OBJECTIVES

KEYS = {key.name: key for key in describe(Config)}
PLUG_INS = [
    member.cls
    for members in (ATTACKERS, DECODERS, FORMATS, MEASURES, OBJECTIVES)
    for member in members.members()
    if member.cls
]


def test_every_key_has_a_sentence_and_a_type():
    for key in KEYS.values():
        assert key.sentence.endswith((".", "!")), key.name
        assert key.section or key.kind, key.name


@pytest.mark.parametrize("cls", PLUG_INS, ids=lambda cls: cls.__name__)
def test_every_option_of_a_plug_in_has_a_sentence(cls):
    assert [key.name for key in describe(cls.Options) if not key.sentence] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart.yaml", "evaluation/leakage.yaml", "paper/toxicity.yaml", None])
def test_the_printed_configuration_is_explained_and_reads_back_equal(name, tmp_path):
    config = load_config([str(find_config(name))] if name else [])
    text = commented_yaml(config)
    (tmp_path / "printed.yaml").write_text(text)
    assert load_config([str(tmp_path / "printed.yaml")]) == config
    assert "# " + KEYS["objective.name"].sentence.partition(",")[0] in text
    assert max(map(len, text.splitlines())) < 140


def test_print_config_of_a_run_shows_the_runs_values(tmp_path, capsys):
    assert main(["pretrain", "objective.name=awr", "train.tokens=123", "--print-config"]) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert load_config([str(tmp_path / "printed.yaml")]).train.tokens == 123


@pytest.mark.parametrize("key", KEYS)
def test_help_explains_every_key(key):
    text = " ".join(help_text(key).split())
    assert text.startswith(key)
    assert " ".join(KEYS[key].sentence.split()) in text


@pytest.mark.parametrize(
    ("key", "beginning"),
    [
        (
            "evaluation.scenarios.mine.top_p",
            "evaluation.scenarios.NAME.top_p: number, default 0.9, must lie in",
        ),
        ("evaluation.scenarios.mine", "evaluation.scenarios"),
        ("evaluation.scorers[0].threshold", "evaluation.scorers[i].threshold"),
        ("evaluation.measures.kl.reference", "evaluation.measures: mapping"),
        ("evaluation.scenarios.a.decoder.options.b", "evaluation.scenarios.NAME.decoder.options: mapping"),
        ("objective.options.beta", "objective.options: mapping"),
        ("", "documents"),
    ],
)
def test_help_knows_names_of_the_users_own(key, beginning):
    assert help_text(key).startswith(beginning)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("train.tokns", "did you mean train.tokens?"),
        ("objective.drop_rate", "objective.drop_rate is objective.options.drop_rate now"),
        ("nonsense", "`phf help` lists the sections"),
    ],
)
def test_help_of_a_key_that_is_none(key, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        help_text(key)
