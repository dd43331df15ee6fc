import pytest

from phf.base.errors import ConfigError
from phf.config import load_config, to_yaml


@pytest.mark.slow
def test_lists_make_a_scenario_of_each_combination_in_place(tmp_path):
    (tmp_path / "grid.yaml").write_text(
        "evaluation:\n  scenarios:\n"
        "    first: {temperature: [0.5, 1], top_k: [null, 50], samples: 7}\n    second: {}\n"
    )
    config = load_config([f"{tmp_path}/grid.yaml", "evaluation.scenarios.first.max_new_tokens=20"])
    found = {name: (s.temperature, s.top_k) for name, s in config.evaluation.scenarios.items()}
    assert found == {
        "first/temperature=0.5,top_k=null": (0.5, None),
        "first/temperature=0.5,top_k=50": (0.5, 50),
        "first/temperature=1,top_k=null": (1.0, None),
        "first/temperature=1,top_k=50": (1.0, 50),
        "second": (0.7, None),
    }
    assert list(found)[-1] == "second"
    grid = [s for name, s in config.evaluation.scenarios.items() if name != "second"]
    assert {(s.samples, s.max_new_tokens) for s in grid} == {(7, 20)}
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load_config([f"{tmp_path}/again.yaml"]) == config


def test_an_override_makes_a_list_and_ends_one():
    one = "evaluation.scenarios.unconditional"
    guidance = {"name": "guidance", "options": {"weight": [0, 1, 2]}}
    grid = {"evaluation": {"scenarios": {"unconditional": {"decoder": guidance, "best_of": [1, 4]}}}}
    scenarios = load_config([grid, f"{one}.best_of=2"]).evaluation.scenarios
    assert {name: s.decoder.options for name, s in scenarios.items()} == {
        f"unconditional/weight={weight}": {"weight": weight} for weight in range(3)
    }
    assert {scenario.best_of for scenario in scenarios.values()} == {2}
    scenarios = load_config([f"{one}.top_p=0.5", f"{one}.top_p=[0.9,1.0]"]).evaluation.scenarios
    assert list(scenarios) == ["unconditional/top_p=0.9", "unconditional/top_p=1.0"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("temperature=[]", r"evaluation\.scenarios\.mine\.temperature: a list must hold some"),
        ("temperature=[hot]", r"temperature: Value 'hot' .* could not be converted to Float"),
        ("temperature=[0.5,-1]", "temperature must be at least 0, not -1"),
        ("tag=[good,bad]", r"evaluation\.scenarios\.mine\.tag: "),
    ],
)
def test_what_a_list_may_hold(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config([f"evaluation.scenarios.mine.{override}"])
