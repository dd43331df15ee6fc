import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phf.annotation import statistics as module
from phf.annotation.annotate import annotate
from phf.annotation.statistics import statistics
from phf.annotation.worst_segments import Worst
from phf.base.errors import PhfError
from phf.base.quantiles import smallest_reaching
from phf.cli import main
from phf.config import Config, to_yaml

# Segments of 4, 6, 8; of 6 and 2; none; 4; 4 characters.
SHARDS = {
    "a": [
        {"text": "0 a\n0.5 b\n2 ccccc\n", "id": "first", "meta": {"set": "web"}},
        {"text": "?  d\n1\n", "meta": {"set": "wiki"}},
        {"text": "", "meta": {"set": "wiki"}},
        {"text": "!\n", "meta": {"set": "web"}},
    ],
    "b": [{"text": "0 e\n", "meta": {"set": "web"}}, {"text": "1 f\n"}],
}
SOURCE = "documents.source_field=meta.set"


def folder(config: Config, scorer: str = "told") -> Path:
    return Path(config.annotations.path) / scorer


def test_statistics_of_several_shards_by_source(told):
    config = told(SHARDS, SOURCE, "objective.threshold=0.5")
    annotate(config)
    (found,) = statistics(config)
    assert found == json.loads((folder(config) / "statistics.json").read_text())
    counts = ("documents", "segments", "unscored", "characters")
    assert [found[name] for name in counts] == [5, 7, 1, 33]
    assert (found["scorer"], found["measures"], found["bad_rows"]) == ("told", "what it says", 1)
    assert found["shards"] == {"done": 2, "all": 2}
    assert found["mean"] == pytest.approx(4.5 / 6)
    assert found["max"] == 2
    assert [found["quantiles"][share] for share in ("0.01", "0.5", "0.75", "0.99")] == [0, 0.5, 1, 2]
    # Scored are 4 + 6 + 8, 2, 4 and 4 characters.
    assert found["above"]["0"] == {"segments": pytest.approx(4 / 6), "characters": pytest.approx(20 / 28)}
    assert found["above"]["0.5"] == {"segments": pytest.approx(3 / 6), "characters": pytest.approx(14 / 28)}
    sources = {source.pop("source"): source for source in found["sources"]}
    assert list(sources) == ["web", "wiki", None]
    assert [sources["web"][name] for name in counts] == [2, 4, 0, 22]
    assert [sources["wiki"][name] for name in counts] == [2, 2, 1, 7]
    assert [sources[None][name] for name in counts] == [1, 1, 0, 4]
    assert sources["web"]["above"]["0.5"] == {"segments": 1 / 4, "characters": pytest.approx(8 / 22)}
    assert sources["wiki"]["above"]["0.5"] == {"segments": 1.0, "characters": 1.0}
    assert [share for _, share in found["share_above"]] == pytest.approx([4 / 6, 3 / 6, 1 / 6, 0])
    # Between two points of the curve, of which the largest and the smallest score above 0 are some.
    assert [score for score, _ in found["share_above"]] == pytest.approx([0, 0.5, 1, 2], abs=2 / 256)


def test_the_worst_segments_are_shown_with_their_text(told):
    config = told(SHARDS, SOURCE)
    annotate(config)
    (found,) = statistics(config, worst=2)
    assert found["no_text"] is None
    first, second = found["worst"]
    assert first == {
        "score": 2, "shard": "a.jsonl", "row": 0, "id": "first", "source": "web", "characters": [10, 18],
        "labels": ["digit", "is 2"], "text": "2 ccccc\n",
    }  # fmt: skip
    assert (second["score"], second["id"], second["text"]) == (1, "a.jsonl:1", "1\n")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("gone", "documents.path: no such file or folder"),
        ("moved", "shard a.jsonl is not among the documents any more, or has changed since"),
        ("changed", "shard a.jsonl is not among the documents any more, or has changed since"),
        ("field", "the documents or their options have changed since they were annotated"),
    ],
)
def test_documents_that_have_gone_are_told(told, tmp_path, change, reason):
    config = told(SHARDS)
    annotate(config)
    if change == "gone":
        shutil.rmtree(tmp_path / "documents")
    elif change == "moved":
        (tmp_path / "documents" / "a.jsonl").rename(tmp_path / "documents" / "c.jsonl")
    elif change == "changed":
        told({"a": ["0\n"]})
    else:
        config.documents.text_field = "id"
    (found,) = statistics(config)
    assert found["no_text"].startswith(reason)
    assert [(example["score"], example["text"]) for example in found["worst"]][:2] == [(2, None), (1, None)]
    # What can be read is.
    assert found["worst"][2]["text"] == ("1 f\n" if change in ("moved", "changed") else None)


def test_one_of_each_text_and_document_and_the_highest_ones_are_kept():
    rng = np.random.default_rng(0)
    for _ in range(50):
        worst, every = Worst(5), []
        for shard in "ab":
            count = rng.integers(0, 60)
            rows = np.sort(rng.integers(0, 20, count))
            lengths, scores = rng.integers(1, 4, count), rng.integers(0, 9, count).astype(np.float32)
            scores[rng.random(count) < 0.1] = np.nan
            starts = np.cumsum(lengths) - lengths
            worst.add(shard, rows, starts, starts + lengths, scores)
            every += [(s, shard, r, n) for s, r, n in zip(scores, rows, lengths, strict=True) if s > 0]
        found = [(e.score, e.shard, e.row, e.end - e.start) for e in worst._found]
        assert set(found) <= set(every)
        assert [e[0] for e in found] == sorted((e[0] for e in found), reverse=True)
        assert len({e[1:3] for e in found}) == len({(e[0], e[3]) for e in found}) == len(found)
        assert max((e[0] for e in every), default=None) == (found[0][0] if found else None)


@given(st.lists(st.floats(0, 10, width=32), min_size=1, max_size=120), st.floats(0, 1))
def test_quantiles_are_those_of_a_store(scores, share):
    ascending = np.sort(np.float32(scores))
    assert module._quantile(ascending, share) == smallest_reaching(ascending, [share])[0]


def test_only_shards_that_are_done_count(told):
    config = told(SHARDS, "annotations.parts=2", "annotations.part=1")
    annotate(config)
    (found,) = statistics(config)
    assert (found["shards"], found["segments"]) == ({"done": 1, "all": 2}, 2)
    (folder(config) / "b.jsonl.parquet").unlink()
    with pytest.raises(PhfError, match=r"told: no shard is annotated to its end yet"):
        statistics(config)


@pytest.mark.parametrize("texts", [["?\n", "?\n"], ["0\n", "0\n"], ["", "0\n"]])
def test_scores_that_are_all_alike(told, texts):
    config = told({"a": texts}, "scorer.options.times=1")
    annotate(config)
    (found,) = statistics(config)
    unscored = texts[0] == "?\n"
    assert found["mean"] == (None if unscored else 0)
    assert found["above"]["0"] == dict.fromkeys(("segments", "characters"), None if unscored else 0)
    assert found["worst"] == []
    assert (folder(config) / "statistics.png").stat().st_size > 1000


def test_annotations_of_before_have_no_sources(told):
    config = told(SHARDS, SOURCE)
    annotate(config)
    for path in folder(config).glob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns("source"), path)
    (found,) = statistics(config)
    assert (found["sources"], found["segments"]) == ([], 7)
    assert found["worst"][0]["source"] is None


def test_sources_beyond_a_limit_are_put_together(told, monkeypatch):
    monkeypatch.setattr(module, "_MOST_SOURCES", 2)
    config = told({"a": [{"text": f"{i}\n", "set": f"s{i}"} for i in range(5)]}, "documents.source_field=set")
    annotate(config)
    (found,) = statistics(config)
    sources = {source["source"]: source["segments"] for source in found["sources"]}
    assert sources == {module.OTHER_SOURCES: 3, "s0": 1, "s1": 1}


@pytest.mark.slow
def test_the_command_shows_each_scorer(told, tmp_path, capsys):
    path = tmp_path / "config.yaml"
    config = told(
        {"a": [{"text": "2 \x1b[31mred [b]\n", "meta": {"set": "web"}}]},
        SOURCE,
        "annotations.also=[{name: words, options: {words: [red]}}]",
    )
    path.write_text(to_yaml(config))
    annotate(config)
    before = (folder(config) / "a.jsonl.parquet").stat().st_mtime_ns
    assert main(["annotations", "statistics", str(path)]) == 0
    out = capsys.readouterr().out
    assert "told: what it says" in out
    assert "2 \ufffd[31mred [b]" in out
    assert "web" in out
    for scorer in ("told", "words"):
        assert json.loads((folder(config, scorer) / "statistics.json").read_text())["scorer"] == scorer
        assert (folder(config, scorer) / "statistics.png").read_bytes().startswith(b"\x89PNG")
        assert f"{scorer}: " in out
    assert (folder(config) / "a.jsonl.parquet").stat().st_mtime_ns == before
