import pytest

from phf.base.errors import ConfigError
from phf.config import find_config, load_config, to_yaml


def test_layers_go_from_left_to_right_and_overrides_last(tmp_path):
    (tmp_path / "a.yaml").write_text("train: {tokens: 100, batch_size: 2}")
    (tmp_path / "b.yaml").write_text("train: {tokens: 200}\nrun: {name: b}")
    config = load_config(["train.batch_size=4", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")])
    assert (config.train.tokens, config.train.batch_size, config.run.folder) == (200, 4, "runs/b")


def test_a_printed_configuration_reads_back_equal(tmp_path):
    config = load_config(["scorer.options.max_line_length=100", "run.name=x", "objective.threshold=0"])
    (tmp_path / "printed.yaml").write_text(to_yaml(config))
    assert load_config([str(tmp_path / "printed.yaml")]) == config


def test_values_as_a_person_types_them(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    config = load_config(
        ["documents.path=~/corpus", "documents.pattern=**/*.py", "run.folder=~/runs/a", "tokenizer.name=~/t"]
    )
    assert (config.documents.path, config.documents.pattern) == ("/home/ada/corpus", "**/*.py")
    assert (config.run.folder, config.tokenizer.name) == ("/home/ada/runs/a", "/home/ada/t")
    config = load_config(["train.tokens=3.3e9", "train.learning_rate=1e1", "train.weight_decay=1e-3"])
    assert (config.train.tokens, config.train.learning_rate) == (3_300_000_000, 10.0)
    assert config.train.weight_decay == 0.001
    config = load_config(["store.path=a=b", "annotations.path=~ada", "objective.threshold=null"])
    assert (config.store.path, config.annotations.path) == ("a=b", "~ada")
    assert config.objective.threshold is None


def test_a_value_may_be_a_yaml_file_and_a_file_may_have_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1.yaml").write_text("train: {learning_rate: 1}")
    config = load_config(["scorer.options.words=list.yaml", "lr=1.yaml"])
    assert (config.scorer.options, config.train.learning_rate) == ({"words": "list.yaml"}, 1)


def test_the_default_scenario_gives_way_to_any_that_is_named(tmp_path):
    assert list(load_config([]).evaluation.scenarios) == ["unconditional"]
    run = load_config(["evaluation.seed=1"])
    for base in (None, run):
        config = load_config(["evaluation.scenarios.own.samples=3"], base)
        assert list(config.evaluation.scenarios) == ["own"]
        config = load_config(["evaluation.scenarios.unconditional.samples=3"], base)
        assert config.evaluation.scenarios["unconditional"].samples == 3
    # One that was set up stays.
    config = load_config(["evaluation.scenarios.more.samples=4"], config)
    assert list(config.evaluation.scenarios) == ["unconditional", "more"]


def test_scores_are_kept_under_the_name_of_the_scorer():
    for name, key in (("pep8", "pep8"), ("mine:Length", "mine:Length"), ("/a/b.py:Length", "b.py:Length")):
        assert load_config([f"scorer.name={name}"]).scorer.key == key
    assert load_config(["scorer.column=strict"]).scorer.key == "strict"
    with pytest.raises(ConfigError, match="a scorer's column must be letters"):
        load_config(["scorer.column=a/b"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("train.tokns=3", "train.tokns=3: no key train.tokns; did you mean train.tokens?"),
        ("trian.tokens=3", "no key trian; did you mean train?"),
        (
            "evaluation.scenarios.x.sampels=3",
            "no key evaluation.scenarios.x.sampels; did you mean evaluation.scenarios.x.samples?",
        ),
        ("evaluation.scorer.nam=x", "no key evaluation.scorer.nam; did you mean evaluation.scorer.name?"),
        ("train.tokens=many", "train.tokens: Value 'many'"),
        ("train.schedule=square", "expected one of ['linear', 'cosine', 'wsd', 'constant']"),
        ("objective.threshold=five", "must be a number or a quantile such as q0.05, not 'five'"),
        ("objective.threshold=q5", "must be a number or a quantile such as q0.05, not 'q5'"),
        ("objective.threshold=true", "must be a number or a quantile such as q0.05, not True"),
        ("objective.threshold=[0, q5]", "must be a number or a quantile such as q0.05, not 'q5'"),
        ("objective.threshold=[]", "objective.threshold must not be an empty list"),
        ("objective.start=1", "objective.start must lie in [0, 1), not 1.0"),
        (
            "objective={start: 0.5, cooldown: 0.5}",
            "objective.start and cooldown leave nothing of the budget: 0.5 and 0.5",
        ),
        ("annotations.part=3", "annotations.part must lie in [0, 1), not 3"),
        ("store.heldout_fraction=1.5", "store.heldout_fraction must lie in [0, 1)"),
        ("train.loggers=[csv,paper]", "no logger paper"),
        ("train.betas=[0.9]", "train.betas must be two numbers"),
        ("train.betas=[0.9, 1]", "train.betas must be two numbers in [0, 1), not [0.9, 1.0]"),
        ("train.gradient_clip=0", "train.gradient_clip must be above 0 or null, not 0.0"),
        ("train.tokens=1e-3", "train.tokens: Value '0.001'"),
        ("documents.limit=0", "documents.limit must be at least 1 or null, not 0"),
        ("documents.max_bad_rows=-1", "documents.max_bad_rows must be at least 0 or null, not -1"),
        ("train.tokens_seen=9_000_000_000", "train.tokens_seen must be"),
        ("tokenizer.vocab_size=5", "at least 257"),
        ("evaluation.scenarios.unconditional.top_p=0", "top_p must lie in (0, 1]"),
        ("evaluation.scenarios.unconditional.min_new_tokens=500", "min_new_tokens must lie in"),
        ("evaluation.scenarios.unconditional.prompts=3", "prompts must be a file, phf:NAME, a list"),
        ("train=3", "train=3"),
        ("nonsense", "neither a YAML file (.yaml, .yml) nor a key=value override"),
        ("nowhere.yaml", "nowhere.yaml: no such file"),
    ],
)
def test_errors_say_what_and_where(argument, message):
    with pytest.raises(ConfigError) as caught:
        load_config([argument])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "not valid YAML"), ("- 1\n- 2", "must hold keys and values"), ("\xff", "cannot be read")],
)
def test_broken_files(tmp_path, text, message):
    path = tmp_path / "broken.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
        load_config([str(path)])


def test_find_config():
    assert find_config("quickstart.yaml").is_file()
    with pytest.raises(ConfigError, match=r"no configuration file configs/none.yaml"):
        find_config("none.yaml")


def test_another_scorer_has_none_of_the_options_of_the_one_before(tmp_path):
    (tmp_path / "pii.yaml").write_text("scorer: {name: pii, options: {mode: patterns}}")
    (tmp_path / "more.yaml").write_text("scorer: {options: {threshold: 0.5}}")
    layers = [str(tmp_path / "pii.yaml"), str(tmp_path / "more.yaml")]
    assert load_config([*layers, "scorer.name=pii"]).scorer.options == {"mode": "patterns", "threshold": 0.5}
    assert load_config([*layers, "scorer.name=words"]).scorer.options == {}
    for mine in (
        ["scorer.name=words", "scorer.options.words=[a]"],
        ["scorer.options.words=[a]", "scorer.name=words"],
    ):
        assert load_config([*layers, *mine]).scorer.options == {"words": ["a"]}
    (tmp_path / "words.yaml").write_text("scorer: {name: words}")
    assert load_config([*layers, str(tmp_path / "words.yaml")]).scorer.options == {}
    with pytest.raises(ConfigError, match="scorer"):
        load_config([*layers, "scorer=words"])
