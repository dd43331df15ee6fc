"""The commands of README and walk-through are run; the configuration of all other examples is read."""

import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from phf.cli import main
from phf.verbs import VERBS

ROOT = Path(__file__).parents[1]
PAGES = sorted({*(ROOT / "docs").rglob("*.md")} - {*(ROOT / "docs" / "_build").rglob("*.md")})
NO_CONFIG = {
    "report",
    "scorers",
    "help",
    *(name for name in VERBS if VERBS[name].summary.startswith("list ")),
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands(page: Path) -> list[str]:
    lines = "".join(blocks(page, "bash")).splitlines()
    return [line.partition(" #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def run_phf(command: str, folder: Path) -> str:
    result = subprocess.run(
        f"{sys.executable} -m {command}", shell=True, cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{command}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A folder in which the walk-through has been followed to the letter."""
    page = ROOT / "docs" / "start" / "your-own-documents.md"
    folder = tmp_path_factory.mktemp("walk")
    (folder / "my-code").mkdir()
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(stdlib.glob("[a-h]*.py"))[:60]:
        shutil.copy(path, folder / "my-code")
    (folder / "my.yaml").write_text(blocks(page, "yaml")[0])
    for command in commands(page):
        assert command.startswith("phf ")
        run_phf(command, folder)
    return folder


@pytest.mark.slow
def test_the_walk_through_leads_to_a_report(walked):
    assert (walked / "report" / "index.html").is_file()
    assert (walked / "exported" / "model.safetensors").is_file()
    assert len((walked / "samples.jsonl").read_text().splitlines()) == 64


@pytest.mark.slow
def test_the_commands_of_the_readme(walked):
    """`make` targets exist, and each `phf` command works in the folder of the walk-through."""
    for command in commands(ROOT / "README.md"):
        if command.startswith("make "):
            subprocess.run(["make", "-n", *command.split()[1:]], cwd=ROOT, check=True, capture_output=True)
        elif command.startswith("phf "):
            run_phf(command, walked)
        else:
            assert command == ". .venv/bin/activate"


@pytest.mark.slow
def test_a_scorer_is_tried(tmp_path):
    """The example of docs/guides/scorers.md says what the page says it says."""
    page = ROOT / "docs" / "guides" / "scorers.md"
    (command,) = (line for line in commands(page) if "try pii" in line)
    shown = [line.rstrip() for line in run_phf(command, tmp_path).splitlines()]
    assert shown == [line.rstrip() for line in blocks(page, "text")[0].splitlines()]


@pytest.mark.slow
def test_the_scorer_of_ones_own(tmp_path):
    """The class of docs/extend/scorers.md, in a file, with the commands of that page."""
    page = ROOT / "docs" / "extend" / "scorers.md"
    (tmp_path / "shouting.py").write_text(blocks(page, "python")[0])
    (tmp_path / "my-documents").mkdir()
    (tmp_path / "my-documents" / "a.txt").write_text("HELLO there. I SHOUT! 12.")
    for command in commands(page):
        run_phf(command, tmp_path)
    (sidecar,) = (tmp_path / "data").rglob("*.parquet")
    scores = pq.read_table(sidecar)["scores"].to_pylist()
    assert scores == [[pytest.approx(0.5), 1.0, None]]


def _lines(commands: str) -> list[str]:
    return [line.strip() for line in commands.replace("\\\n", " ").splitlines()]


def examples() -> list[tuple[str, str, str]]:
    """Every `phf` command of the documentation and of the verbs' help: its place, itself, the page's YAML."""
    found = [(f"phf {name} --help", line, "") for name in VERBS for line in _lines(VERBS[name].examples)]
    for page in [*PAGES, ROOT / "configs" / "README.md"]:
        text = page.read_text(encoding="utf-8")
        shown = [
            *re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL),
            *re.findall(r"(?m)^    phf (?:.*\\\n)*.*", text),
        ]
        lines = _lines("\n".join(shown))
        own = "\n".join(re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)[:1])
        found += [(page.name, line, own) for line in dict.fromkeys(lines) if line.startswith("phf ")]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("place", "command", "own"), examples())
def test_the_configuration_of_every_example_is_valid(place, command, own, tmp_path, monkeypatch, capsys):
    """The keys exist and the values fit; an example that reads no configuration has a known verb."""
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command.replace("$seed", "1").replace("runs/*", "runs/a runs/b"), comments=True)[1:]
    words = words[: words.index("<")] if "<" in words else words
    verb = " ".join(words[:2]) if " ".join(words[:2]) in VERBS else words[0]
    assert verb in VERBS, place
    with pytest.raises(SystemExit):
        main([*verb.split(), "--help"])
    if "--print-config" not in capsys.readouterr().out:
        return
    for word in words:
        if re.fullmatch(r"(runs|exported|models)/[\w./-]+", word):
            (tmp_path / word).mkdir(parents=True, exist_ok=True)
        elif re.fullmatch(r"[\w-]+\.yaml", word) and not (ROOT / "configs" / word).exists():
            (tmp_path / word).write_text(own)
    assert main([*words, "--print-config"]) == 0, f"{place}: {capsys.readouterr().err}"
