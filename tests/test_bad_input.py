"""What is wrong with documents, scorers, processes and disks, through the command line."""

import gzip
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from phf.cli import main
from phf.store.store import SPLITS, TokenStore
from scorers import load_scorer

SCORERS = '''
    import os
    import signal
    import sys
    from scorers import Score, Scorer

    class Odd(Scorer):
        """Does to a document what its first word says, as long as the file `broken` is there."""
        name, version, measures = "odd", "1", "oddities"

        def score(self, documents):
            found = []
            for segments in documents:
                scores, word = [Score(0.5) for _ in segments], "".join(segments).partition(" ")[0]
                if os.path.exists("broken"):
                    if word == "raise":
                        raise RuntimeError("of all things\\nand more")
                    if word == "exit":
                        sys.exit("enough")
                    if word == "kill":
                        os.kill(os.getpid(), signal.SIGKILL)
                    scores = {
                        "few": scores[1:], "many": [*scores, Score(0.0)], "nan": [Score(float("nan"))],
                        "negative": [Score(-1.0)], "inf": [Score(float("inf"))], "string": [Score("0.5")],
                    }.get(word, scores)
                found.append(scores)
            return found
'''
WRONG = ("raise", "exit", "few", "many", "nan", "negative", "inf", "string")


@pytest.fixture
def phf(tmp_path, monkeypatch, capfd):
    """Runs a verb of the command line on `documents` in an empty folder: exit code and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("bad_scorers.py").write_text(dedent(SCORERS))
    Path("documents").mkdir()

    def run(verb: str, *overrides: str) -> tuple[int, str]:
        code = main(
            [
                verb, "documents.path=documents", "segmenter.name=line", "scorer.name=bad_scorers:Odd",
                "annotations.path=annotations", "annotations.processes=1", "store.path=store",
                "store.heldout_fraction=0.2", "tokenizer.train=true", "tokenizer.vocab_size=300", *overrides,
            ]
        )  # fmt: skip
        out, err = capfd.readouterr()
        assert not out
        assert "Traceback" not in err
        return code, err

    yield run
    sys.modules.pop("bad_scorers", None)


def jsonl(rows: object) -> bytes:
    return b"".join(
        row if isinstance(row, bytes) else json.dumps({"text": row}).encode() + b"\n" for row in rows
    )


def listed(folder: str = "annotations/bad_scorers:Odd") -> dict[tuple[str, int], str]:
    """Reasons of the side files, by shard and row."""
    lines = [line for path in Path(folder).glob("*.bad.jsonl") for line in path.read_text().splitlines()]
    return {(row["shard"], row["row"]): row["reason"] for row in map(json.loads, lines)}


def counts(folder: str = "annotations/bad_scorers:Odd") -> dict[str, int]:
    return json.loads(Path(folder, "manifest.json").read_text())["counts"]


def contents(folder: str) -> dict[str, object]:
    """All that is written, but for the manifests: they say where the documents are."""
    files = sorted(
        path for path in Path(folder).rglob("*") if path.is_file() and path.name != "manifest.json"
    )
    return {
        str(path.relative_to(folder)): pq.read_table(path).to_pylist()
        if path.suffix == ".parquet"
        else path.read_bytes()
        for path in files
    }


def one_line(err: str) -> str:
    """The last line: what the command has to say, after the warnings of libraries."""
    assert err.endswith("\n")
    return err.splitlines()[-1]


@pytest.mark.slow
def test_bad_rows_are_listed_and_all_else_is_scored_and_tokenized(phf):
    Path("broken").touch()
    good = ["fine\n", "nul \0 within\n\0", "", "the last\n"]
    unreadable = [
        b'{"text": "\xff\xfe"}\n', b'{"text": "\\ud800"}\n', b"\0\0\0\n", b'{"body": "no text"}\n',
        b'{"text": 5}\n', b'{"text": ["a", "list"]}\n', b"{" + b'"f": 1, ' * 10_000 + b'"g": 1}\n',
        json.dumps({f"field {i}": 1 for i in range(5000)}).encode() + b"\n",
    ]  # fmt: skip
    rows = [good[0], *unreadable, good[1], *(f"{word} \n" for word in WRONG), *good[2:]]
    Path("documents/a.jsonl").write_bytes(jsonl(rows))
    Path("documents/empty.jsonl").touch()
    Path("documents/b.jsonl").write_bytes(jsonl(f"document {i}\n" for i in range(20)))
    code, err = phf("annotate")
    assert code == 0, err
    reasons = listed()
    first_wrong = 2 + len(unreadable)
    assert list(reasons) == [
        ("a.jsonl", row)
        for row in [*range(1, 1 + len(unreadable)), *range(first_wrong, first_wrong + len(WRONG))]
    ]
    assert all("\n" not in reason and len(reason) < 300 for reason in reasons.values())
    assert "the score 0.5 is not a number" in reasons["a.jsonl", first_wrong + WRONG.index("string")]
    assert "SystemExit: enough" in reasons["a.jsonl", first_wrong + WRONG.index("exit")]
    found = counts()
    assert found["documents"] + found["bad_rows"] == len(rows) + 20
    assert found["bad_rows"] == len(reasons)

    code, err = phf("tokenize")
    assert code == 0, err
    store = TokenStore(Path("store"))
    tokens = store.manifest.counts
    in_splits = sum(store.split(split).num_documents for split in SPLITS)
    assert in_splits + tokens.empty_documents == found["documents"]
    texts = "".join(store.tokenizer().decode(store.split(split).tokens.tolist()) for split in SPLITS)
    assert len(texts) == sum(map(len, good)) + sum(len(f"document {i}\n") for i in range(20))
    assert good[1] in texts


@pytest.mark.slow
def test_past_the_limit_it_stops_and_a_higher_one_goes_on(phf):
    Path("broken").touch()
    Path("documents/a.jsonl").write_bytes(jsonl(["fine\n", 1, "raise \n", *["fine\n"] * 10, 2, "fine\n"]))
    assert phf("annotate", "annotations.path=whole")[0] == 0
    code, err = phf("annotate", "documents.max_bad_rows=2")
    assert code == 1
    assert (
        "3 rows cannot be read or scored, more than documents.max_bad_rows=2; the last is row "
        in one_line(err)
    )
    code, err = phf("tokenize")
    assert code == 1
    assert "is not annotated yet" in one_line(err)
    assert phf("annotate", "documents.max_bad_rows=3")[0] == 0
    assert contents("annotations") == contents("whole")
    # The paper's format is read by `tokenize` alone.
    Path("scored").mkdir()
    rows = [{"texts": ["a\n"], "scores": [0.5]}] * 9 + [{"texts": ["a"]}, {"texts": ["a"], "scores": ["b"]}]
    Path("scored/a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scored = ["documents.path=scored", "documents.format=scored", "store.heldout_fraction=0"]
    code, err = phf("tokenize", *scored, "documents.max_bad_rows=1")
    assert code == 1
    assert "2 rows cannot be read, more than documents.max_bad_rows" in one_line(err)
    assert not Path("store").exists()
    assert phf("tokenize", *scored, "documents.max_bad_rows=2")[0] == 0
    manifest = json.loads(Path("store/manifest.json").read_text())
    assert manifest["counts"]["train"]["documents"] + manifest["counts"]["bad_rows"] == len(rows)
    assert len(Path("store/bad.jsonl").read_text().splitlines()) == 2


def write_parquet(path: Path, texts: list[str]) -> bytes:
    pq.write_table(pa.table({"text": texts}), path, row_group_size=500)
    return path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["jsonl.gz", "jsonl.zst", "parquet"])
def test_a_file_that_is_cut_short(phf, suffix):
    texts = [f"document {i} {i * i * 7919}\n" for i in range(8000)]
    path = Path(f"documents/b.{suffix}")
    pack = {"jsonl.gz": gzip.compress, "jsonl.zst": zstandard.ZstdCompressor().compress}.get(suffix)
    whole = pack(jsonl(texts)) if pack else write_parquet(path, texts)
    Path("documents/a.jsonl").write_bytes(jsonl(["fine\n"]))
    for length in (len(whole) // 2, 0):
        path.write_bytes(whole[:length])
        code, err = phf("annotate", f"annotations.path=cut{length}")
        if pack and length:  # what came before the cut is used, and the cut is told
            assert code == 0, err
            found = counts(f"cut{length}/bad_scorers:Odd")
            ((shard, row),) = reasons = listed(f"cut{length}/bad_scorers:Odd")
            assert (shard, row) == (path.name, found["documents"] - 1)
            assert found["bad_rows"] == 1
            assert reasons[shard, row].startswith("the rest of the file cannot be read: Truncated")
        else:
            assert code == 1
            assert f"{path}: cannot be read: " in one_line(err)
            # What is scored already is kept; nothing passes for the scores of the broken file.
            assert [file.name for file in Path(f"cut{length}").rglob("*.parquet")] == ["a.jsonl.parquet"]


def resize(disk: Path, kilobytes: int) -> None:
    """Gives a disk another size, but not a smaller one than what is on it."""
    size = max(kilobytes, shutil.disk_usage(disk).used // 1024)
    subprocess.run(["mount", "-o", f"remount,size={size}k", str(disk)], check=True)


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def many_documents(phf):
    """More than goes on the small disk."""
    texts = [f"document {i * 7919} {i * i * 104729} {i**3 * 13}\n" * (1 + i % 3) for i in range(2400)]
    Path("documents/a.jsonl").write_bytes(jsonl([*texts[:2000], 5, *texts[2000:]]))
    assert phf("annotate", "annotations.path=whole")[0] == 0
    assert phf("tokenize", "annotations.path=whole", "store.path=whole-store")[0] == 0


@pytest.mark.slow
def test_on_a_full_disk_it_stops_and_goes_on_once_there_is_room(phf, disk, many_documents):
    for verb in ("annotate", "tokenize"):
        resize(disk, 16)
        code, err = phf(verb, "annotations.path=disk/annotations", "store.path=disk/store")
        assert code == 1
        assert re.search(r": disk/\S+ cannot be written: No space left on device; once it can", one_line(err))
        assert not Path("disk/store").exists()
        resize(disk, 8192)
        code, err = phf(verb, "annotations.path=disk/annotations", "store.path=disk/store")
        assert code == 0, err
        assert contents("disk/annotations") == contents("whole")
    assert contents("disk/store") == contents("whole-store")


@pytest.mark.slow
def test_a_file_that_may_not_grow_leaves_nothing_wrong(phf, many_documents):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for verb in ("annotate", "tokenize"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
        try:
            code, err = phf(verb)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert code == 1
        assert re.search(r" cannot be written: File too large; once it can, the same", one_line(err))
        assert phf(verb)[0] == 0
    assert contents("annotations") == contents("whole")
    assert contents("store") == contents("whole-store")


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_one_line(phf, disk):
    Path("documents/a.jsonl").write_bytes(jsonl(f"document {i}\n" for i in range(20)))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    paths = ["annotations.path=disk/annotations", "store.path=disk/store"]
    code, err = phf("annotate", *paths)
    assert code == 1
    assert re.search(r"annotations\.path: disk/annotations\S*: Read-only file system", one_line(err))
    subprocess.run(["mount", "-o", "remount,rw,size=1m", str(disk)], check=True)
    assert phf("annotate", *paths)[0] == 0
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert phf("annotate", *paths)[0] == 0  # there is nothing to do
    code, err = phf("tokenize", *paths)
    assert code == 1
    assert "Read-only file system" in one_line(err)
    assert "disk/" in one_line(err)
    subprocess.run(["mount", "-o", "remount,rw,size=1m", str(disk)], check=True)
    assert phf("tokenize", *paths)[0] == 0


@pytest.mark.slow
def test_after_a_scoring_process_was_killed_the_same_command_completes(phf):
    texts = [*(f"document {i}\n" for i in range(300)), "kill \n", *(f"document {i}\n" for i in range(300))]
    Path("documents/a.jsonl").write_bytes(jsonl(texts))
    assert phf("annotate", "annotations.path=whole")[0] == 0
    Path("broken").touch()
    code, err = phf("annotate", "annotations.processes=2")
    assert code == 1
    assert "a scoring process was killed" in one_line(err)
    Path("broken").unlink()
    assert phf("annotate", "annotations.processes=2")[0] == 0
    assert contents("annotations") == contents("whole")


PROGRAM = """
import resource, sys, time
from phf.cli import main
for segmenter in ("line", "sentence", "paragraph", "document"):
    start = time.monotonic()
    assert main([*sys.argv[1:], f"segmenter.name={segmenter}", f"annotations.path={segmenter}"]) == 0
    seconds = time.monotonic() - start
    print(segmenter, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=sys.stderr)
    assert seconds < 40
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1_500_000
"""


@pytest.mark.slow
def test_documents_of_50_megabytes_are_scored(tmp_path):
    line = "a line of characters that holds nothing odd" * 5 + "\n"
    texts = ["x=1;" * 12_500_000, line * (50_000_000 // len(line)), "fine\n"]
    (tmp_path / "a.jsonl").write_bytes(jsonl(texts))
    arguments = ["annotate", "documents.path=a.jsonl", "annotations.processes=1"]
    scorer = ["scorer.name=words", "scorer.options.words=[fox]"]
    command = [sys.executable, "-c", PROGRAM, *arguments, *scorer]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for segmenter in ("line", "sentence", "paragraph", "document"):
        (path,) = (tmp_path / segmenter).rglob("*.parquet")
        ends = pq.read_table(path)["segment_ends"].to_pylist()
        assert [row[-1] for row in ends] == [len(text) for text in texts]
    # As a check of every character would last minutes, `pep8` looks at the beginning of a long line only.
    start = time.monotonic()
    load_scorer("pep8").score([texts[:1]])
    assert time.monotonic() - start < 20


@pytest.mark.slow
def test_a_damaged_file_may_be_replaced_before_it_is_scored(phf):
    whole = gzip.compress(jsonl(["one\n", "two\n"]))
    Path("documents/a.jsonl").write_bytes(jsonl(["zero\n"]))
    Path("documents/b.jsonl.gz").write_bytes(whole[:10])
    code, err = phf("annotate")
    assert code == 1
    assert "b.jsonl.gz: cannot be read" in one_line(err)
    Path("documents/b.jsonl.gz").write_bytes(whole)
    assert phf("annotate")[0] == 0
    assert phf("annotate")[0] == 0
    assert phf("tokenize")[0] == 0
    # What is scored already stays what it was made of.
    Path("documents/b.jsonl.gz").write_bytes(gzip.compress(jsonl(["three\n"])))
    code, err = phf("annotate")
    assert code == 2
    assert "shard b.jsonl.gz has changed since" in one_line(err)


@pytest.mark.slow
def test_a_shard_that_is_deleted_to_be_scored_again_is_counted_again(phf):
    for name in ("a", "b"):
        Path(f"documents/{name}.jsonl").write_bytes(jsonl(["one\n", "raise it\n"]))
    Path("broken").touch()
    assert phf("annotate")[0] == 0
    assert counts()["bad_rows"] == 2
    Path("broken").unlink()
    Path("annotations/bad_scorers:Odd/b.jsonl.parquet").unlink()
    assert phf("annotate", "annotations.parts=2")[0] == 0  # the part of the other shard
    assert counts() is None
    assert phf("annotate")[0] == 0
    assert counts() == {"documents": 3, "segments": 3, "unscored": 0, "bad_rows": 1}


def test_what_a_scorer_says_of_its_failure_is_cut_short(phf):
    Path("mine.py").write_text(
        dedent("""
        from scorers import SegmentScorer

        class Loud(SegmentScorer):
            name, version, measures = "loud", "1", "nothing"

            def score_segments(self, segments):
                raise ValueError("bad\x1b[31m " + "y" * 100_000 + "\\rmore")
        """)
    )
    Path("documents/a.jsonl").write_bytes(jsonl(["one\n"]))
    code, err = phf("annotate", "scorer.name=mine.py:Loud")
    assert code == 1
    assert "scorer loud: ValueError: bad?[31m yyy" in one_line(err)
    assert len(err) < 600
