"""`slurm/annotate.sbatch`: an array over the shards writes what one process writes."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from phf.config import load_config

pytestmark = pytest.mark.slurm


@pytest.fixture
def shards(code_documents, tmp_path) -> Path:
    """The tests' documents, a few in each of five files."""
    folder = tmp_path / "documents"
    folder.mkdir()
    lines = code_documents.read_text(encoding="utf-8").splitlines(keepends=True)
    for i in range(5):
        (folder / f"{i}.jsonl").write_text("".join(lines[i::5]), encoding="utf-8")
    return folder


def test_an_array_scores_the_shards_as_one_process_does(slurm, shards, tmp_path):
    from phf.data.annotate import annotate

    arguments = [f"documents.path={shards}/*.jsonl", "segmenter.name=line", "scorer.name=pep8"]
    job = slurm.submit(
        "annotate.sbatch",
        *arguments,
        "annotations.path=array",
        options=("--array=0-1", "--cpus-per-task=1"),
        folder=tmp_path,
    )
    assert slurm.wait(job) == ["CD", "CD"], logs(tmp_path)

    local = load_config([*arguments, f"annotations.path={tmp_path / 'local'}", "annotations.processes=1"])
    annotate(local)

    expected = tables(tmp_path / "local" / "pep8")
    assert len(expected) == 5
    assert tables(tmp_path / "array" / "pep8") == expected
    manifests = [
        json.loads((tmp_path / where / "pep8" / "manifest.json").read_text()) for where in ("array", "local")
    ]
    assert manifests[0]["counts"] == manifests[1]["counts"]
    # What the array left is complete: a local call over it has nothing to do.
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "array" / "pep8").glob("*.parquet")}
    annotate(replace(local, annotations=replace(local.annotations, path=str(tmp_path / "array"))))
    assert {p: p.stat().st_mtime_ns for p in before} == before


def tables(folder: Path) -> dict[str, list]:
    return {path.name: pq.read_table(path).to_pylist() for path in sorted(folder.glob("*.parquet"))}


def logs(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("*.log")))
