"""The examples of docs/extend/: as files, with the commands of their pages, and as an installed package."""

import re
import shlex
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from phf.cli import main
from phf.config import load_config, to_yaml
from phf.evaluation.result_files import read_results
from phf.evaluation.results import EvaluationResults
from phf.training.run import pretrain

DOCS = Path(__file__).parents[1] / "docs" / "extend"
# For each open set its page's example: the file and the class.
EXAMPLES = {
    "attackers": ("suffix", "Suffix"),
    "decoders": ("min_p", "MinP"),
    "formats": ("csv_files", "Csv"),
    "measures": ("questions", "Questions"),
    "objectives": ("focal", "Focal"),
    "scorers": ("shouting", "Shouting"),
}


def block(kind: str, language: str) -> str:
    page = (DOCS / f"{kind}.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)[0]


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """A folder with documents, a configuration `my.yaml`, and the run `runs/my-code/mle`."""
    folder = tmp_path_factory.mktemp("extend")
    config = load_config(["objective.name=mle", "redteam.seeds=4"], tiny)
    settings, _, _ = to_yaml(config).partition("run:\n")
    (folder / "my.yaml").write_text(f"{settings}run:\n  folder: runs/my-code/${{run.name}}\n")
    run = load_config([f"run.folder={folder / 'runs/my-code/mle'}"], config)
    pretrain(run)
    (folder / "tables").mkdir()
    (folder / "tables" / "a.csv").write_text('id,text\n1,"x=1\ny = 2\n"\n2,z = 3\n')
    return folder


@pytest.fixture(autouse=True)
def _here(folder, monkeypatch):
    monkeypatch.chdir(folder)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a package with modules and entry points, as pip would."""

    def install(name: str, modules: dict[str, str], entries: dict[str, str]) -> None:
        folder = tmp_path / module(name)
        folder.mkdir()
        for file, source in {"__init__": "", **modules}.items():
            (folder / f"{file}.py").write_text(source)
        metadata = tmp_path / f"{module(name)}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        groups = "".join(f"[phf.{kind}]\n{entry}\n" for kind, entry in entries.items())
        (metadata / "entry_points.txt").write_text(groups)

    monkeypatch.syspath_prepend(str(tmp_path))
    return install


def module(package: str) -> str:
    return package.replace("-", "_")


def run(*arguments: str) -> None:
    assert main(list(arguments)) == 0


def questions_are_measured(folder):
    found = read_results(folder / "runs/my-code/mle/evaluation", EvaluationResults)
    share = found.scenarios["unconditional"].measures["questions"].share
    assert 0 <= share.low <= share.value <= share.high <= 1
    assert "Questions" in (folder / "report-questions" / "report.md").read_text()


def rows_are_documents(folder):
    (sidecar,) = (folder / "data/tables").rglob("*.parquet")
    assert pq.read_table(sidecar)["id"].to_pylist() == ["1", "2"]


def words_are_added(folder):
    attempts = pq.read_table(folder / "runs/my-code/mle/redteam/attempts.parquet").to_pylist()
    assert {row["origin"] for row in attempts} == {"seed", "suffix"}


CHECKS = {"formats": rows_are_documents, "measures": questions_are_measured, "attackers": words_are_added}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in EXAMPLES if kind != "scorers"])
def test_the_example_in_a_file_with_the_commands_of_its_page(kind, folder, capfd):
    source = block(kind, "python")
    assert len(source.splitlines()) <= 20
    name, cls = EXAMPLES[kind]
    assert f"{name}.py:{cls}" in block(kind, "bash")
    (folder / f"{name}.py").write_text(source)
    for line in block(kind, "bash").splitlines():
        phf, *arguments = shlex.split(line)
        assert phf == "phf"
        assert main(arguments) == 0, capfd.readouterr().err
    CHECKS.get(kind, lambda folder: None)(folder)


@pytest.mark.slow
def test_all_examples_as_one_installed_package(package, folder, capsys):
    modules = {name: block(kind, "python") for kind, (name, _) in EXAMPLES.items()}
    entries = {kind: f"theirs-{name} = theirs.{name}:{cls}" for kind, (name, cls) in EXAMPLES.items()}
    package("theirs", modules, entries)
    for kind, (name, _) in EXAMPLES.items():
        run(kind)
        (line,) = (line for line in capsys.readouterr().out.splitlines() if f"theirs-{name}" in line)
        assert line.rstrip().endswith("theirs")
        run(kind, f"theirs-{name}")
    shutil.rmtree("runs/my-code/theirs-focal", ignore_errors=True)
    run("pretrain", "my.yaml", "objective.name=theirs-focal", "objective.options.gamma=0", "train.tokens=512")
    run("evaluate", "runs/my-code/mle", "evaluation.measures={theirs-questions: {}}")
    decoder = "evaluation.scenarios.unconditional.decoder.name=theirs-min_p"
    run("generate", "runs/my-code/mle", decoder, "--output", "theirs.jsonl")
    run(
        "annotate", "documents.path=tables", "scorer.name=theirs-shouting", "annotations.path=data/theirs"
    )  # auto: known by the ending .csv
    (sidecar,) = (folder / "data/theirs").rglob("*.parquet")
    assert len(pq.read_table(sidecar)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_broken_package_and_a_collision_disturb_nobody(kind, package, capsys):
    name, cls = EXAMPLES[kind]
    package("broken", {"module": "raise RuntimeError('out of order')"}, {kind: "broken = broken.module:X"})
    first, second = f"first-{kind}", f"second-{kind}"
    package(first, {name: block(kind, "python")}, {kind: f"twice = {module(first)}.{name}:{cls}"})
    package(second, {name: block(kind, "python")}, {kind: f"twice = {module(second)}.{name}:{cls}"})
    run(kind)
    out = " ".join(capsys.readouterr().out.split())
    assert "cannot be used" in out
    assert "out of order" in out
    assert main([kind, "twice"]) == 2
    assert f"the {kind[:-1]} 'twice' is in two packages ({first}, {second})" in capsys.readouterr().err
    assert main([kind, f"{module(first)}.{name}:{cls}"]) == 0


WHERE = {
    "attackers": ("redteam", ["runs/my-code/mle"], "redteam.attacker", "evolution", "parents"),
    "decoders": (
        "generate", ["runs/my-code/mle"], "evaluation.scenarios.unconditional.decoder", "guidance", "weight",
    ),
    "formats": ("annotate", ["documents.path=tables"], "documents", "csv_files.py:Csv", ""),
    "objectives": ("pretrain", ["my.yaml"], "objective", "rwr", "beta"),
    "scorers": ("annotate", ["documents.path=tables"], "scorer", "pep8", "ignore"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", WHERE)
def test_a_wrong_name_or_option_is_one_line_that_knows_better(kind, folder, capsys):
    verb, arguments, key, known, option = WHERE[kind]
    (folder / "csv_files.py").write_text(block("formats", "python"))
    name = "format" if kind == "formats" else "name"
    nearly = {"formats": "parqet"}.get(kind, f"{known[:-1]}x")
    meant = {"formats": "parquet"}.get(kind, known)
    assert main([verb, *arguments, f"{key}.{name}={nearly}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"did you mean {meant}?" in error
    wrong = f"{option[:-1]}x" if option else "anything"
    assert main([verb, *arguments, f"{key}.{name}={known}", f"{key}.options.{wrong}=1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert wrong in error
    assert (option or "no options") in error


def test_a_measure_that_is_none_or_has_no_such_option(capsys):
    assert main(["evaluate", "runs/my-code/mle", "evaluation.measures={rankin: {}}"]) == 2
    assert "did you mean ranking?" in capsys.readouterr().err
    assert main(["evaluate", "runs/my-code/mle", "evaluation.measures.kl.sample=1"]) == 2
    assert "did you mean" in capsys.readouterr().err
