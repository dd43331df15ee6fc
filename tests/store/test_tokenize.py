import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import numpy as np
import pyarrow.parquet as pq
import pytest

from phf.annotation.annotate import annotate
from phf.base.errors import ConfigError, PhfError
from phf.base.locks import lock
from phf.config import Config, ScorerConfig, load_config
from phf.store.store import SPLITS, TokenStore
from phf.store.tokenize import split_of, tokenize

TEXTS = [f"def f{i}(a,b):\n    return a+{i}\n{'x=1' * (i % 3)}\n# <|endoftext|>é\n" for i in range(60)]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Writes documents and configures a store of them."""
    monkeypatch.chdir(tmp_path)

    def make(shards: dict[str, list[object]] | None = None, *overrides: str) -> Config:
        Path("documents").mkdir(exist_ok=True)
        for name, rows in (shards or {}).items():
            lines = [json.dumps(row if isinstance(row, dict) else {"text": row}) + "\n" for row in rows]
            Path(f"documents/{name}.jsonl").write_text("".join(lines))
        return load_config(
            [
                "documents.path=documents",
                "annotations.path=annotations",
                "annotations.processes=1",
                "segmenter.name=line",
                "store.path=store",
                "store.heldout_fraction=0.2",
                "tokenizer.train=true",
                "tokenizer.vocab_size=320",
                *overrides,
            ]
        )

    return make


def documents_of(store: TokenStore, split_name: str, scorer: str) -> dict[tuple[str, int], list]:
    """Segments of each document with their scores, by shard and row."""
    split, tokenizer = store.split(split_name), store.tokenizer()
    names = list(store.manifest.shards)
    tokens = np.split(split.tokens, split.segment_ends[:-1])
    texts = [tokenizer.decode(t.tolist(), clean_up_tokenization_spaces=False) for t in tokens]
    segments = list(zip(texts, split.scores(scorer).tolist(), strict=True))
    found, start = {}, 0
    for end, shard, row in zip(split.document_ends, split.document_shards, split.document_rows, strict=True):
        found[names[shard], int(row)] = segments[start:end]
        start = int(end)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_store_holds_each_segment_with_its_score(corpus):
    config = corpus({"a": TEXTS[:40], "b": [*TEXTS[40:], {"no": 1}, ""]})
    annotate(config)
    store = tokenize(config)
    assert store.scorers == ["pep8"]
    found = {name: documents_of(store, name, "pep8") for name in SPLITS}
    assert not found["train"].keys() & found["heldout"].keys()
    expected = {}
    for shard in ("a.jsonl", "b.jsonl"):
        lines = Path(f"documents/{shard}").read_text().splitlines()
        for entry in pq.read_table(f"annotations/pep8/{shard}.parquet").to_pylist():
            text = json.loads(lines[entry["row"]])["text"]
            starts = [0, *entry["segment_ends"]]
            pieces = [text[a:b] for a, b in itertools.pairwise(starts)]
            if text:
                expected[shard, entry["row"]] = list(zip(pieces, entry["scores"], strict=True))
    written = found["train"] | found["heldout"]
    assert written.keys() == expected.keys()
    assert len(written) == 60
    for key, segments in written.items():
        assert [text for text, _ in segments] == [text for text, _ in expected[key]]
        np.testing.assert_array_equal([s for _, s in segments], np.float32([s for _, s in expected[key]]))
    counts = store.manifest.counts
    assert counts.empty_documents == 1
    assert counts.train.documents == len(found["train"])
    assert counts.train.tokens == store.split("train").num_tokens
    for name in SPLITS:
        split = store.split(name)
        ends = split.segment_ends[split.document_ends - 1]
        np.testing.assert_array_equal(split.document_token_ends, ends)
        scores = np.split(split.scores("pep8"), split.document_ends[:-1])
        means = [np.nanmean(s, dtype=np.float64) for s in scores]
        np.testing.assert_allclose(split.document_scores("pep8"), means, rtol=1e-6)
        assert split.document_num_scored("pep8").tolist() == [int((~np.isnan(s)).sum()) for s in scores]


def test_text_that_looks_like_a_mark_is_text(corpus):
    config = corpus({"a": TEXTS})
    annotate(config)
    store = tokenize(config)
    for name in SPLITS:
        assert store.manifest.vocabulary["eos_token"] == "<|endoftext|>"
        assert not (store.split(name).tokens == store.tokenizer().eos_token_id).any()


def test_equal_documents_fall_on_one_side(corpus):
    config = corpus({"a": TEXTS, "b": TEXTS[::-1]})
    annotate(config)
    store = tokenize(config)
    heldout = documents_of(store, "heldout", "pep8")
    rows = {shard: {row for s, row in heldout if s == shard} for shard in ("a.jsonl", "b.jsonl")}
    assert rows["a.jsonl"] == {59 - row for row in rows["b.jsonl"]}
    assert 4 <= len(rows["a.jsonl"]) <= 22
    shares = [np.mean([split_of(str(i), f) == "heldout" for i in range(20_000)]) for f in (0, 0.01, 0.5)]
    assert shares == pytest.approx([0, 0.01, 0.5], abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("vocab_size", "dtype"), [(300, "uint16"), (70_000, "uint32")])
def test_tokens_are_as_small_as_the_vocabulary_allows(corpus, vocab_size, dtype):
    config = corpus({"a": TEXTS[:10]}, "store.heldout_fraction=0")
    from phf.store.tokenizer import train_tokenizer

    tokenizer = train_tokenizer([TEXTS], 300)
    tokenizer.add_tokens([f"unheard-of-{i}" for i in range(vocab_size - len(tokenizer))])
    tokenizer.save_pretrained("mine")
    annotate(config)
    store = tokenize(replace(config, tokenizer=replace(config.tokenizer, train=False, name="mine")))
    assert store.split("train").tokens.dtype == dtype
    assert "".join(t for t, _ in documents_of(store, "train", "pep8")["a.jsonl", 3]) == TEXTS[3]
    assert store.split("heldout").num_documents == 0


def test_documents_that_bring_their_scores_need_no_annotation(corpus):
    rows = [{"texts": ["One. ", "", "Two."], "scores": [0.5, 0.1, None]}, {"texts": ["x"], "scores": [1]}]
    config = corpus(
        {"a": [*rows, {"texts": "x", "scores": 1}]},
        "documents.format=scored",
        "scorer.name=theirs",
        "store.heldout_fraction=0",
    )
    store = tokenize(config)
    found = documents_of(store, "train", "theirs")
    assert [text for text, _ in found["a.jsonl", 0]] == ["One. ", "Two."]
    np.testing.assert_array_equal([score for _, score in found["a.jsonl", 0]], [0.5, np.nan])
    assert store.split("train").document_scores("theirs").tolist() == [0.5, 1.0]
    assert store.manifest.counts.bad_rows == 1
    (line,) = Path("store/bad.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "shard": "a.jsonl", "row": 2, "reason": "field 'texts' is not a list but str",
    }  # fmt: skip
    with pytest.raises(PhfError, match=r"1 rows cannot be read, more than documents.max_bad_rows; the last"):
        tokenize(
            replace(
                config,
                documents=replace(config.documents, max_bad_rows=0),
                store=replace(config.store, path="other"),
            )
        )
    assert not Path("other").exists()


def test_a_store_that_fits_is_kept(corpus, caplog):
    config = corpus({"a": TEXTS})
    annotate(config)
    tokenize(config)
    before = contents(Path("store"))
    with caplog.at_level("INFO", "phf"):
        tokenize(config)
    assert "store is there already: nothing to do" in caplog.text
    assert contents(Path("store")) == before


def test_the_same_documents_give_the_same_store(corpus):
    config = corpus({"a": TEXTS, "b": TEXTS[:9]})
    annotate(config)
    first = contents(tokenize(config).path)
    assert contents(tokenize(replace(config, store=replace(config.store, path="again"))).path) == first


@pytest.mark.slow
def test_a_later_scorer_adds_a_column(corpus, tmp_path, monkeypatch):
    (tmp_path / "length_scorer.py").write_text(
        dedent("""
            from scorers import Score, SegmentScorer

            class Length(SegmentScorer):
                name, version, measures = "length", "1", "characters"
                range = (0.0, 1e9)

                def score_segments(self, segments):
                    return [Score(float(len(s))) for s in segments]
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = corpus({"a": TEXTS[:40], "b": TEXTS[40:]})
    annotate(config)
    tokenize(config)
    before = contents(Path("store"))
    other = replace(config, scorer=replace(config.scorer, name="length_scorer:Length"))
    annotate(other)
    store = tokenize(other)
    assert len(store.scorers) == 2
    (added,) = set(store.scorers) - {"pep8"}
    after = contents(Path("store"))
    assert {name for name in before if before[name] != after[name]} == {"manifest.json"}
    assert len(after) == len(before) + 6
    for name in SPLITS:
        for segments in documents_of(store, name, added).values():
            assert all(score == len(text) for text, score in segments)
    # Both at once are the same store.
    both = tokenize(replace(other, store=replace(config.store, path="both")))
    at_once = contents(both.path)
    assert {n: b for n, b in at_once.items() if n != "manifest.json"} == {
        n: b for n, b in after.items() if n != "manifest.json"
    }


def test_one_scorer_with_other_options_is_another_column(corpus):
    config = corpus({"a": TEXTS})
    annotate(config)
    overrides = ["scorer.column=strict", "scorer.options.max_line_length=10"]
    strict = corpus(None, *overrides)
    annotate(strict)
    store = tokenize(strict)
    assert sorted(store.scorers) == ["pep8", "strict"]
    assert store.manifest.scores["strict"].scorer.name == "pep8"
    assert store.manifest.scores["strict"].mean > store.manifest.scores["pep8"].mean


@pytest.mark.slow
def test_a_column_that_was_cut_otherwise_is_refused(corpus):
    config = corpus({"a": TEXTS})
    annotate(config)
    tokenize(config)
    before = contents(Path("store"))
    other = replace(
        config,
        segmenter=replace(config.segmenter, name="document"),
        annotations=replace(config.annotations, path="by_document"),
    )
    annotate(other)
    with pytest.raises(ConfigError, match=r"store was made with segmenter.name=line, not document: choose"):
        tokenize(other)
    assert contents(Path("store")) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tokenizer.vocab_size=300", r"made with tokenizer.vocab_size=320, not 300: choose another"),
        ("store.heldout_fraction=0.5", r"made with store.heldout_fraction=0.2, not 0.5"),
    ],
)
def test_another_store_is_not_written_over(corpus, override, message):
    config = corpus({"a": TEXTS})
    annotate(config)
    tokenize(config)
    with pytest.raises(ConfigError, match=message):
        tokenize(corpus(None, override))


def test_documents_that_changed_are_one_line(corpus):
    config = corpus({"a": TEXTS})
    annotate(config)
    tokenize(config)
    time.sleep(0.01)
    corpus({"a": TEXTS[1:]})
    with pytest.raises(PhfError, match=r"annotations/pep8: shard a.jsonl .* annotate again"):
        tokenize(config)


def test_annotations_that_are_missing_are_one_line(corpus):
    config = corpus({"a": TEXTS})
    with pytest.raises(PhfError, match="annotations: no annotations there; run `phf annotate` first"):
        tokenize(config)
    annotate(config)
    corpus({"b": TEXTS})
    with pytest.raises(PhfError, match=r"shard b.jsonl is not there or has changed since then: annotate"):
        tokenize(config)
    Path("documents/b.jsonl").unlink()
    Path("annotations/pep8/a.jsonl.parquet").unlink()
    with pytest.raises(PhfError, match=r"shard a.jsonl is not annotated yet; run `phf annotate` to the end"):
        tokenize(config)
    assert not Path("store").exists()


def test_a_scorer_whose_scores_are_not_there_is_one_line(corpus):
    config = corpus({"a": TEXTS[:5]})
    annotate(config)
    with pytest.raises(PhfError, match="no scores of other, only of pep8; run `phf annotate` first"):
        tokenize(replace(config, scorer=ScorerConfig("other")))


def test_a_store_has_one_writer(corpus):
    config = corpus({"a": TEXTS})
    annotate(config)
    with (
        lock(Path(".store.lock"), "busy"),
        pytest.raises(PhfError, match=r"^store: another process"),
    ):
        tokenize(config)
    assert tokenize(config).scorers == ["pep8"]


def test_nothing_to_train_on_is_one_line(corpus):
    config = corpus({"a": [""] * 3})
    annotate(config)
    with pytest.raises(PhfError, match=r"no document is left to train on \(0 are held out, 3 are without"):
        tokenize(config)
    assert not Path("store").exists()


def test_a_folder_of_something_else_is_refused(corpus):
    config = corpus({"a": TEXTS})
    annotate(config)
    Path("store").mkdir()
    Path("store/thesis.txt").write_text("years of work")
    with pytest.raises(PhfError, match=r"store holds something other than a token store: choose another"):
        tokenize(config)
    assert Path("store/thesis.txt").read_text() == "years of work"


@pytest.mark.slow
def test_killed_at_any_moment_it_completes(corpus):
    config = corpus({"a": TEXTS * 10, "b": TEXTS * 5})
    annotate(config)
    expected = contents(tokenize(replace(config, store=replace(config.store, path="whole"))).path)
    arguments = [
        "documents.path=documents", "annotations.path=annotations", "segmenter.name=line",
        "store.path=store", "store.heldout_fraction=0.2", "tokenizer.train=true", "tokenizer.vocab_size=320",
    ]  # fmt: skip
    command = [sys.executable, "-m", "phf", "tokenize", *arguments]
    for phase in ("tokenizer", "train/tokens.npy"):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not list(Path().glob(f".store.*-{process.pid}.tmp/{phase}")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if not Path("store").exists():  # else it was quicker than the signal
            with pytest.raises(PhfError, match="no token store"):
                TokenStore("store")
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert contents(Path("store")) == expected
    assert not list(Path().glob(".store.*.tmp"))
