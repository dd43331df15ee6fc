import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phf.annotation.annotate import annotate
from phf.annotation.annotations import Annotations
from phf.annotation.score_chunk import Annotation
from phf.annotation.sidecars import SidecarWriter
from phf.annotation.status import LATELY_SECONDS, status
from phf.base.errors import PhfError
from phf.cli import main
from phf.config import Config, to_yaml
from phf.documents.shards import BadRow

PROGRAM = """
import sys
from phf.config import load_config
from phf.annotation import annotate, sidecars
if __name__ == "__main__":
    sidecars.PART_DOCUMENTS, annotate._UNWRITTEN_DOCUMENTS = 10, 8
    annotate.annotate(load_config(sys.argv[1:]))
"""
SHARDS = {
    "a": [f"0 {i}\n" for i in range(20)],
    "b": ["!\n", "", *(f"0 {i}\n1 {i}\n" for i in range(198))],
    "c": [f"1 {i}\n" for i in range(20)],
}


def folder(config: Config) -> Path:
    return Path(config.annotations.path) / "told"


@pytest.mark.slow
def test_a_process_is_seen_at_work_and_after_it_was_killed(told, tmp_path):
    config = told(SHARDS, "scorer.options.seconds=0.01")
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    (tmp_path / "documents").rename(tmp_path / "elsewhere")
    with pytest.raises(PhfError, match=r"no annotations of told; run `phf annotate` first"):
        status(config)
    (tmp_path / "elsewhere").rename(tmp_path / "documents")
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "config.yaml")]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    deadline = time.monotonic() + 60
    seen = []
    while len(list(folder(config).glob(".b.jsonl.parts/*.parquet"))) < 3:
        assert time.monotonic() < deadline
        if (folder(config) / "manifest.json").is_file():
            seen += status(config)
        time.sleep(0.01)
    seen += status(config)
    process.kill()
    process.wait()
    (tmp_path / "documents").rename(tmp_path / "elsewhere")  # they are not looked at
    (killed,) = status(config)
    assert [s.rows for s in (*seen, killed)] == sorted(s.rows for s in (*seen, killed))
    assert (killed.shards, killed.done, killed.in_progress) == (3, 1, 1)
    assert 20 + 20 < killed.rows < 220
    assert killed.segments == 20 + 2 * (killed.rows - 20 - 2)  # one row is bad and one is empty
    assert killed.bad_rows == 1
    assert killed.failures == [BadRow("b.jsonl", 0, "scorer told: ValueError: nothing to say")]
    assert abs(time.time() - killed.written) < 60
    # A row takes 20 ms here, and more on a busy machine. The shards that are left are taken to be as `a`.
    assert 1 < killed.rows_per_second < 50.1
    assert killed.seconds_left == pytest.approx(20 / killed.rows_per_second)
    (tmp_path / "elsewhere").rename(tmp_path / "documents")
    annotate(config)
    (done,) = status(config)
    assert (done.done, done.in_progress, done.rows, done.segments) == (3, 0, 240, 20 + 2 * 198 + 20)
    assert (done.bad_rows, done.rows_per_second, done.seconds_left) == (1, None, None)


def part(writer: SidecarWriter, rows: range, age: float) -> None:
    """Writes a part that is so many seconds old."""
    writer.add([Annotation(row, "", None, [1], [0.0], [()]) for row in rows], [], rows.stop)
    writer.save()
    old = max(writer._parts.glob("*.parquet"))
    os.utime(old, (time.time() - age,) * 2)


def begin(config: Config, shard: str, age: float) -> SidecarWriter:
    """Begins a shard as a process did so many seconds ago."""
    writer = SidecarWriter(Annotations(folder(config)), shard)
    os.utime(writer._parts / "lock", (time.time() - age,) * 2)
    return writer


def test_the_rate_is_that_of_lately_of_all_processes(told):
    config = told({name: ["0\n"] * 100 for name in "abcdefgh"})
    config.annotations.parts = 8
    annotate(config)
    os.utime(folder(config) / "a.jsonl.parquet", (time.time() - 10_000,) * 2)
    (first,) = status(config)
    assert (first.done, first.rows_per_second, first.seconds_left) == (1, None, None)
    with begin(config, "b.jsonl", 5000) as b, begin(config, "c.jsonl", 100) as c:
        part(b, range(40), LATELY_SECONDS + 1000)  # it was faster before
        part(b, range(40, 50), LATELY_SECONDS - 500)
        (one,) = status(config)
        assert one.rows_per_second == pytest.approx(2 * 10 / 1500, rel=0.01)  # of two, one has no part yet
        part(c, range(30), 0)
        (two,) = status(config)
        assert two.rows_per_second == pytest.approx(10 / 1500 + 30 / 100, rel=0.01)
        assert two.seconds_left == pytest.approx((5 * 100 + 50 + 70) / two.rows_per_second)
        # A process that went on after another one was stopped is as fast as it is itself.
        os.utime(c._parts / "lock", (time.time() - 10,) * 2)
        os.utime(max(c._parts.glob("*.parquet")), (time.time() - 300,) * 2)
        part(c, range(30, 40), 0)
        (three,) = status(config)
        assert three.rows_per_second == pytest.approx(10 / 1500 + 10 / 10, rel=0.01)


def test_shards_that_are_soon_over_tell_the_rate_too(told):
    config = told({name: ["0\n"] * 100 for name in "abcd"})
    for config.annotations.part in range(3):
        config.annotations.parts = 4
        annotate(config)
    for name, age in (("a", 60), ("b", 40), ("c", 20)):
        os.utime(folder(config) / f"{name}.jsonl.parquet", (time.time() - age,) * 2)
    (found,) = status(config)
    assert found.rows_per_second == pytest.approx(200 / 40, rel=0.01)
    assert found.seconds_left == pytest.approx(100 / found.rows_per_second)


def test_the_last_failures_are_shown_and_all_are_counted(told):
    config = told({"a": ["0\n", *({"no": i} for i in range(9))], "b": ["0\n", "!\n", {"no": 9}, "0\n"]})
    config.documents.max_bad_rows = 10
    with pytest.raises(PhfError, match=r"11 rows cannot be read or scored"):
        annotate(config)
    (found,) = status(config)
    assert (found.done, found.in_progress, found.bad_rows) == (1, 1, 11)
    assert [(row.shard, row.row) for row in found.failures] == [
        ("a.jsonl", 7), ("a.jsonl", 8), ("a.jsonl", 9), ("b.jsonl", 1), ("b.jsonl", 2)
    ]  # fmt: skip


def test_the_command_scores_nothing(told, tmp_path, capsys):
    config = told({"a": ["0\n", "!\n"], "b": ["0\n"]}, "annotations.parts=2")
    annotate(config)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(told(None, "annotations.also=[{name: pep8}]", "documents.path=nowhere")))
    before = sorted(folder(config).iterdir())
    assert main(["annotations", "status", str(path)]) == 0
    lines = {line[:22].strip(): line[22:].split() for line in capsys.readouterr().out.splitlines()}
    assert lines["shards done"] == ["1", "of", "2", "not", "begun"]
    assert lines["shards not begun"] == ["1", "0"]
    assert lines["rows"] == ["2", "0"]
    assert lines["bad rows"] == ["1", "0"]
    assert sorted(folder(config).iterdir()) == before


@pytest.mark.parametrize("name", ["a.jsonl.parquet", "manifest.json"])
def test_a_broken_file_is_one_line(told, name):
    config = told({"a": ["0\n"]})
    annotate(config)
    (folder(config) / name).write_text("no such thing")
    with pytest.raises(PhfError, match=rf"{name}.* is .*: delete ") as error:
        status(config)
    assert "\n" not in str(error.value)


def test_shards_without_a_segment_or_a_document_are_done(told):
    config = told({"a": [], "b": ["", ""], "c": ["!\n"], "d": ["0\n", "", "0\n0\n"]})
    annotate(config)
    (found,) = status(config)
    assert (found.done, found.rows, found.bad_rows, found.segments) == (4, 6, 1, 3)
