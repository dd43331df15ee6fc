import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from phf.cli import main
from phf.verbs import VERBS


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


@pytest.mark.slow
def test_tokenizing_does_not_wait_for_lightning():
    code = "import sys, phf.store.tokenize; print('lightning' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*verb.split(), "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert f"  phf {verb}" in text


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("phf ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["anotate"], "no verb 'anotate'; did you mean annotate?"),
        (["annotations", "statsu"], "no verb 'annotations statsu'; did you mean annotations status?"),
        (["-x"], "no verb '-x'; phf --help lists the verbs"),
    ],
)
def test_a_verb_that_is_not_there(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"phf: {message}\n"


def test_a_group_of_verbs_is_listed(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["annotations"])
    assert stopped.value.code == 2
    out = capsys.readouterr().out
    assert all(f"  {verb} " in out for verb in VERBS if verb.startswith("annotations "))
    assert "pretrain" not in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["pretrain", "train.tokns=1"], 2, "train.tokns=1: no key train.tokns; did you mean train.tokens?"),
        (["pretrain", "store.path=nowhere"], 1, "nowhere"),
        (["annotate"], 2, "documents.path is not set"),
        (["annotate", "documents.path=nowhere.jsonl"], 2, "no such file: nowhere.jsonl"),
        (["annotate", "documents.path=.", "scorer.name=pep9"], 2, "no scorer 'pep9'; did you mean pep8?"),
        (["annotate", "documents.path=.", "scorer.options.x=1"], 2, "scorer pep8 has no option 'x'"),
        (["annotations", "status"], 1, "no annotations of pep8; run `phf annotate` first"),
        (["objectives", "mlee"], 2, "no objective 'mlee'; did you mean mle?"),
        (["help", "train.tokns"], 2, "no key train.tokns; did you mean train.tokens?"),
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
    verb = " ".join(arguments[:2]) if " ".join(arguments[:2]) in VERBS else arguments[0]
    assert err.startswith(f"phf {verb}: ")
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

    monkeypatch.setitem(VERBS, verb, replace(VERBS[verb], run=interrupt))
    assert main([verb]) == 130
    hint = "; the same command goes on from here" if verb == "annotate" else ""
    assert capsys.readouterr().err == f"phf {verb}: interrupted{hint}\n"


@pytest.mark.slow
def test_debug_shows_the_traceback(tmp_path):
    result = run("export", str(tmp_path), "out", "--debug")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_print_config_prints_yaml_and_stops(capsys):
    assert main(["pretrain", "run.name=mine", "--print-config"]) == 0
    assert "folder: runs/mine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["scorers"], ("pep8", "violations")),
        (["scorers", "pep8"], ("PEP8",)),
        (["objectives"], ("conditional", "drop_rate")),
        (["objectives", "conditional"], ("tag", "drop_rate: number, default ")),
        (["measures"], ("heldout", "blocks")),
        (["decoders", "guidance"], ("weight: number",)),
        (["attackers"], ("evolution", "endpoint")),
        (["formats"], ("parquet", "jsonl")),
        (["help"], ("train ", "evaluation ")),
        (["help", "train.batch_size"], ("train.batch_size: integer, default 64",)),
    ],
)
def test_what_there_is_to_choose_from_is_listed_and_explained(arguments, said, capsys):
    assert main(arguments) == 0
    out = capsys.readouterr().out
    for words in said:
        assert words in out


@pytest.mark.parametrize("arguments", ["--help", "evaluate --help", "help", "annotate --print-config"])
def test_a_reader_that_has_seen_enough_is_no_error(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "phf", *arguments.split()]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.stderr == ""
