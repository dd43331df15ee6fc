"""The way out and back in: annotate -> publish -> tokenize gives what annotate -> tokenize gives."""

import base64
import io
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from textwrap import dedent

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phf.annotation import publish as publish_module
from phf.annotation.annotate import annotate
from phf.annotation.publish import publish
from phf.base.errors import ConfigError, PhfError
from phf.cli import main
from phf.config import Config, load_config
from phf.store.store import TokenStore
from phf.store.tokenize import tokenize

SCORER = '''
    from scorers import Score, SegmentScorer, Span

    class Marks(SegmentScorer):
        """Thirds of exclamation marks; cannot say of a question; fails on some text."""
        name, version, measures = "marks", "1", "exclamation marks"
        range = (0.0, 1e9)

        def __init__(self, fails_on: str = "nothing"):
            self.fails_on = fails_on

        def score_segments(self, segments):
            if any(self.fails_on in segment for segment in segments):
                raise ValueError("not this one")
            return [self.one(segment) for segment in segments]

        def one(self, segment):
            places = [i for i, c in enumerate(segment) if c == "!"]
            spans = tuple(Span(i, i + 1, "Märk") for i in places)
            return Score(None if "?" in segment else len(places) / 3, spans)
'''
ROWS: dict[str, list[dict[str, object]]] = {
    "a": [
        {"id": "ä/1", "text": "Hé! Wow!!\n日本語?\n😀 \u2028 done\0\n"},
        {"text": ""},
        {"no": "text"},
        {"text": "?\n?\n"},
        {"id": "\ud800", "text": "x = 1\nfails\n"},
        *({"id": i, "text": f"line {i}!\nand {'!' * (i % 7)}\n" + "more?\r\n" * (i % 2)} for i in range(40)),
    ],
    "b": [{"text": f"{i}!\n\n\n<|endoftext|> {i * 11}"} for i in range(40)],
}
ROWS_A = [row for row in range(len(ROWS["a"])) if row != 2]


@pytest.fixture
def corpus(tmp_path, monkeypatch) -> Config:
    monkeypatch.chdir(tmp_path)
    Path("marks.py").write_text(dedent(SCORER))
    Path("documents").mkdir()
    for name, rows in ROWS.items():
        Path(f"documents/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_config(
        [
            "documents.path=documents",
            "segmenter.name=line",
            "scorer.name=marks.py:Marks",
            "scorer.column=marks",
            "annotations.path=annotations",
            "annotations.processes=1",
            "tokenizer.train=true",
            "tokenizer.vocab_size=300",
            "store.path=store",
            "store.heldout_fraction=0.3",
        ]
    )


def with_scorer(config: Config, **changes: object) -> Config:
    return replace(config, scorer=replace(config.scorer, **changes))


def arrays(store: TokenStore) -> dict[str, bytes]:
    """All arrays of a store but those that say where its documents come from."""
    paths = sorted(store.path.rglob("*.npy"))
    return {
        str(path.relative_to(store.path)): path.read_bytes()
        for path in paths
        if path.stem not in ("document_shards", "document_rows")
    }


def read_published(path: Path) -> list[dict[str, object]]:
    if path.is_dir():
        return datasets.load_from_disk(str(path)).to_list()
    return pq.read_table(path).to_pylist()


@pytest.mark.slow
@pytest.mark.parametrize("output", ["out/scored", "out/scored.parquet"])
@pytest.mark.parametrize("batch", [1, 1000])
def test_a_round_trip_keeps_every_token_and_score(corpus, output, batch, monkeypatch):
    monkeypatch.setattr(publish_module, "_BATCH_DOCUMENTS", batch)
    annotate(corpus)
    counts = publish(corpus, Path(output))
    segments = sum(len(row["texts"]) for row in read_published(Path(output)))
    assert counts == {"documents": 84, "segments": segments, "bad_rows": 1}
    assert list(Path("out").iterdir()) == [Path(output)]
    direct = tokenize(corpus)
    documents = replace(corpus.documents, path=output, format="scored")
    back = tokenize(replace(corpus, documents=documents, store=replace(corpus.store, path="back")))
    assert arrays(back) == arrays(direct)
    assert len(arrays(back)) == 2 * 8
    assert back.split("heldout").num_documents > 5
    assert (back.path / "tokenizer/tokenizer.json").read_bytes() == (
        direct.path / "tokenizer/tokenizer.json"
    ).read_bytes()


def test_a_row_is_that_of_the_published_corpora(corpus):
    annotate(corpus)
    annotate(with_scorer(corpus, column="careful", options={"fails_on": "fails"}))
    assert publish(corpus, Path("scored"))["bad_rows"] == 1
    dataset = datasets.load_from_disk("scored")
    rows = dataset.to_list()
    assert dataset.column_names[:5] == ["id", "texts", "num_sents", "scores", "avg_score"]
    texts = [str(row["text"]) for row in [*(ROWS["a"][i] for i in ROWS_A), *ROWS["b"]]]
    assert ["".join(row["texts"]) for row in rows] == texts
    first, empty, questions, failed = rows[:4]
    assert first["texts"] == ["Hé! Wow!!\n", "日本語?\n", "😀 \u2028 done\0\n"]
    assert first["scores"] == [1.0, None, 0.0]  # a score that could not be told is not 0
    assert first["avg_score"] == 0.5  # and does not count in the mean
    assert (first["id"], first["num_sents"]) == ("ä/1", 3)
    assert [(s["segment"], s["start"], s["end"], s["label"]) for s in first["spans"]] == [
        (0, i, i + 1, "Märk") for i in (2, 7, 8)
    ]
    assert (empty["id"], empty["texts"], empty["scores"], empty["num_sents"]) == ("a.jsonl:1", [], [], 0)
    assert empty["avg_score"] is None
    assert (questions["scores"], questions["avg_score"]) == ([None, None], None)
    # The document that one of the scorers failed on has none of its scores; its spans stay with their rows.
    assert (failed["id"], failed["scores"], failed["scores_careful"]) == ("?", [0.0, 0.0], [None, None])
    assert (failed["avg_score_careful"], failed["spans_careful"]) == (None, [])
    assert [row["spans"] for row in rows] == [row["spans_careful"] for row in rows]
    assert [row["scores"] for row in rows[4:]] == [row["scores_careful"] for row in rows[4:]]


@pytest.mark.slow
def test_the_scores_of_another_scorer_are_under_a_name_of_their_own(corpus):
    annotate(corpus)
    annotate(with_scorer(corpus, name="pep8", column=None))
    publish(corpus, Path("scored"))
    direct = tokenize(with_scorer(corpus, name="pep8", column=None))
    documents = replace(
        corpus.documents, path="scored", format="scored", options={"scores_field": "scores_pep8"}
    )
    config = with_scorer(
        replace(corpus, documents=documents, store=replace(corpus.store, path="back")), column="pep8"
    )
    back = tokenize(config)
    for split in ("train", "heldout"):
        scores = direct.split(split).scores("pep8")
        assert scores.max() > 0
        assert back.split(split).scores("pep8").tobytes() == scores.tobytes()
    documents = replace(documents, options={})
    with pytest.raises(
        ConfigError, match=r"made with documents.options.scores_field=scores_pep8, not scores:"
    ):
        tokenize(replace(config, documents=documents))


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved"])
def test_scored_documents_of_others_have_their_own_names(corpus, kind):
    rows = [{"sentences": ["One. ", "Two."], "toxicity": [0.25, None], "text": "no"} for _ in range(9)]
    if kind == "jsonl":
        Path("theirs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), "theirs.parquet")
    else:
        datasets.Dataset.from_list(rows).save_to_disk("theirs.saved")
    documents = replace(
        corpus.documents, path=f"theirs.{kind}", format="scored", options={"texts_field": "sentences"}
    )
    store = replace(corpus.store, heldout_fraction=0.0)
    config = replace(
        corpus,
        documents=replace(documents, options={"texts_field": "sentences", "scores_field": "toxicity"}),
        store=store,
    )
    split = tokenize(config).split("train")
    assert split.scores("marks")[::2].tolist() == [0.25] * 9
    assert split.document_num_scored("marks").tolist() == [1] * 9
    with pytest.raises(PhfError, match=r"scores") as error:
        tokenize(replace(config, documents=documents, store=replace(store, path="other")))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_what_cannot_be_exported_is_one_line(corpus, capsys):
    command = ["annotations", "export"]
    command += ["documents.path=documents", "annotations.path=annotations", "scorer.column=marks"]
    Path("there.parquet").touch()

    def fails(code: int, message: str, *arguments: str) -> None:
        assert main([*command, *arguments]) == code
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1

    fails(1, "no annotations there; run `phf annotate` first", "--output", "out")
    annotate(corpus)
    capsys.readouterr()
    fails(2, "there.parquet is there already", "--output", "there.parquet")
    fails(2, "documents/out lies among the documents", "--output", "documents/out")
    fails(2, "these documents bring their scores already", "--output", "out", "documents.format=scored")
    fails(1, "the export cannot be written", "--output", "there.parquet/out")
    with Path("documents/a.jsonl").open("a") as file:
        file.write('{"text": "later"}\n')
    fails(1, "shard a.jsonl is not there or has changed since then", "--output", "out")
    assert not Path("out").exists()
    assert not list(Path().glob(".phf-export-*"))


def test_without_a_hub_that_can_be_reached_the_error_is_one_line(corpus, monkeypatch):
    annotate(corpus)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "no-token")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=r"no token of the hub: run `hf auth login`, or set HF_TOKEN"):
        publish(corpus, hub="me/scored")
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    with pytest.raises(PhfError, match=r"cannot upload to me/scored: .*offline mode is enabled") as error:
        publish(corpus, Path("out"), hub="me/scored")
    assert "\n" not in str(error.value)
    assert not Path("out").exists()  # it is told before anything is written


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as it takes to create a dataset and to commit files to it."""

    created: list[dict[str, str]]
    objects: dict[str, bytes]  # large files, by their hash
    committed: dict[str, bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        place = f"http://{self.headers['Host']}"
        if self.is_refused():
            pass
        elif self.path == "/api/repos/create":
            self.created.append(json.loads(body))
            self.answer(200, {"url": f"{place}/datasets/me/{self.created[-1]['name']}"})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(".parquet") else "regular" for name in names}
            files = [{"path": n, "uploadMode": mode, "shouldIgnore": False} for n, mode in modes.items()]
            self.answer(200, {"files": files})
        elif self.path.endswith("/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            uploads = [{"upload": {"href": f"{place}/objects/{one['oid']}"}} for one in objects]
            both = zip(objects, uploads, strict=True)
            self.answer(200, {"objects": [one | {"actions": upload} for one, upload in both]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                file = line["value"]
                if line["key"] == "lfsFile":
                    self.committed[file["path"]] = self.objects[file["oid"]]
                elif line["key"] == "file":
                    self.committed[file["path"]] = base64.b64decode(file["content"])
            self.answer(200, {"commitUrl": f"{place}/datasets/me/x/commit/b", "commitOid": "b" * 40})
        else:  # checks of the card
            self.answer(200, {"errors": [], "warnings": []})

    def do_PUT(self) -> None:
        self.objects[self.path.split("/")[-1]] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, {})

    def do_GET(self) -> None:
        name = self.path.split("/")[4] if self.path.startswith("/api/datasets/me/") else ""
        if self.is_refused():
            pass
        elif not name or "/data" in self.path.removeprefix("/api/datasets"):
            self.answer(404, {"error": "not there"})
        elif "/tree/" in self.path:
            self.answer(200, [{"type": "file", "path": ".gitattributes", "size": 1, "oid": "c" * 40}])
        else:
            facts = {"id": f"me/{name}", "private": name != "public", "sha": "a" * 40}
            self.answer(200, facts | {"siblings": [], "tags": []})

    def do_HEAD(self) -> None:
        self.do_GET()

    def is_refused(self) -> bool:
        if self.headers.get("Authorization") == "Bearer hf_right":
            return False
        self.answer(401, {"error": "Invalid username or password."})
        return True

    def answer(self, code: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        if code == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


@pytest.mark.slow
def test_pushing_to_a_hub_uploads_the_dataset(corpus):
    annotate(corpus)
    Hub.created, Hub.objects, Hub.committed = [], {}, {}

    def push(name: str, token: str = "hf_right") -> subprocess.CompletedProcess[str]:
        server = f"http://127.0.0.1:{hub.server_port}"
        settings = {"HF_ENDPOINT": server, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0", "HF_HOME": "home"}
        settings["HF_HUB_DISABLE_XET"] = "1"  # the server knows the plain way to upload
        command = [
            "annotations", "push", "documents.path=documents", "annotations.path=annotations",
            "scorer.column=marks", "--dataset", f"me/{name}", "--private",
        ]  # fmt: skip
        return subprocess.run(
            [sys.executable, "-m", "phf", *command],
            env=os.environ | settings, capture_output=True, text=True, check=False,
        )  # fmt: skip

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        wrong, public, right = push("scored", "hf_wrong"), push("public"), push("scored")
        hub.shutdown()
    assert (wrong.returncode, public.returncode, right.returncode) == (1, 2, 0), right.stderr
    assert "cannot upload to me/scored: " in wrong.stderr
    assert "401" in wrong.stderr
    assert wrong.stderr.count("\n") == 1
    assert public.stderr.endswith(
        "--private: the dataset me/public is public already: make it private on the hub first\n"
    )
    assert right.stderr.count("\n") == 1
    assert [(repo["type"], repo["visibility"]) for repo in Hub.created] == [("dataset", "private")] * 2
    publish(corpus, Path("out"))
    uploaded = Hub.committed["data/train-00000-of-00001.parquet"]
    assert pq.read_table(io.BytesIO(uploaded)).to_pylist() == read_published(Path("out"))
    card = Hub.committed["README.md"].decode()
    assert "- split: train" in card
    assert "num_examples: 84" in card
