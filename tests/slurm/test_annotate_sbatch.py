"""An array over the shards, by `slurm/annotate.sbatch` or by datatrove, writes what one process writes."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from phf.config import load_config

pytestmark = [pytest.mark.slow, pytest.mark.slurm]


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
    from phf.annotation.annotate import annotate

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


def test_one_command_submits_what_is_missing_to_slurm(slurm, shards, tmp_path):
    def phf(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [
            slurm.environment["PHF"],
            "annotate",
            f"documents.path={shards}/*.jsonl",
            "segmenter.name=line",
        ]
        return subprocess.run(
            [*command, *arguments],
            cwd=tmp_path,
            env=slurm.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def executor(**options: str) -> list[str]:
        options = {"partition": "main", "time": "00:10:00", "mem_per_cpu_gb": "1", **options}
        return [
            "annotations.path=tasks", "annotations.parts=3", "annotations.executor.name=slurm",
            *(f"annotations.executor.options.{key}={value}" for key, value in options.items()),
        ]  # fmt: skip

    submitted = phf(*executor(cpus_per_task="2"))
    assert submitted.returncode == 0, submitted.stderr
    said = re.fullmatch(
        r"SLURM job (\d+): 3 of 3 parts; logs: (.*); once it has ended, .*\n", submitted.stderr
    )
    assert said, submitted.stderr
    assert slurm.wait(said[1]) == ["CD"] * 3, logs(Path(said[2]) / "slurm_logs", "*.out")
    assert phf("annotations.path=whole", "annotations.processes=1").returncode == 0
    assert tables(tmp_path / "tasks" / "pep8") == tables(tmp_path / "whole" / "pep8")
    assert len(tables(tmp_path / "tasks" / "pep8")) == 5
    assert json.loads((tmp_path / "tasks/pep8/manifest.json").read_text())["counts"]["documents"]
    assert len(list(Path(said[2]).glob("logs/task_*.log"))) == 3

    # With --wait the command ends with the job, and says how it came out.
    waiting = {"sbatch_args.wait": "null"}
    (tmp_path / "tasks" / "pep8" / "3.jsonl.parquet").unlink()
    waited = phf(*executor(**waiting))
    assert waited.returncode == 0, waited.stderr
    assert "1 of 3 parts" in waited.stderr
    assert "segments of" in waited.stderr
    assert tables(tmp_path / "tasks" / "pep8") == tables(tmp_path / "whole" / "pep8")
    failed = phf(*executor(**waiting), "segmenter.name=sentence")
    assert failed.returncode == 1
    assert re.search(
        r"phf annotate: sbatch refused the job, or with --wait the job failed; logs: (.*)\n", failed.stderr
    )

    refused = phf(*executor(partition="nowhere"), "annotations.path=refused")
    assert refused.returncode == 1
    assert "invalid partition" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(("gpus", "processes"), [({}, 8), ({"SLURM_GPUS_ON_NODE": "2"}, 2)])
def test_a_task_scores_in_a_process_a_gpu_or_a_core(gpus, processes):
    script = Path(__file__).parents[2] / "slurm" / "annotate.sbatch"
    array = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "2"}
    environment = {"PHF": "echo", "SLURM_CPUS_PER_TASK": "8", **array, **gpus}
    said = subprocess.run(
        ["bash", script], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert said == f"annotate annotations.part=1 annotations.parts=2 annotations.processes={processes}\n"


def tables(folder: Path) -> dict[str, list]:
    return {path.name: pq.read_table(path).to_pylist() for path in sorted(folder.glob("*.parquet"))}


def logs(folder: Path, pattern: str = "*.log") -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob(pattern)))
