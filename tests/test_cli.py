import subprocess
import sys
import time

import pytest
from omegaconf import OmegaConf

from phf.arguments import VERBS
from phf.cli import _VERBS, main


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "phf", *arguments], capture_output=True, text=True, check=False
    )


def test_help_is_quick_and_imports_nothing_heavy():
    heavy = "{'torch', 'transformers', 'datasets', 'lightning', 'matplotlib'}"
    code = f"import sys, phf.cli; print(sorted({heavy} & set(sys.modules)))"
    start = time.perf_counter()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
    result = run("--help")
    assert result.returncode == 0
    assert all(verb in result.stdout for verb in VERBS)
    assert time.perf_counter() - start < 5


def test_tokenizing_does_not_wait_for_lightning():
    code = "import sys, phf.store.tokenize; print('lightning' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert f"  phf {verb}" in text


def test_version_and_wrong_usage(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    with pytest.raises(SystemExit) as stopped:
        main(["anotate"])
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["pretrain", "train.tokns=1"], 2, "train.tokns=1: no key train.tokns; did you mean train.tokens?"),
        (["pretrain", "store.path=nowhere"], 1, "nowhere"),
        (["annotate"], 2, "documents.path is not set"),
        (["annotate", "documents.path=nowhere.jsonl"], 2, "no such file: nowhere.jsonl"),
        (["annotate", "documents.path=.", "scorer.name=pep9"], 2, "no scorer 'pep9'; did you mean pep8?"),
        (["annotate", "documents.path=.", "scorer.options.x=1"], 2, "scorer pep8 has no option 'x'"),
        (["annotate", "--export", "x", "--status"], 2, "--export and --push-to-hub go without --status"),
        (["tokenize"], 2, "documents.path"),
        (["evaluate", "nowhere"], 2, "nowhere: no such folder; give a run or model folder"),
        (["evaluate", "a.key=1"], 2, "give a run or model folder"),
        (["generate", "nowhere"], 2, "nowhere: no such folder"),
        (["report", "nowhere"], 1, "phf evaluate"),
        (["export", "nowhere", "out"], 1, "nowhere is not a run folder"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_a_code(arguments, code, message, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"phf {arguments[0]}: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["tokenize", "run.name=a", "--train-tokenizer", "store.path=b", "--print-config", "run.folder=c"],
        ["tokenize", "--train-tokenizer", "--print-config", "run.name=a", "store.path=b", "run.folder=c"],
    ],
)
def test_an_option_may_stand_anywhere(arguments, capsys):
    assert main(arguments) == 0
    config = OmegaConf.create(capsys.readouterr().out)
    assert (config.run.name, config.store.path, config.run.folder) == ("a", "b", "c")
    assert config.tokenizer.train


@pytest.mark.parametrize("arguments", [["tokenize", "a=b", "--trian"], ["export", "a", "b", "c"]])
def test_an_argument_that_does_not_belong_there_is_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"usage: phf {arguments[0]} ")
    assert f"unrecognized arguments: {arguments[-1]}" in error


def test_a_text_that_is_missing_is_wrong_usage(capsys):
    with pytest.raises(SystemExit):
        main(["scorers", "try", "pep8"])
    assert capsys.readouterr().err.endswith("the following arguments are required: TEXT\n")


@pytest.mark.parametrize("verb", ["annotate", "tokenize"])
def test_an_interrupt_says_what_comes_of_it(verb, capsys, monkeypatch):
    def interrupt(arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(_VERBS, verb, interrupt)
    assert main([verb]) == 130
    hint = "; the same command goes on from here" if verb == "annotate" else ""
    assert capsys.readouterr().err == f"phf {verb}: interrupted{hint}\n"


def test_debug_shows_the_traceback(tmp_path):
    result = run("export", str(tmp_path), "out", "--debug")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_print_config_prints_yaml_and_stops(capsys):
    assert main(["pretrain", "run.name=mine", "--print-config"]) == 0
    assert "folder: runs/mine" in capsys.readouterr().out


def test_what_can_be_done_with_scorers_is_told(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["scorers", "pep8"])
    assert stopped.value.code == 2
    assert "invalid choice: 'pep8'" in capsys.readouterr().err


def test_scorers_are_listed(capsys):
    assert main(["scorers"]) == 0
    out = capsys.readouterr().out
    assert "pep8" in out
    assert "violations" in out
