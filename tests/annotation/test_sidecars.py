import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from phf.annotation import sidecars
from phf.annotation.annotations import SCHEMA, Annotations
from phf.annotation.score_chunk import Annotation
from phf.annotation.sidecars import SidecarWriter
from phf.base.errors import PhfError
from phf.documents.shards import BadRow
from scorers import Span


def annotation(row: int) -> Annotation:
    return Annotation(row, f"id {row}", None, [1, 3], [float(row), None], [(Span(0, 1, "A"),), ()])


def test_what_is_added_is_in_the_sidecar(tmp_path):
    with SidecarWriter(Annotations(tmp_path), "a") as writer:
        writer.add([annotation(0), annotation(2)], [BadRow("a", 1, "why")], 3)
        writer.finish()
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.schema == SCHEMA
    assert table["row"].to_pylist() == [0, 2]
    assert table["scores"].to_pylist() == [[0.0, None], [2.0, None]]
    assert table["segment_ends"].to_pylist() == [[1, 3]] * 2
    (batch,) = Annotations(tmp_path).batches("a")
    assert (batch.rows.tolist(), batch.counts.tolist()) == ([0, 2], [2, 2])
    np.testing.assert_array_equal(batch.scores, np.float32([0, np.nan, 2, np.nan]))
    assert Annotations(tmp_path).bad_rows("a") == [BadRow("a", 1, "why")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bad.jsonl", "a.parquet"]


def test_a_shard_of_nothing_has_an_empty_sidecar(tmp_path):
    with SidecarWriter(Annotations(tmp_path), "a") as writer:
        writer.finish()
    assert pq.read_metadata(tmp_path / "a.parquet").num_rows == 0
    assert Annotations(tmp_path).bad_rows("a") == []
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_a_writer_goes_on_after_the_last_part(tmp_path, monkeypatch):
    monkeypatch.setattr(sidecars, "PART_DOCUMENTS", 2)
    with SidecarWriter(Annotations(tmp_path), "a") as writer:
        for row in range(5):
            writer.add([annotation(2 * row)], [BadRow("a", 2 * row + 1, "why")], 2 * row + 2)
    # Two parts are complete; what the end of the process left unfinished does not count.
    (tmp_path / ".a.parts" / ".000000002.parquet.host-1.tmp").write_bytes(b"half a part")
    with SidecarWriter(Annotations(tmp_path), "a") as writer:
        assert writer.next_row == 8
        assert [row.row for row in writer.bad] == [1, 3, 5, 7]
        writer.add([annotation(8)], [], 9)
        writer.finish()
    assert pq.read_table(tmp_path / "a.parquet")["row"].to_pylist() == [0, 2, 4, 6, 8]
    lines = (tmp_path / "a.bad.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == [1, 3, 5, 7]


def test_a_part_is_saved_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(sidecars, "PART_SECONDS", -1.0)
    with SidecarWriter(Annotations(tmp_path), "a") as writer:
        for row in range(3):
            writer.add([annotation(row)], [], row + 1)
    with SidecarWriter(Annotations(tmp_path), "a") as writer:
        assert writer.next_row == 3


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 100])
def test_a_broken_part_is_one_line(tmp_path, content):
    with SidecarWriter(Annotations(tmp_path), "a") as writer:
        writer.add([annotation(0)], [], 1)
        writer.save()
    (tmp_path / ".a.parts" / "000000000.parquet").write_bytes(content)
    for _ in range(2):
        with pytest.raises(
            PhfError, match=r"000000000\.parquet is broken: delete .*\.a\.parts to score"
        ) as error:
            SidecarWriter(Annotations(tmp_path), "a")
        assert "\n" not in str(error.value)


def test_a_shard_has_one_writer(tmp_path):
    message = "another process is annotating shard a"
    with (
        SidecarWriter(Annotations(tmp_path), "a"),
        SidecarWriter(Annotations(tmp_path), "b"),
        pytest.raises(PhfError, match=message),
    ):
        SidecarWriter(Annotations(tmp_path), "a")
    with SidecarWriter(Annotations(tmp_path), "a"):
        pass


def test_half_of_a_surrogate_pair_is_replaced(tmp_path):
    odd = Annotation(0, "\ud800", "\udc00", [1], [1.0], [(Span(0, 1, "\udfff"),)])
    with SidecarWriter(Annotations(tmp_path), "a") as writer:
        writer.add([odd], [BadRow("a", 1, "\ud800")], 2)
        writer.finish()
    (row,) = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert (row["id"], row["source"], row["spans"][0]["label"]) == ("?", "?", "?")
    assert Annotations(tmp_path).bad_rows("a") == [BadRow("a", 1, "\ud800")]
