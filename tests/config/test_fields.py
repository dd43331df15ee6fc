"""Bounds of numbers, and options that belong to what they are options of."""

import pytest

from phf.base.errors import ConfigError
from phf.config import load_config
from phf.training.objective import check_objective


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.seed=-1", "train.seed must be at least 0, not -1"),
        ("evaluation.seed=-1", "evaluation.seed must be at least 0, not -1"),
        ("train.weight_decay=-0.1", "train.weight_decay must be at least 0, not -0.1"),
        ("train.num_workers=-2", "train.num_workers must be at least 0, not -2"),
        ("train.tokens=0", "train.tokens must be at least 1"),
        ("train.learning_rate=.nan", "train.learning_rate must be"),
        ("evaluation.threshold=.inf", "evaluation.threshold must be a finite number, not inf"),
        ("evaluation.scorers=[{name: pii, threshold: .nan}]", "the threshold of pii must be a finite number"),
        ("evaluation.scenarios.a.top_p=1.5", r"evaluation.scenarios.a.top_p must lie in \(0, 1\], not 1.5"),
        ("model.context_length=1", "model.context_length must be at least 2, not 1"),
    ],
)
def test_a_number_out_of_its_bounds_is_named_with_them(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config([override])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "name", "options", "other"),
    [
        ("objective", "name", "options", "mle"),
        ("scorer", "name", "options", "pii"),
        ("model", "architecture", "config", "llama"),
        ("redteam.attacker", "name", "options", "random"),
        ("documents", "format", "options", "parquet"),
        ("evaluation.scenarios.a.decoder", "name", "options", "guidance"),
    ],
)
def test_naming_something_else_drops_the_options_of_what_was_there(section, name, options, other):
    first = [f"{section}.{name}=x", f"{section}.{options}={{a: 1}}"]

    def found(*later: str):
        node = load_config(later, load_config(first))
        for part in section.split("."):
            node = node[part] if isinstance(node, dict) else getattr(node, part)
        return getattr(node, options)

    assert found() == {"a": 1}
    assert found(f"{section}.{name}=x") == {"a": 1}
    assert found(f"{section}.{name}={other}") == {}
    assert found(f"{section}.{name}={other}", f"{section}.{options}={{b: 2}}") == {"b": 2}


def test_options_of_one_objective_given_to_another():
    config = load_config(["objective/rwr.yaml", "objective.options.alpha=1"])
    with pytest.raises(ConfigError, match=r"no key alpha; there is beta, max_weight, reward_scaling"):
        check_objective(config.objective)
    config = load_config(["objective.name=mle", "objective.options.beta=1"])
    with pytest.raises(ConfigError, match=r"objective\.options: no key beta; mle has no options"):
        check_objective(config.objective)


def test_a_scenario_of_a_run_can_be_removed():
    run = load_config(["evaluation.scenarios.a.samples=1", "evaluation.scenarios.b.samples=2"])
    assert list(load_config(["evaluation.scenarios.a=null"], run).evaluation.scenarios) == ["b"]
