import pytest

from phf.config import ScenarioConfig, load_config
from phf.errors import ConfigError, PhfError
from phf.evaluation.scenarios import load_prompts


def test_no_prompts_are_one_empty_prompt():
    assert load_prompts(ScenarioConfig()) == [""]


def test_a_list(tmp_path):
    config = load_config(["evaluation.scenarios.own.prompts=['a b', 'c=1']"])
    assert load_prompts(config.evaluation.scenarios["own"]) == ["a b", "c=1"]
    assert load_prompts(ScenarioConfig(prompts=["a", "b", "c"], max_prompts=2)) == ["a", "b"]
    with pytest.raises(ConfigError, match=r"prompts\[1\] of a scenario must be text, not int: 3"):
        load_prompts(ScenarioConfig(prompts=["a", 3]))
    with pytest.raises(PhfError, match="holds no prompts"):
        load_prompts(ScenarioConfig(prompts=[]))


def test_a_text_file_has_one_a_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffdef f(x):\r\n\n  indented \n\x0cform feed".encode())
    assert load_prompts(ScenarioConfig(prompts=str(path))) == ["def f(x):", "  indented ", "\x0cform feed"]


def test_jsonl(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "def f(x):\\n", "id": 1}\n\n{"prompt": ""}\n')
    assert load_prompts(ScenarioConfig(prompts=str(path))) == ["def f(x):\n", ""]


@pytest.mark.parametrize("line", ["{", '"a"', '{"text": "a"}', '{"prompt": 1}'])
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n' + line + "\n")
    with pytest.raises(PhfError, match=rf"{path}, line 2: .*prompt") as error:
        load_prompts(ScenarioConfig(prompts=str(path)))
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 1


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"none.jsonl: no such file"):
        load_prompts(ScenarioConfig(prompts=str(tmp_path / "none.jsonl")))
    with pytest.raises(PhfError, match="cannot be read"):
        load_prompts(ScenarioConfig(prompts=str(tmp_path)))
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PhfError, match="cannot be read as text in UTF-8"):
        load_prompts(ScenarioConfig(prompts=str(tmp_path / "binary.txt")))
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(PhfError, match=r"empty.txt: holds no prompts"):
        load_prompts(ScenarioConfig(prompts=str(tmp_path / "empty.txt")))
