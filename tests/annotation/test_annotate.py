import fcntl
import json
import multiprocessing
import os
import random
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import numpy as np
import pyarrow.parquet as pq
import pytest

from phf.annotation import pool, sidecars
from phf.annotation.annotate import annotate
from phf.annotation.annotations import Annotations
from phf.annotation.manifest import Counts
from phf.annotation.score_chunk import Chunk, score_chunk
from phf.base.errors import ConfigError, PhfError
from phf.base.typed_json import to_json
from phf.config import Config, load_config
from phf.documents.formats.base import Document
from phf.documents.shards import Shard
from scorers import load_scorer

ODD_SCORERS = '''
    import os
    import signal
    import time
    from fractions import Fraction
    from scorers import Score, Scorer, ScorerError, SegmentScorer, Span

    class Length(SegmentScorer):
        """Characters; cannot say of a segment that holds a question; writes down what it scores."""
        name, version, measures = "length", "1", "characters"
        range = (0.0, float("inf"))

        def __init__(self, seconds: float = 0.0, log: str | None = None):
            self.seconds, self.log = seconds, log

        def score_segments(self, segments):
            time.sleep(self.seconds)
            if self.log:
                with open(self.log, "a") as file:
                    file.write("".join(segments))
            return [Score(None if "?" in s else float(len(s)), (Span(0, 1, "first"),)) for s in segments]

    class Place(SegmentScorer):
        """Where it is scored: the number of the GPU, or of threads."""
        name, version, measures = "place", "1", "a number"

        def __init__(self, device: str = "cpu"):
            self.device = device

        def score_segments(self, segments):
            time.sleep(0.2)
            variable = "CUDA_VISIBLE_DEVICES" if self.device == "cuda" else "OMP_NUM_THREADS"
            return [Score(float(os.environ[variable])) for _ in segments]

    class Odd(Scorer):
        """Does to each document what its text says."""
        name, version, measures = "odd", "1", "oddities"

        def score(self, documents):
            found = []
            for segments in documents:
                scores, word = [Score(1.0) for _ in segments], "".join(segments).strip()
                if word == "raise":
                    raise KeyError("of all things\\nand more")
                if word == "unusable":
                    raise ScorerError("scorer odd: the licence has run out")
                if word == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if word == "quit":
                    raise SystemExit(0)
                found.append({
                    "short": scores[1:], "nan": [Score(float("nan"))], "negative": [Score(-0.5)],
                    "inf": [Score(float("inf"))], "none": None, "number": [1.0], "words": [Score("high")],
                    "span": [Score(1.0, (Span(0, 99, "x"),))], "half": [Score(1.0, (Span(0, 0.5, "x"),))],
                    "label": [Score(1.0, (Span(0, 1, 5),))], "big": [Score(1e39)], "huge": [Score(10**999)],
                    "complex": [Score(1j)], "fraction": [Score(Fraction(1, 2))],
                    "surrogate": [Score(None, (Span(0, 1, "\\ud800"),))],
                }.get(word, scores))
            return found

    class Broken(Scorer):
        """Works as long as there is a file."""
        name, version, measures = "broken", "1", "nothing"

        def __init__(self, file: str, calls: int):
            self.file, self.calls = file, calls

        def score(self, documents):
            self.calls -= 1
            if self.calls < 0 and not os.path.exists(self.file):
                raise RuntimeError("the device is lost\\nfor good")
            return [[Score(1.0) for _ in segments] for segments in documents]
'''


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Configures annotations of documents with a scorer of the module above."""
    (tmp_path / "odd_scorers.py").write_text(dedent(ODD_SCORERS))
    monkeypatch.syspath_prepend(tmp_path)

    def make(
        shards: dict[str, list[object]] | None = None, *overrides: str, scorer: str = "Length"
    ) -> Config:
        (tmp_path / "documents").mkdir(exist_ok=True)
        for name, rows in (shards or {}).items():
            lines = [json.dumps(row if isinstance(row, dict) else {"text": row}) + "\n" for row in rows]
            (tmp_path / "documents" / f"{name}.jsonl").write_text("".join(lines))
        return load_config(
            [
                f"documents.path={tmp_path / 'documents'}",
                f"annotations.path={tmp_path / 'annotations'}",
                "annotations.processes=1",
                "segmenter.name=line",
                f"scorer.name={scorer if scorer == 'pep8' else f'odd_scorers:{scorer}'}",
                *overrides,
            ]
        )

    yield make
    sys.modules.pop("odd_scorers", None)


def folder(config: Config) -> Path:
    return Path(config.annotations.path) / config.scorer.name


def rows(config: Config) -> dict[str, list[dict[str, object]]]:
    return {path.name: pq.read_table(path).to_pylist() for path in sorted(folder(config).glob("*.parquet"))}


def bad_rows(config: Config) -> list[tuple[str, int, str]]:
    paths = sorted(folder(config).glob("*.bad.jsonl"))
    found = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return [(row["shard"], row["row"], row["reason"]) for row in found]


def many(count: int, shards: int = 3, seed: int = 0) -> dict[str, list[str]]:
    rng = random.Random(seed)
    return {
        f"s{i}": [
            "".join(f"{i} {j} {'x' * rng.randrange(9)}{rng.choice('?!')}\n" for _ in range(rng.randrange(4)))
            for j in range(count)
        ]
        for i in range(shards)
    }


def test_a_sidecar_has_segments_scores_and_spans(corpus):
    config = corpus(
        {"a": ["x=1\ny = 2\n", {"text": "", "id": "nothing"}, {"no": 1}, "x = '''\nopen\n"]}, scorer="pep8"
    )
    manifest = annotate(config)
    (table,) = [pq.read_table(path) for path in folder(config).glob("*.parquet")]
    assert [str(field.type) for field in table.schema] == [
        "int64",
        "string",
        "string",
        "list<element: int32>",
        "list<element: float>",
        "list<element: struct<segment: int32, start: int32, end: int32, label: string>>",
    ]
    first, empty, last = table.to_pylist()
    assert first == {
        "row": 0,
        "id": "a.jsonl:0",
        "source": None,
        "segment_ends": [4, 10],
        "scores": [0.25, 0.0],
        "spans": [{"segment": 0, "start": 1, "end": 2, "label": "E225"}],
    }
    assert empty == {"row": 1, "id": "nothing", "source": None, "segment_ends": [], "scores": [], "spans": []}
    assert (last["row"], last["segment_ends"], last["scores"]) == (3, [8, 13], [0.125, 0.0])
    assert bad_rows(config) == [("a.jsonl", 2, "no field 'text', only 'no'")]
    assert to_json(manifest) == json.loads((folder(config) / "manifest.json").read_text())
    assert manifest.counts == Counts(documents=3, segments=4, unscored=0, bad_rows=1)
    assert manifest.mean == pytest.approx(0.09375)
    assert [manifest.quantiles[share] for share in ("0.5", "0.75", "0.9")] == [0.0, 0.125, 0.25]
    assert [shard.name for shard in manifest.shards] == ["a.jsonl"]
    assert manifest.segmenter == {"name": "line"}
    assert manifest.scorer.range == [0.0, None]
    assert manifest.scorer.fingerprint == load_scorer("pep8").fingerprint
    assert sorted(path.name for path in folder(config).iterdir()) == [
        "a.jsonl.bad.jsonl",
        "a.jsonl.parquet",
        "manifest.json",
    ]


@pytest.mark.slow
def test_every_segmenter_and_unicode_agree_with_the_text(corpus):
    texts = [
        "A sentence, e.g. this. Another? \u2028é\n\n\nA paragraph\r\n",
        "\U0001d518nicode. ✓\n" * 50,
        " \n \n",
        "x" * 50,
    ]
    for name in ("line", "sentence", "paragraph", "document"):
        config = corpus(
            {"a": texts}, f"segmenter.name={name}", "segmenter.max_chars=20", f"annotations.path={name}"
        )
        config.annotations.path = str(Path(config.documents.path).parent / name)
        annotate(config)
        for row, text in zip(rows(config)["a.jsonl.parquet"], texts, strict=True):
            ends = row["segment_ends"]
            assert ends[-1] == len(text)
            assert all(np.diff([0, *ends]) > 0)
            values = [None if "?" in text[a:b] else b - a for a, b in zip([0, *ends], ends, strict=False)]
            assert row["scores"] == values


@pytest.mark.slow
def test_several_processes_write_what_one_writes(corpus, tmp_path):
    shards = many(150)
    one, two = (
        corpus(shards, f"annotations.path={tmp_path / str(n)}", f"annotations.processes={n}") for n in (1, 2)
    )
    counts = [annotate(config).counts for config in (one, two)]
    assert rows(one) == rows(two)
    assert len(rows(one)) == 3
    assert counts[0] == counts[1]
    assert not multiprocessing.active_children()


def test_one_process_starts_no_other(corpus, monkeypatch):
    monkeypatch.setattr(pool, "ProcessPoolExecutor", None)
    annotate(corpus(many(5)))


def test_what_is_done_is_not_done_again(corpus, tmp_path):
    config = corpus(many(20), f"scorer.options.log={tmp_path / 'log'}")
    manifest = annotate(config)
    before = {path: path.stat().st_mtime_ns for path in folder(config).iterdir()}
    (tmp_path / "log").unlink()
    assert annotate(config) == manifest
    assert {path: path.stat().st_mtime_ns for path in folder(config).iterdir()} == before
    assert not (tmp_path / "log").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 2, 7, 30])
def test_a_shard_goes_on_after_its_last_part(corpus, tmp_path, monkeypatch, stop_after):
    monkeypatch.setattr(sidecars, "PART_DOCUMENTS", 70)
    monkeypatch.setattr("phf.annotation.annotate._UNWRITTEN_DOCUMENTS", 10)
    rows_of = [{"no": i} if i % 7 == 3 else f"document {i}\n" for i in range(300)]
    whole = corpus({"a": rows_of}, f"annotations.path={tmp_path / 'whole'}")
    annotate(whole)
    config = corpus({}, f"scorer.options.log={tmp_path / 'log'}")

    real, calls = sidecars.SidecarWriter.add, []

    def stop(writer, *arguments):
        calls.append(arguments)
        if len(calls) == stop_after:
            raise KeyboardInterrupt
        real(writer, *arguments)

    def finish_and_stop(writer):
        writer.save()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sidecars.SidecarWriter, "add", stop)
        if stop_after == 30:  # at the end, after the last part and before the sidecar
            patch.setattr(sidecars.SidecarWriter, "finish", finish_and_stop)
        with pytest.raises(KeyboardInterrupt):
            annotate(config)
    kept = [pq.read_metadata(path).num_rows for path in folder(config).glob(".*.parts/*.parquet")]
    assert max([0, *kept]) <= 70
    scored_before = (tmp_path / "log").read_text().count("\n")
    annotate(config)
    assert rows(config) == rows(whole)
    assert bad_rows(config) == bad_rows(whole)
    # What a part held was not scored a second time.
    scored = (tmp_path / "log").read_text().count("\n") - scored_before
    assert scored == len(rows(whole)["a.jsonl.parquet"]) - sum(kept)


PROGRAM = """
import sys
from phf.config import load_config
from phf.annotation import annotate, sidecars
if __name__ == "__main__":
    sidecars.PART_DOCUMENTS, annotate._UNWRITTEN_DOCUMENTS = 12, 8
    annotate.annotate(load_config(sys.argv[1:]))
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").glob("*/children")
        for child in task.read_text().split()
    ]
    return children + [below for child in children for below in descendants(child)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_any_moment_it_completes_without_a_wrong_or_a_double_row(corpus, tmp_path, processes):
    shards = many(90, shards=2, seed=1)
    shards["s0"][5:5] = [{"no": 1}, {"text": 2}]
    whole = corpus(shards, f"annotations.path={tmp_path / 'whole'}")
    manifest = annotate(whole)
    arguments = [
        f"documents.path={tmp_path / 'documents'}", f"annotations.path={tmp_path / 'annotations'}",
        "segmenter.name=line", "scorer.name=odd_scorers:Length", f"scorer.options.seconds={0.03 * processes}",
        f"annotations.processes={processes}",
    ]  # fmt: skip
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"}
    there = tmp_path / "annotations" / "odd_scorers:Length"
    rng = random.Random(processes)
    command = [sys.executable, str(tmp_path / "program.py"), *arguments]
    kills = 0
    for _ in range(4):
        progress = sorted(there.glob("**/*.parquet"))
        deadline = time.monotonic() + 60
        process = subprocess.Popen(command, env=environment)
        # Killed a moment after it has got on.
        while process.poll() is None and sorted(there.glob("**/*.parquet")) == progress:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(rng.random() * 0.05)
        below = descendants(process.pid)
        process.kill()
        kills += process.wait() == -9
        while any(map(alive, below)):
            assert time.monotonic() < deadline, "a scoring process outlives the main one"
            time.sleep(0.01)
    assert kills
    subprocess.run(command, env=environment, check=True, timeout=60)
    config = load_config(arguments)
    assert rows(config) == rows(whole)
    assert bad_rows(config) == bad_rows(whole)
    assert Annotations(there).manifest().counts == manifest.counts
    assert not [path for path in there.iterdir() if path.is_dir()]


@pytest.mark.slow
def test_parts_share_out_the_shards_and_the_last_one_counts(corpus, tmp_path):
    shards = many(10, shards=5)
    whole = annotate(corpus(shards, f"annotations.path={tmp_path / 'whole'}"))
    part = [corpus({}, "annotations.parts=3", f"annotations.part={i}") for i in range(3)]
    assert annotate(part[1]).counts is None
    assert list(rows(part[1])) == ["s1.jsonl.parquet", "s4.jsonl.parquet"]
    assert annotate(part[0]).counts is None
    assert annotate(part[1]).counts is None
    manifest = annotate(part[2])
    assert manifest == replace(whole, documents=manifest.documents)
    assert annotate(part[0]) == manifest


@pytest.mark.slow
def test_parts_may_run_at_the_same_time(corpus, tmp_path):
    whole = corpus(many(30, shards=6), f"annotations.path={tmp_path / 'whole'}")
    annotate(whole)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"}
    (tmp_path / "program.py").write_text(PROGRAM)
    arguments = [
        f"documents.path={tmp_path / 'documents'}", f"annotations.path={tmp_path / 'annotations'}",
        "segmenter.name=line", "scorer.name=odd_scorers:Length", "annotations.processes=1",
        "annotations.parts=3",
    ]  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "program.py"), *arguments, f"annotations.part={i}"],
            env=environment,
        )
        for i in range(3)
    ]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    config = load_config(arguments)
    assert rows(config) == rows(whole)
    assert Annotations(folder(config)).manifest().counts.documents == 180


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("scorer.options.ignore=[E501]", "another scorer: ignore=['E121', "),
        ("scorer.options.max_line_length=100", "another scorer: max_line_length=79, not 100"),
        ("segmenter.name=document", "another segmenter: name=line, not document"),
        ("documents.text_field=body", "documents.text_field=text, not body"),
        ("documents.limit=1", "documents.limit=None, not 1"),
        ("change", "other documents: shard b.jsonl has changed since"),
        ("add", "other documents: shard c.jsonl was not among them"),
        ("remove", "a shard b.jsonl that is not among the documents now"),
    ],
)
def test_other_inputs_than_in_the_manifest_are_refused(corpus, tmp_path, override, message):
    shards = {"a": ["x = 1\n"], "b": ["y = 2\n"]}
    before = corpus(shards, scorer="pep8")
    annotate(before)
    if override == "change":
        corpus({"b": ["y = 3\n", "more"]})
    elif override == "add":
        corpus({"c": ["z = 3\n"]})
    elif override == "remove":
        (tmp_path / "documents" / "b.jsonl").unlink()
    overrides = [override] if "=" in override else []
    with pytest.raises(ConfigError) as error:
        annotate(corpus(None, *overrides, scorer="pep8"))
    assert message in str(error.value)
    assert "choose another annotations.path, or delete the folder" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["jsonl", "txt"])
def test_what_is_written_among_the_documents_is_none(corpus, tmp_path, monkeypatch, suffix):
    config = corpus({"a": ["b\n"]}, "documents.path=.", "annotations.path=data/annotations", "store.path=s")
    monkeypatch.chdir(tmp_path / "documents")
    Path("a.jsonl").rename(f"a.{suffix}")
    (Path("s") / "train").mkdir(parents=True)
    (Path("s") / "train" / "x.parquet").write_text("no document")
    manifest = annotate(config)
    assert manifest.counts.documents == 1
    assert annotate(config) == manifest


def test_options_that_change_nothing_are_no_other_scorer(corpus):
    annotate(corpus({"a": ["x = 1\n"]}, scorer="pep8"))
    annotate(corpus(None, "scorer.options.max_line_length=79", "segmenter.max_chars=7", scorer="pep8"))


@pytest.mark.slow
def test_settings_that_are_no_json_are_written_as_text(corpus, monkeypatch):
    config = corpus({"a": ["b\n"]})
    settings = {"model": Path("a/b"), "limit": float("inf"), "labels": {0: ("a", 1)}}
    monkeypatch.setattr("odd_scorers.Length.settings", lambda self: settings, raising=False)
    monkeypatch.setattr("odd_scorers.Length.version", 2)
    assert annotate(config) == annotate(config)
    assert annotate(config).scorer.settings == {"model": "a/b", "limit": None, "labels": {"0": ["a", 1]}}
    assert annotate(config).scorer.version == "2"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"documents": 1}'])
def test_a_folder_of_something_else_is_refused(corpus, content):
    config = corpus({"a": ["b"]})
    folder(config).mkdir(parents=True)
    (folder(config) / "manifest.json").write_text(content)
    with pytest.raises(PhfError, match=r"is not the manifest of annotations: delete the folder"):
        annotate(config)


def test_a_folder_that_cannot_be_made_is_one_line(corpus, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PhfError, match=r"annotations.path: .*file.*: Not a directory"):
        annotate(corpus({"a": ["b"]}, f"annotations.path={tmp_path / 'file'}"))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_document_that_the_scorer_fails_on_is_a_bad_row(corpus, processes):
    wrong = ["raise", "quit", "short", "nan", "negative", "inf", "big", "huge", "complex"]
    wrong += ["none", "number", "words", "span", "half", "label"]
    words = ["fine", *wrong, "fraction", "surrogate"]
    config = corpus(
        {"a": [f"{word}\n" for word in words]}, f"annotations.processes={processes}", scorer="Odd"
    )
    manifest = annotate(config)
    scored = rows(config)["a.jsonl.parquet"]
    assert [row["row"] for row in scored] == [0, 16, 17]
    assert [row["scores"] for row in scored] == [[1.0], [0.5], [None]]
    assert scored[2]["spans"] == [{"segment": 0, "start": 0, "end": 1, "label": "?"}]
    reasons = {words[row]: reason for _, row, reason in bad_rows(config)}
    assert list(reasons) == wrong
    assert all(reason.startswith("scorer odd: ") and "\n" not in reason for reason in reasons.values())
    assert "KeyError: 'of all things" in reasons["raise"]
    assert "0 scores for 1 segments" in reasons["short"]
    assert "the score nan is not a number of 0 or more" in reasons["nan"]
    assert "the score -0.5 is" in reasons["negative"]
    assert "outside of its segment of 5 characters" in reasons["span"]
    assert "label that is not text" in reasons["label"]
    assert manifest.counts == Counts(documents=3, segments=3, unscored=1, bad_rows=15)
    assert manifest.mean == 0.75


@pytest.mark.parametrize("processes", [1, 2])
def test_a_scorer_that_cannot_be_used_stops_it(corpus, processes):
    config = corpus({"a": ["fine\n", "unusable\n"]}, f"annotations.processes={processes}", scorer="Odd")
    with pytest.raises(PhfError, match="the licence has run out"):
        annotate(config)
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("shards", "count"), [(1, 600), (100, 6)])
def test_a_scorer_that_breaks_stops_it_and_no_document_is_given_up(
    corpus, tmp_path, monkeypatch, processes, shards, count
):
    monkeypatch.setattr(sidecars, "PART_SECONDS", -1.0)
    monkeypatch.setattr("phf.annotation.annotate._UNWRITTEN_DOCUMENTS", 10 if processes == 1 else 40)
    texts = {f"s{i}": [f"{i} {j}\n" for j in range(count)] for i in range(shards)}
    options = [f"scorer.options.file={tmp_path / 'works'}", "scorer.options.calls=3"]
    config = corpus(texts, *options, f"annotations.processes={processes}", scorer="Broken")
    message = r"scorer broken: RuntimeError: the device is lost \(\d\d documents in a row have failed\); once"
    with pytest.raises(PhfError, match=message) as error:
        annotate(config)
    assert "\n" not in str(error.value)
    (tmp_path / "works").touch()
    counts = annotate(config).counts
    # Only what failed at the end of shards that were over before it was sure.
    assert counts.bad_rows < (32 * processes if shards > 1 else 1)
    assert counts.documents + counts.bad_rows == 600


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["", "raise\n"] * 32, "32 documents in a row have failed"),
        (["", "raise\n"], "none of 1 rows can be read and scored"),
    ],
)
def test_empty_documents_do_not_hide_a_broken_scorer(corpus, texts, message):
    with pytest.raises(PhfError, match=message):
        annotate(corpus({"a": texts}, scorer="Odd"))


def test_a_scoring_process_that_dies_is_one_line(corpus):
    config = corpus({"a": ["fine\n", "kill\n"]}, "annotations.processes=2", scorer="Odd")
    with pytest.raises(PhfError, match=r"a scoring process was killed .* the same command goes on from here"):
        annotate(config)


@pytest.mark.slow
def test_too_many_bad_rows_over_all_shards_stop_it(corpus):
    shards = {"a": ["fine\n", {"no": 1}, "nan\n"], "b": ["fine\n", {"no": 2}], "c": ["fine\n", "raise\n"]}
    config = corpus(shards, "documents.max_bad_rows=3", scorer="Odd")
    message = "4 rows cannot be read or scored, more than documents.max_bad_rows=3; "
    message += "the last is row 1 of shard c.jsonl: "
    for _ in range(2):
        with pytest.raises(PhfError, match=message + "scorer odd: KeyError") as error:
            annotate(config)
        assert [(shard, row) for shard, row, _ in bad_rows(config)] == [
            ("a.jsonl", 1),
            ("a.jsonl", 2),
            ("b.jsonl", 1),
            ("c.jsonl", 1),
        ]
    assert str(folder(config) / "c.jsonl.bad.jsonl") in str(error.value)
    assert annotate(corpus(None, "documents.max_bad_rows=4", scorer="Odd")).counts.bad_rows == 4
    with pytest.raises(PhfError, match=r"more than documents.max_bad_rows=2$"):
        annotate(corpus(None, "documents.max_bad_rows=2", scorer="Odd"))


def test_too_many_unreadable_rows_stop_it_at_once(corpus):
    config = corpus({"a": [{"no": i} for i in range(1000)]}, "documents.max_bad_rows=10")
    with pytest.raises(PhfError, match=r"^11 rows cannot be read"):
        annotate(config)
    assert len(bad_rows(config)) == 11


@pytest.mark.slow
def test_documents_that_all_fail_are_an_error(corpus):
    config = corpus({"a": [{"txt": "a"}, {"txt": "b"}]})
    for _ in range(2):
        with pytest.raises(
            PhfError, match=r"none of 2 rows .* the first is row 0 of shard a.jsonl: no field 'text'"
        ):
            annotate(config)
    with pytest.raises(PhfError, match="there is no document"):
        annotate(corpus({"a": []}, f"annotations.path={config.annotations.path}2"))


def test_documents_that_bring_their_scores_need_no_annotation(corpus):
    with pytest.raises(ConfigError, match="go straight to `phf tokenize`"):
        annotate(corpus({"a": ["b"]}, "documents.format=scored"))


def test_two_processes_do_not_write_one_shard(corpus):
    config = corpus({"a": ["b\n"]})
    lock = folder(config) / ".a.jsonl.parts" / "lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(PhfError, match=r"another process is annotating shard a\.jsonl"):
            annotate(config)
    assert annotate(config).counts.documents == 1


def test_nothing_is_printed_and_the_result_is_logged(corpus, capfd, caplog):
    with caplog.at_level("INFO", logger="phf"):
        annotate(corpus({"a": ["b?\n", {"no": 1}]}))
    assert capfd.readouterr() == ("", "")
    assert "1 segments of 1 documents, no scores; 1 segments without a score, 1 bad rows" in caplog.text


def test_lines_tell_the_progress_where_there_is_no_terminal(corpus, caplog, monkeypatch):
    monkeypatch.setattr("phf.documents.progress._SECONDS_BETWEEN_LINES", -1)
    with caplog.at_level("INFO", logger="phf"):
        annotate(corpus(many(10, shards=2)))
    lines = [line for line in caplog.messages if line.startswith("annotate: ")]
    assert lines[-1].startswith("annotate: 100 %, 2 of 2 shards, 20 documents, ")
    assert all(re.search(r", \d+:\d\d:\d\d left$", line) for line in lines)
    assert lines[-1].endswith(", 0:00:00 left")


@pytest.mark.slow
def test_several_scorers_read_the_documents_once(corpus, tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr(
        "phf.documents.shards.Shard.read", lambda *a, read=Shard.read: reads.append(a) or read(*a)
    )
    monkeypatch.setattr("phf.annotation.annotate._UNWRITTEN_DOCUMENTS", 10)
    monkeypatch.setattr(sidecars, "PART_DOCUMENTS", 20)
    shards = {"a": [{"no": 1}, *["x=1\n", "raise\n", "yes?\n"] * 20, {"no": 2}], "b": ["x = 1\n"]}
    names = ["odd_scorers:Odd", "odd_scorers:Length", "pep8"]
    alone = []
    for name in names:
        config = corpus(shards, f"annotations.path={tmp_path / 'alone'}", f"scorer.name={name}")
        annotate(config)
        alone.append((rows(config), bad_rows(config)))
    # One of them has some of the first shard already, and another all of it.
    with monkeypatch.context() as patch:
        patch.setattr(sidecars.SidecarWriter, "finish", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            annotate(corpus({}, f"scorer.name={names[1]}"))
    annotate(corpus({}, "annotations.parts=2", "scorer.name=pep8"))
    reads.clear()
    config = corpus({}, f"scorer.name={names[0]}", f"annotations.also=[{{name: {names[1]}}},{{name: pep8}}]")
    manifest = annotate(config)
    assert len(reads) == 2
    assert manifest.scorer.name == names[0]
    for name, expected in zip(names, alone, strict=True):
        config.scorer.name = name
        assert (rows(config), bad_rows(config)) == expected


def test_two_scorers_of_one_name_need_a_column(corpus):
    with pytest.raises(ConfigError, match="two scorers keep their scores as pep8: give one of them another"):
        corpus({}, "annotations.also=[{name: pep8}]", scorer="pep8")
    corpus({}, "annotations.also=[{name: pep8, column: strict}]", scorer="pep8")


@pytest.mark.slow
@pytest.mark.parametrize(("device", "places"), [("cpu", {max(1, pool.num_cores() // 2)}), ("cuda", {3, 5})])
def test_a_scoring_process_has_cores_or_a_gpu_of_its_own(corpus, monkeypatch, device, places):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("phf.annotation.annotate._UNWRITTEN_DOCUMENTS", 1)
    processes = 0 if device == "cuda" else 2
    options = f"scorer.options.device={device}", f"annotations.processes={processes}"
    config = corpus({"a": [f"{i}\n" for i in range(30)]}, *options, scorer="Place")
    annotate(config)
    assert {score for row in rows(config)["a.jsonl.parquet"] for score in row["scores"]} == places


def test_a_certain_device_has_one_process(corpus):
    corpus()
    scorers = {"place": load_scorer("odd_scorers:Place", device="cuda:1")}
    assert pool.Scoring(scorers, {}, load_config([]).segmenter, 0).most_waiting == 1


def test_only_chunks_since_a_failure_are_held_back(corpus):
    config = corpus()
    scorers = {name: load_scorer("odd_scorers:Odd") for name in ("one", "other")}
    work = pool.Scoring(scorers, {}, config.segmenter, 1)
    read = []

    def chunks(*texts: tuple[str, str]):
        for row, (name, text) in enumerate(texts):
            read.append(row)
            yield Chunk([(row, Document(str(row), text))], [name], 0)

    def given_back(*texts: tuple[str, str]) -> list[tuple[int, int]]:
        """After how many were read each was given back."""
        read.clear()
        return [(len(read), chunk.next_row - 1) for chunk, _ in work.run(chunks(*texts))]

    fails = ("one", "raise"), ("other", "raise"), ("one", "a"), ("one", "raise"), ("other", "a")
    assert given_back(("one", "a"), *fails) == [(1, 0), (4, 1), (6, 2), (6, 3), (6, 4), (6, 5)]
    # What failed at the end of a shard holds back nothing of another, which that scorer has scored already.
    assert given_back(("other", "a"), ("other", "b")) == [(1, 0), (2, 1)]


def test_a_scorer_broken_in_all_of_many_processes_is_told_at_once(corpus, monkeypatch):
    segments = corpus().segmenter
    scorers = {"odd": load_scorer("odd_scorers:Odd")}
    work = pool.Scoring(scorers, {}, segments, 1)
    chunks = [Chunk([(row, Document(str(row), "raise"))], ["odd"], 0) for row in range(40)]
    scored = [
        (chunk, (process % 16, score_chunk(chunk, scorers, lambda text: [text])))
        for process, chunk in enumerate(chunks)
    ]
    monkeypatch.setattr(work, "_scored", lambda chunks: scored)
    with pytest.raises(PhfError, match="32 documents in a row have failed"):
        list(work.run(chunks))


def test_a_chunk_is_scored_as_its_documents_are(corpus):
    corpus()
    scorer = load_scorer("odd_scorers:Odd")
    documents = [(i, Document(str(i), text)) for i, text in enumerate(["a", "raise", "b", "nan"], 5)]
    chunk = Chunk(documents, ["odd"], 0)
    scored = score_chunk(chunk, {"odd": scorer, "idle": scorer}, lambda text: [text]).pop("odd")
    assert [annotation.row for annotation in scored.annotations] == [5, 7]
    assert [row for row, _ in scored.failed] == [6, 8]
    assert chunk.next_row == 9
