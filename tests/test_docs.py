"""The commands of the README and of the walk-through, run as they stand."""

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[1]


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
    page = ROOT / "docs" / "your-own-documents.md"
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


def test_the_walk_through_leads_to_a_report(walked):
    assert (walked / "report" / "index.html").is_file()
    assert (walked / "exported" / "model.safetensors").is_file()
    assert len((walked / "samples.jsonl").read_text().splitlines()) == 64


def test_the_commands_of_the_readme(walked):
    """`make` targets exist, and each `phf` command works in the folder of the walk-through."""
    for command in commands(ROOT / "README.md"):
        if command.startswith("make "):
            subprocess.run(["make", "-n", *command.split()[1:]], cwd=ROOT, check=True, capture_output=True)
        elif command.startswith("phf "):
            run_phf(command, walked)
        else:
            assert command == ". .venv/bin/activate"


def test_the_scorer_of_ones_own(tmp_path):
    """The class of docs/scorers.md, in a file, with the commands of that page."""
    page = ROOT / "docs" / "scorers.md"
    (tmp_path / "shouting.py").write_text(blocks(page, "python")[0])
    (tmp_path / "my-documents").mkdir()
    (tmp_path / "my-documents" / "a.txt").write_text("HELLO there. I SHOUT! 12.")
    outputs = [run_phf(command, tmp_path) for command in commands(page)]
    assert "5:19 EMAIL_ADDRESS jo@example.com" in outputs[0]
    (sidecar,) = (tmp_path / "data").rglob("*.parquet")
    scores = pq.read_table(sidecar)["scores"].to_pylist()
    assert scores == [[pytest.approx(0.5), 1.0, None]]
