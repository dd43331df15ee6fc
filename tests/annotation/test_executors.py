import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from textwrap import dedent

import pyarrow.parquet as pq
import pytest
from datatrove.executor.local import LocalPipelineExecutor

from phf.annotation import executors
from phf.annotation.annotate import annotate
from phf.annotation.executors import annotate_in_tasks
from phf.base.errors import ConfigError, PhfError
from phf.cli import main
from phf.config import load_config
from scorers import ScorerError

SCORER = '''
    import time
    from scorers import Score, ScorerError, SegmentScorer

    class Length(SegmentScorer):
        """Characters, slowly; fails where it is told to."""
        name, version, measures, range = "length", "1", "characters", (0.0, float("inf"))

        def __init__(self, seconds: float = 0.0):
            self.seconds = seconds

        def score_segments(self, segments):
            time.sleep(self.seconds)
            if "fail" in segments:
                raise ScorerError("scorer length: the licence has run out\\nhere")
            return [Score(float(len(segment))) for segment in segments]
'''


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    """Of `phf annotate`, over five shards."""
    (tmp_path / "length.py").write_text(dedent(SCORER))
    (tmp_path / "documents").mkdir()
    for shard in range(5):
        rows = [{"text": f"{shard} and {'more ' * row}"} for row in range(30)]
        (tmp_path / "documents" / f"s{shard}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return [
        f"documents.path={tmp_path / 'documents'}",
        f"scorer.name={tmp_path / 'length.py'}:Length",
        "segmenter.name=document",
        f"annotations.path={tmp_path / 'annotations'}",
    ]


RAY = ["annotations.executor.name=ray", "annotations.parts=4", "annotations.processes=1"]


@pytest.fixture
def cluster(monkeypatch):
    """Stands in for a Ray cluster: datatrove runs the tasks in this process, one after the other."""
    here = partial(LocalPipelineExecutor, workers=1)
    monkeypatch.setattr("datatrove.executor.ray.RayPipelineExecutor", here)
    monkeypatch.setattr(executors, "_run_on_ray", lambda executor: executor.run())


def tables(annotations: Path) -> dict[str, list[dict[str, object]]]:
    return {
        p.name: pq.read_table(p).to_pylist() for p in sorted(annotations.glob("length.py:Length/*.parquet"))
    }


def whole(arguments: list[str], tmp_path: Path) -> dict[str, list[dict[str, object]]]:
    """What one call writes by itself."""
    annotate(load_config([*arguments, f"annotations.path={tmp_path / 'whole'}", "annotations.processes=1"]))
    return tables(tmp_path / "whole")


def logs(annotations: Path) -> list[list[str]]:
    """The logs of the tasks, for each call in order."""
    calls = sorted((annotations / ".tasks").iterdir(), key=lambda path: path.stat().st_ctime_ns)
    return [[path.read_text() for path in sorted(call.glob("logs/*.log"))] for call in calls]


@pytest.mark.slow
def test_tasks_write_what_one_call_writes_and_only_what_is_missing(arguments, tmp_path, capfd, cluster):
    config = load_config([*arguments, *RAY])
    annotate_in_tasks(config)
    annotations = tmp_path / "annotations"
    assert tables(annotations) == whole(arguments, tmp_path)
    manifests = [
        json.loads((tmp_path / w / "length.py:Length" / "manifest.json").read_text())
        for w in ("annotations", "whole")
    ]
    assert manifests[0] == manifests[1]
    (first,) = logs(annotations)
    assert [f"part {part} of 4" in text for part, text in enumerate(first)] == [True] * 4
    assert "datatrove" not in capfd.readouterr().err

    # A sidecar that is gone is made again, by one task: the marks of the first call hide nothing.
    lost = annotations / "length.py:Length" / "s2.jsonl.parquet"
    lost.unlink()
    there = {path: path.stat().st_mtime_ns for path in lost.parent.glob("*.parquet")}
    annotate_in_tasks(config)
    assert tables(annotations) == tables(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in there} == there
    assert [len(texts) for texts in logs(annotations)] == [4, 1]
    assert "part 2 of 4" in logs(annotations)[1][0]

    # Where nothing is missing, one task looks whether what is there is what is wanted.
    with pytest.raises(PhfError, match=r"part 0: .* was annotated with another scorer: seconds=0.0, not 0.1"):
        annotate_in_tasks(load_config([*arguments, *RAY, "scorer.options.seconds=0.1"]))


@pytest.mark.slow
def test_a_task_that_fails_is_one_line(arguments, tmp_path, capsys, cluster):
    with (tmp_path / "documents" / "s3.jsonl").open("a") as file:
        file.write(json.dumps({"text": "fail"}) + "\n")
    assert main(["annotate", *arguments, *RAY]) == 1
    message = r"phf annotate: part 3: scorer length: the licence has run out \(.*task_00003.log has more\)"
    output = capsys.readouterr().err
    assert re.fullmatch(message, output.splitlines()[-1]), output
    assert "Traceback" not in output
    assert "ScorerError" in logs(tmp_path / "annotations")[0][-1]  # the traceback is in the log


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["name=slurm", "options.partitoin=cpu"],
            "annotations.executor.options: slurm takes no option 'partitoin' here; did you mean partition?",
        ),
        (["name=slurm"], "annotations.executor.options: slurm needs time and partition"),
        (
            ["name=slurm", "options={partition: cpu, time: 24:00:00}"],
            "annotations.executor.options.time=86400: not a text such as '24:00:00' (YAML needs the quotes)",
        ),
        (
            ["name=ray", "options.tasks=3"],
            "annotations.executor.options: ray takes no option 'tasks' here; it has workers, "
            "randomize_start_duration, cpus_per_task, mem_per_cpu_gb, gpus_per_task, ray_remote_kwargs, "
            "log_first, tasks_per_job, time",
        ),
    ],
)
def test_wrong_options_are_one_line(arguments, overrides, message):
    config = load_config([*arguments, *(f"annotations.executor.{override}" for override in overrides)])
    with pytest.raises(ConfigError) as error:
        annotate_in_tasks(config)
    assert str(error.value) == message


def test_what_is_wrong_is_told_before_a_task_starts(arguments, tmp_path):
    with pytest.raises(ScorerError, match="no scorer 'pep9'; did you mean pep8"):
        annotate_in_tasks(load_config([*arguments, *RAY, "scorer.name=pep9"]))
    with pytest.raises(ConfigError, match="no such"):
        annotate_in_tasks(load_config([*arguments, *RAY, "documents.path=nowhere"]))
    assert not (tmp_path / "annotations").exists()


def test_a_machine_without_slurm_is_told(arguments, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    options = ["annotations.executor.options.partition=cpu", "annotations.executor.options.time=24:00:00"]
    assert main(["annotate", *arguments, "annotations.executor.name=slurm", *options]) == 1
    assert (
        capsys.readouterr().err
        == "phf annotate: annotations.executor.name=slurm: no sbatch on this machine\n"
    )


def test_a_machine_without_ray_is_told(arguments, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["annotate", *arguments, *RAY]) == 1
    assert capsys.readouterr().err == (
        "phf annotate: annotations.executor.name=ray needs ray, which is not installed: "
        "pip install 'phf[ray]'\n"
    )


@pytest.mark.slow
def test_only_executors_need_datatrove(arguments):
    code = (
        "import sys; sys.modules['datatrove'] = None; from phf.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    run = [sys.executable, "-c", code, "annotate", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    failed = subprocess.run([*run, *RAY], env=environment, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr == (
        "phf annotate: annotations.executor needs datatrove, which is not installed: "
        "pip install 'phf[datatrove]'\n"
    )
    subprocess.run([*run, "annotations.processes=1"], env=environment, check=True)


def test_tasks_on_ray_write_what_one_call_writes(arguments, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # or it writes a token into the home folder
    ray.init(_node_ip_address="127.0.0.1", num_cpus=2, include_dashboard=False, log_to_driver=False)
    options = [
        "annotations.executor.name=ray",
        "annotations.parts=4",
        "annotations.executor.options.mem_per_cpu_gb=0.1",
    ]
    try:
        annotate_in_tasks(load_config([*arguments, *options]))
        assert tables(tmp_path / "annotations") == whole(arguments, tmp_path)
        with (tmp_path / "documents" / "s3.jsonl").open("a") as file:
            file.write(json.dumps({"text": "fail"}) + "\n")
        with pytest.raises(PhfError, match=r"1 of 5 shards are not annotated; .*/logs tells why"):
            annotate_in_tasks(load_config([*arguments, *options, f"annotations.path={tmp_path / 'failing'}"]))
    finally:
        ray.shutdown()
    assert any("the licence has run out" in text for text in logs(tmp_path / "failing")[0])
