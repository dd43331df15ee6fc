import bz2
import gzip
import json
import lzma
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from phf.base.errors import ConfigError, PhfError
from phf.config import DocumentsConfig
from phf.documents.formats import dataset as dataset_format
from phf.documents.formats import text as text_format
from phf.documents.formats.base import Document
from phf.documents.shards import BadRow, list_shards


def read(path: object, **options: object) -> tuple[list[tuple[str, int, Document]], list[BadRow]]:
    """Shard, row and document of all that can be read, and the rest."""
    bad: list[BadRow] = []
    shards = list_shards(DocumentsConfig(path=str(path), **options))
    return [(shard.name, row, document) for shard in shards for row, document in shard.read(bad.append)], bad


def texts(path: object, **options: object) -> list[str]:
    found, bad = read(path, **options)
    assert not bad
    return [document.text for _, _, document in found]


def jsonl(rows: Iterable[object]) -> bytes:
    return b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)


def pack(data: bytes, suffix: str) -> bytes:
    packed = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
    return (packed | {".bz2": bz2.compress, ".xz": lzma.compress})[suffix](data)


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson"])
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".bz2", ".xz"])
def test_jsonl(tmp_path, name, suffix):
    path = tmp_path / f"{name}{suffix}"
    halves = jsonl([{"text": "one"}, {"text": "zwei\u2028ü\n", "id": 7}]), jsonl([{"text": "", "id": "x"}])
    path.write_bytes(pack(halves[0], suffix) + pack(halves[1], suffix))
    found, bad = read(path)
    name = path.name
    assert not bad
    assert found == [
        (name, 0, Document(f"{name}:0", "one")),
        (name, 1, Document("7", "zwei\u2028ü\n")),
        (name, 2, Document("x", "")),
    ]


def test_a_row_of_jsonl_that_is_no_document_is_reported_with_its_place(tmp_path):
    rows = [
        b"\xef\xbb\xbf" + jsonl([{"text": "a byte-order mark does no harm"}]),
        b"{not json}\n",
        b"\n",
        {"txt": "?"},
        {"text": 5},
        {"text": None},
        b'{"text": "\xff"}\n',
        [1],
        {"text": "\ud800"},
        b"[" * 100_000 + b"\n",
        b'{"text": "x", "n": ' + b"1" * 5000 + b"}\n",
        {"texts": ["a"], "scores": [0]},
        {"text": "the last"},
        b'{"text": "cut',
    ]
    (tmp_path / "a.jsonl").write_bytes(jsonl(rows))
    found, bad = read(tmp_path / "a.jsonl")
    assert [(row, document.text) for _, row, document in found] == [
        (0, "a byte-order mark does no harm"),
        (12, "the last"),
    ]
    reasons = {row.row: row.reason for row in bad}
    assert all(row.shard == "a.jsonl" for row in bad)
    assert sorted(reasons) == [1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13]
    assert reasons[1].startswith("not JSON: Expecting property name")
    assert reasons[3] == "no field 'text', only 'txt'"
    assert reasons[4] == "field 'text' is not text but int"
    assert reasons[5] == "field 'text' is not text but NoneType"
    assert reasons[6] == "not UTF-8 at byte 10"
    assert reasons[7] == "not an object but list"
    assert reasons[8] == "field 'text' holds half of a surrogate pair at character 0"
    assert reasons[9].startswith("not JSON")
    assert reasons[10].startswith("not JSON")
    assert reasons[11].endswith("set documents.format=scored")
    assert not any("\n" in reason for reason in reasons.values())


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_packed_file_that_ends_too_early_is_read_as_far_as_it_goes(tmp_path, suffix):
    rows = [{"text": str(i) * 50} for i in range(20_000)]
    whole = pack(jsonl(rows), suffix)
    path = tmp_path / f"a.jsonl{suffix}"
    for length in (len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:length])
        found, bad = read(path)
        assert 0 < len(found) < len(rows)
        assert [document.text for _, _, document in found] == [row["text"] for row in rows[: len(found)]]
        assert [row.row for row in bad] == [len(found)]
        assert bad[0].reason.startswith("the rest of the file cannot be read: Truncated")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2", ".xz"])
def test_no_cut_or_change_of_a_packed_file_goes_unnoticed(tmp_path, suffix):
    whole = pack(jsonl({"text": f"{i}"} for i in range(3)), suffix)
    broken = [whole[:length] for length in range(len(whole))]
    if suffix in (".gz", ".zst"):  # what follows the end of the others is ignored, and no row is lost
        broken.append(whole + b"and more")
    if suffix != ".zst":  # its packer writes no checksum
        broken += [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(10, len(whole))]
    path = tmp_path / f"a.jsonl{suffix}"
    for data in broken:
        path.write_bytes(data)
        try:
            found, bad = read(path)
            if len(data) == len(whole) and not bad:  # a bit that stands for nothing
                assert [document.text for _, _, document in found] == ["0", "1", "2"]
                continue
            message = bad[-1].reason
        except PhfError as error:
            message = str(error)
        assert "cannot be read: " in message
        assert "\n" not in message


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_file_of_something_else_is_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"something else\n" * 10)
    with pytest.raises(PhfError, match=f"{name}: cannot be read: ") as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


def write_parquet(path: Path, columns: dict[str, object], **options: int) -> None:
    pq.write_table(pa.table(columns), path, **options)


def test_parquet(tmp_path):
    columns = {"n": range(600), "body": [f"text {i}" for i in range(600)], "id": range(1000, 1600)}
    write_parquet(tmp_path / "a.parquet", columns, row_group_size=100)
    found, bad = read(tmp_path / "a.parquet", text_field="body")
    assert not bad
    assert found == [("a.parquet", i, Document(str(1000 + i), f"text {i}")) for i in range(600)]


def test_rows_of_parquet_that_are_no_documents(tmp_path):
    raw = pa.array([b"good", b"\xff\xfe", None, b"too"], pa.binary())
    strings = pa.StringArray.from_buffers(4, *raw.buffers()[1:], raw.buffers()[0])
    write_parquet(tmp_path / "a.parquet", {"text": strings})
    found, bad = read(tmp_path / "a.parquet")
    assert [(row, document.text) for _, row, document in found] == [(0, "good"), (3, "too")]
    assert [(row.row, row.reason) for row in bad] == [
        (1, "not UTF-8 at byte 0"),
        (2, "field 'text' is not text but NoneType"),
    ]
    write_parquet(tmp_path / "b.parquet", {"text": [1, 2]})
    assert [row.reason for row in read(tmp_path / "b.parquet")[1]] == ["field 'text' is not text but int"] * 2


def test_a_parquet_file_without_the_column_or_cut_short_is_one_line(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, {"texts": [["a"]], "scores": [[0.5]]})
    with pytest.raises(
        ConfigError, match=r"no column 'text', only texts, scores: set documents\.format=scored"
    ):
        read(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PhfError, match=r"a\.parquet: cannot be read: "):
        read(path)


def test_a_parquet_file_with_a_broken_page_is_read_as_far_as_it_goes(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, {"text": [str(i) * 50 for i in range(2000)]}, row_group_size=500)
    place = pq.read_metadata(path).row_group(2).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[place : place + 40] = b"\xff" * 40
    path.write_bytes(data)
    found, bad = read(path)
    assert 512 <= len(found) <= 1000
    assert [row.row for row in bad] == [len(found)]
    assert bad[0].reason.startswith("the rest of the file cannot be read: ")


def write_files(root: Path, files: dict[str, bytes | str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)


def test_a_folder_of_text_files(tmp_path):
    files = {
        "a/b.py": "x = 1\r\n",
        "c.py": "\ufeffy",
        "d.png": b"\x89PNG",
        "e/f/g.txt": "",
        ".git/x": "no",
        "h.py": "é",
    }
    write_files(tmp_path, files)
    write_files(tmp_path, {"a/.hidden": "no", "a/__pycache__/b.pyc": "no"})
    found, bad = read(tmp_path)
    assert found == [
        ("files-000000", 0, Document("a/b.py", "x = 1\r\n", source="a")),
        ("files-000000", 1, Document("c.py", "y")),  # a byte-order mark is no text
        ("files-000000", 3, Document("e/f/g.txt", "", source="e")),
        ("files-000000", 4, Document("h.py", "é")),
    ]
    assert bad == [BadRow("files-000000", 2, "d.png: not UTF-8 at byte 0")]
    assert texts(tmp_path, pattern="**/*.py") == ["x = 1\r\n", "y", "é"]
    assert texts(f"{tmp_path}/**/*.py") == ["x = 1\r\n", "y", "é"]
    assert texts(tmp_path / "h.py") == ["é"]


def test_many_files_are_dealt_out_to_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(text_format, "FILES_PER_SHARD", 2)
    write_files(tmp_path, {f"{i}.txt": str(i) for i in range(5)})
    found, _ = read(tmp_path)
    assert [shard for shard, _, _ in found] == [f"files-00000{i}" for i in (0, 0, 1, 1, 2)]
    assert [row for _, row, _ in found] == [0, 1, 0, 1, 0]


def test_a_folder_tells_by_itself_what_it_holds(tmp_path):
    row = jsonl([{"text": "a row"}])
    write_files(
        tmp_path, {"rows/a.jsonl": row, "rows/README": "no", "rows/sub/b.jsonl.gz": gzip.compress(row)}
    )
    write_files(tmp_path, {"nested/x/a.jsonl": row, "nested/y/b.jsonl": row})
    write_files(tmp_path, {"code/main.py": "code\n" * 9, "code/tests/a.jsonl": row})
    assert texts(tmp_path / "rows") == ["a row"] * 2
    assert texts(tmp_path / "nested") == ["a row"] * 2
    assert texts(tmp_path / "code") == ["code\n" * 9, row.decode()]
    assert texts(tmp_path / "code", format="jsonl") == ["a row"]
    assert texts(tmp_path / "nested", format="folder") == [row.decode()] * 2
    write_files(tmp_path, {"c4/a.json.gz": gzip.compress(row), "c4/b.ndjson": row, "c4/info.txt": "no"})
    assert texts(tmp_path / "c4") == ["a row"] * 2
    assert texts(tmp_path / "c4", format="jsonl", pattern="*.json.gz") == ["a row"]
    assert texts(tmp_path / "c4", format="jsonl", pattern="[ab].*") == ["a row"] * 2


def test_what_is_left_out_or_read_as_text_is_said(tmp_path, caplog):
    row = jsonl([{"text": "a row"}] * 9)
    write_files(tmp_path, {"clone/README.md": "about\n", "clone/data/a.jsonl": row, "clone/LICENSE": "MIT"})
    assert texts(tmp_path / "clone") == ["a row"] * 9
    assert "2 files, such as LICENSE, are left out" in caplog.text
    assert "documents.format=folder" in caplog.text
    caplog.clear()
    write_files(tmp_path, {"code/main.py": "x = 1\n" * 99, "code/tests/a.jsonl": row})
    assert len(texts(tmp_path / "code")) == 2
    assert "1 files, such as tests/a.jsonl, look like rows and are read as text" in caplog.text
    caplog.clear()
    write_files(tmp_path, {"array/a.json": json.dumps([{"text": "a row"}] * 9), "array/b.md": "about"})
    assert len(texts(tmp_path / "array")) == 2
    assert "1 files, such as a.json, look like rows and are read as text" in caplog.text
    caplog.clear()
    write_files(tmp_path, {"app/main.js": "x = 1\n" * 99, "app/package.json": "{}"})
    assert len(texts(tmp_path / "app")) == 2
    assert not caplog.text


def test_a_folder_of_empty_text_files_is_text(tmp_path):
    write_files(tmp_path, {"a.py": "", "b/c.py": ""})
    assert texts(tmp_path) == ["", ""]


def test_globs_and_names_of_shards(tmp_path, monkeypatch):
    row = jsonl([{"text": "a row"}])
    write_files(tmp_path, {f"{name}/part.jsonl": row for name in ("a", "b", "b c", "ü")})
    write_files(tmp_path, {"a[1].jsonl": row})
    monkeypatch.chdir(tmp_path)
    shards = list_shards(DocumentsConfig(path="*/*.jsonl"))
    names = [shard.name for shard in shards]
    assert len(set(names)) == 4
    assert all("/" not in name and name.isascii() and not name.startswith(".") for name in names)
    # A name stays when files come and go.
    assert [shard.name for shard in list_shards(DocumentsConfig(path="b*/*.jsonl"))] == names[1:3]
    assert texts("a[1].jsonl") == ["a row"]
    assert texts(tmp_path / "*.jsonl", format="folder") == [row.decode()]
    assert [shard.name for shard in list_shards(DocumentsConfig(path="a/part.jsonl"))] == ["part.jsonl"]


def test_a_fingerprint_changes_with_the_contents(tmp_path):
    write_files(tmp_path, {"a.jsonl": jsonl([{"text": "a"}]), "texts/a.txt": "a", "texts/b.txt": "b"})
    for path in (tmp_path / "a.jsonl", tmp_path / "texts"):
        (before,) = [shard.fingerprint() for shard in list_shards(DocumentsConfig(path=str(path)))]
        (same,) = [shard.fingerprint() for shard in list_shards(DocumentsConfig(path=str(path)))]
        changed = path if path.is_file() else path / "b.txt"
        changed.write_bytes(changed.read_bytes() + b"\n")
        (shard,) = list_shards(DocumentsConfig(path=str(path)))
        assert before == same != shard.fingerprint()
        changed.unlink()
        with pytest.raises(PhfError, match=changed.name):
            shard.fingerprint()


@pytest.fixture
def dataset():
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict({"text": [f"t{i}" for i in range(5)], "other": list(range(5))})


def test_a_saved_dataset(tmp_path, dataset, monkeypatch):
    monkeypatch.setattr(dataset_format, "ROWS_PER_SHARD", 2)
    import datasets

    dataset.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": dataset, "test": dataset.select([4])}).save_to_disk(tmp_path / "splits")
    for name in ("one", "splits"):
        found, bad = read(tmp_path / name)
        assert not bad
        assert [(shard, row, document.text) for shard, row, document in found] == [
            ("rows-000000000", 0, "t0"),
            ("rows-000000000", 1, "t1"),
            ("rows-000000002", 0, "t2"),
            ("rows-000000002", 1, "t3"),
            ("rows-000000004", 0, "t4"),
        ]
    assert texts(tmp_path / "splits", split="test") == ["t4"]
    with pytest.raises(ConfigError, match=r"documents.split: .* has train, test, not valid"):
        read(tmp_path / "splits", split="valid")
    with pytest.raises(ConfigError, match="no column 'body', only text, other"):
        read(tmp_path / "one", text_field="body")
    prints = [
        [shard.fingerprint() for shard in list_shards(DocumentsConfig(path=str(tmp_path / n)))]
        for n in ("one", "one")
    ]
    assert prints[0] == prints[1]
    assert len(set(prints[0])) == 3


def test_a_dataset_with_subsets(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    subsets = "".join(f"- {{config_name: {name}, data_files: {name}.jsonl}}\n" for name in ("a", "b"))
    write_files(tmp_path / "both", {f"{name}.jsonl": jsonl([{"text": name}]) for name in ("a", "b")})
    write_files(tmp_path / "both", {"README.md": f"---\nconfigs:\n{subsets}---\n"})
    for name in ("a", "b"):
        assert texts(tmp_path / "both", format="huggingface", subset=name) == [name]
    for subset, message in (
        (None, r"^documents\.subset is not set: .*'a', 'b'"),
        ("c", r"Available: \['a', 'b'\]"),
    ):
        with pytest.raises(PhfError, match=message) as error:
            read(tmp_path / "both", format="huggingface", subset=subset)
        assert "\n" not in str(error.value)


def test_a_dataset_by_name_that_cannot_be_loaded_is_one_line(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load(name: str, subset: None, split: str) -> None:
        raise ConnectionError(f"Couldn't reach {name}\non the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load)
    for options in ({"format": "huggingface"}, {"format": "scored"}):
        with pytest.raises(PhfError) as error:
            read("somebody/something", **options)
        assert (
            str(error.value)
            == "documents.path: cannot load the dataset somebody/something: Couldn't reach somebody/something"
        )


SCORED = [
    {"texts": ["One. ", "", "Two."], "scores": [0.25, 0.1, None], "avg_score": 0.1, "meta": {}},
    {"texts": [], "scores": []},
    {"texts": ["a"], "scores": [0, 1]},
    {"texts": ["a"], "scores": [-1]},
    {"texts": ["a", 5], "scores": [0, 1]},
    {"texts": "a", "scores": [0]},
    {"text": "a"},
    {"texts": ["a"], "scores": [float("nan")]},
    {"texts": ["a"], "scores": [10**400]},
    {"texts": ["a"], "scores": [1e39]},
    {"texts": ["b"], "scores": [1]},
]


def test_documents_that_bring_their_scores(tmp_path, dataset):
    (tmp_path / "a.jsonl").write_bytes(jsonl(SCORED))
    found, bad = read(tmp_path / "a.jsonl", format="scored")
    assert [(row, document) for _, row, document in found] == [
        (0, Document("a.jsonl:0", "One. Two.", ("One. ", "Two."), (0.25, None))),
        (1, Document("a.jsonl:1", "", (), ())),
        (10, Document("a.jsonl:10", "b", ("b",), (1.0,))),
    ]
    assert [row.reason for row in bad] == [
        "1 texts and 2 scores",
        "score -1 is not a number of 0 or more that fits float32",
        "field 'texts' is not text but int",
        "field 'texts' is not a list but str",
        "field 'texts' is not a list but NoneType",
        "score nan is not a number of 0 or more that fits float32",
        f"score 1{'0' * 39} is not a number of 0 or more that fits float32",
        "score 1e+39 is not a number of 0 or more that fits float32",
    ]
    good = {"texts": [["a ", "b"], ["c"]], "scores": [[0.0, 0.5], [1.0]], "id": ["x", "y"]}
    write_parquet(tmp_path / "b.parquet", good)
    type(dataset).from_dict(good).save_to_disk(tmp_path / "saved")
    for path in (tmp_path / "b.parquet", tmp_path / "saved"):
        found, bad = read(path, format="scored")
        assert not bad
        assert [document for _, _, document in found] == [
            Document("x", "a b", ("a ", "b"), (0.0, 0.5)),
            Document("y", "c", ("c",), (1.0,)),
        ]


def sources(path: object, **options: object) -> list[str | None]:
    found, bad = read(path, **options)
    assert not bad
    return [document.source for _, _, document in found]


def test_a_field_names_the_source(tmp_path):
    rows = [
        {"text": "a", "meta": {"set": "web", "year": 2020}, "id": "x"},
        {"text": "b", "meta": {"set": None, "year": 1999}, "id": "y"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_bytes(jsonl([*rows, {"text": "c"}, {"text": "d", "meta": "web"}]))
    assert sources(tmp_path / "a.jsonl") == [None] * 4
    assert sources(tmp_path / "a.jsonl", source_field="meta.set") == ["web", None, None, None]
    assert sources(tmp_path / "a.jsonl", source_field="meta") == [None, None, None, "web"]
    assert sources(tmp_path / "a.parquet", source_field="meta.year") == ["2020", "1999"]
    assert sources(tmp_path / "a.parquet", source_field="id") == ["x", "y"]
    with pytest.raises(ConfigError, match=r"a\.parquet: no column 'info', only text, meta, id"):
        read(tmp_path / "a.parquet", source_field="info.set")


FORMAT = """
import csv
from dataclasses import dataclass

from phf.documents.formats.base import FileFormat, FileSource


@dataclass
class Options:
    delimiter: str = ","


class Csv(FileFormat):
    name, suffixes, Options = "csv", (".csv",), Options

    def open(self, path):
        source = CsvFile(path)
        source.delimiter = self.options.delimiter
        return source


class CsvFile(FileSource):
    def rows(self, columns):
        with self.path.open(newline="", encoding="utf-8") as file:
            yield from enumerate(csv.DictReader(file, delimiter=self.delimiter))
"""


def test_a_format_of_ones_own(tmp_path):
    write_files(tmp_path, {"own.py": FORMAT, "rows/a.csv": "text;set\none;web\n", "rows/notes.md": "no"})
    own = {"format": f"{tmp_path / 'own.py'}:Csv", "options": {"delimiter": ";"}}
    found, bad = read(tmp_path / "rows", source_field="set", **own)
    assert not bad
    assert found == [("a.csv", 0, Document("a.csv:0", "one", source="web"))]
    with pytest.raises(ConfigError, match=r"documents\.options: no key delimeter; did you mean delimiter"):
        read(tmp_path / "rows", **own | {"options": {"delimeter": ";"}})
    with pytest.raises(ConfigError, match="no format 'json'; did you mean jsonl"):
        read(tmp_path / "rows", format="json")


def test_limit_counts_the_documents_of_each_shard(tmp_path):
    rows = [{"no": 1}, {"text": "a"}, {"text": "b"}, {"no": 2}, {"text": "c"}]
    for name in ("x", "y"):
        (tmp_path / f"{name}.jsonl").write_bytes(jsonl(rows))
    found, bad = read(tmp_path, limit=2)
    assert [document.text for _, _, document in found] == ["a", "b"] * 2
    assert [row.row for row in bad] == [0, 0]


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        (None, {}, "documents.path is not set"),
        ("nowhere.jsonl", {}, "no such file: nowhere.jsonl"),
        ("nowhere.jsonl", {"format": "scored"}, "no such file: nowhere.jsonl"),
        ("some/where", {}, "no such file or folder: some/where (a dataset of the Hugging Face hub needs"),
        ("*.nothing", {}, "no file in . matches *.nothing"),
        ("folder", {"pattern": "*.nothing"}, "no file in folder matches *.nothing"),
        ("folder", {"pattern": ""}, "documents.pattern: '' is not a pattern"),
        ("folder", {"format": "jsonl"}, "folder holds no file that ends in .jsonl, .jsonl.gz, .jsonl.zst"),
        ("folder", {"format": "scored"}, "folder holds no file that ends in .jsonl"),
        ("folder/a.txt", {"format": "scored"}, "folder/a.txt is neither .jsonl[.gz|.zst] nor .parquet"),
        ("empty", {}, "no file in empty matches **/*"),
    ],
)
def test_documents_that_are_not_there_are_one_line(tmp_path, monkeypatch, path, options, message):
    write_files(tmp_path, {"folder/a.txt": "a"})
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        list_shards(DocumentsConfig(path=path, **options))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
