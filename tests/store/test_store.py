import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phf.annotation.manifest import ScorerRecord
from phf.base.errors import ConfigError, PhfError
from phf.base.files import write_json
from phf.base.typed_json import to_json
from phf.store.arrays import ArrayWriter, open_array
from phf.store.manifest import ColumnRecord, StoreManifest
from phf.store.store import StoreSplit, TokenStore, describe_columns, resolve_threshold

NAN = float("nan")
SCORER = ScorerRecord("s", version="1")


def make_store(folder: Path, scores: list[float], lengths: list[int], counts: list[int]) -> TokenStore:
    """A store with one scorer; its texts are only so long."""
    values = np.array(scores, np.float32)
    pieces = np.split(values, np.cumsum(counts)[:-1])
    means = [np.nanmean(p) if (~np.isnan(p)).any() else NAN for p in pieces]
    train = folder / "train"
    for name, array in {
        "segment_ends": np.cumsum(lengths),
        "document_ends": np.cumsum(counts),
        "scores/s": values,
        "document_scores/s": np.array(means, np.float32),
    }.items():
        (train / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(train / f"{name}.npy", array)
    manifest = StoreManifest({}, {}, {}, {}, {}, {}, scores=describe_columns(folder, {"s": SCORER}))
    write_json(folder / "manifest.json", to_json(manifest))
    return TokenStore(folder)


@pytest.fixture
def store(tmp_path) -> TokenStore:
    return make_store(tmp_path, [0.0, 0.5, 1.0, NAN, 2.0], [6, 2, 1, 5, 1], [2, 2, 1])


def test_a_quantile_is_the_smallest_score_that_the_share_does_not_exceed(store):
    def quantiles(unit: str) -> list[float]:
        return [resolve_threshold(store, "s", f"q{q}", unit) for q in (0, 0.25, 0.3, 0.6, 0.9, 1)]

    assert quantiles("segments") == [0.0, 0.0, 0.5, 1.0, 2.0, 2.0]
    assert quantiles("tokens") == [0.0, 0.0, 0.0, 0.0, 1.0, 2.0]
    assert quantiles("documents") == [0.25, 0.25, 0.25, 1.0, 2.0, 2.0]
    # One that is not in the manifest's grid.
    assert resolve_threshold(store, "s", "q0.60001", "tokens") == 0.5


@pytest.mark.slow
@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.25, 1.0, NAN]), min_size=1, max_size=30),
    st.floats(0, 1),
    st.data(),
)
def test_quantiles_are_numpys(tmp_path_factory, scores, share, data):
    lengths = data.draw(st.lists(st.integers(0, 5), min_size=len(scores), max_size=len(scores)))
    store = make_store(tmp_path_factory.mktemp("store"), scores, lengths, [1] * len(scores))
    values = np.array(scores, np.float32)
    for unit, repeats in (("segments", 1), ("tokens", lengths)):
        counted = np.repeat(values, repeats)
        counted = counted[~np.isnan(counted)]
        if not len(counted):
            with pytest.raises(PhfError, match="no text has a score of s"):
                resolve_threshold(store, "s", f"q{share:.17f}", unit)
            continue
        expected = np.quantile(counted, share, method="inverted_cdf")
        assert resolve_threshold(store, "s", f"q{share:.17f}", unit) == expected


def test_a_threshold_that_is_a_number_is_taken_as_it_is(store):
    assert resolve_threshold(store, "anything", 0, "tokens") == 0.0


@pytest.mark.parametrize("threshold", ["0.5", "q", "q1.1", "q-0.1", "qx", "qnan"])
def test_a_threshold_that_is_neither_is_an_error(store, threshold):
    with pytest.raises(ConfigError, match=r"a number or a quantile such as q0.05"):
        resolve_threshold(store, "s", threshold, "tokens")


def test_the_manifest_describes_the_scores(store):
    scores = store.manifest.scores["s"]
    assert scores.scorer == SCORER
    assert scores.mean == pytest.approx(0.875)
    assert scores.std == pytest.approx(np.std([0, 0.5, 1, 2]))
    assert scores.num_unscored == 1
    assert set(scores.quantiles) == {"segments", "tokens", "documents"}
    assert len(scores.quantiles["tokens"]) == 1001
    assert scores.quantiles["tokens"]["0.9"] == 1.0


def test_scores_that_are_all_unknown_are_described_too(tmp_path):
    store = make_store(tmp_path, [NAN, NAN], [1, 1], [2])
    assert store.manifest.scores["s"] == ColumnRecord(SCORER, num_unscored=2)
    with pytest.raises(PhfError, match="no text has a score of s, so it has no quantiles"):
        resolve_threshold(store, "s", "q0.5", "tokens")


def test_what_is_not_there_is_one_line(store, tmp_path):
    with pytest.raises(PhfError, match=r"no token store in .*nowhere; run `phf tokenize` first"):
        TokenStore(tmp_path / "nowhere")
    with pytest.raises(PhfError, match="has no scores of other, only: s"):
        resolve_threshold(store, "other", "q0.5", "tokens")


def test_arrays_are_mapped_and_read_only(store):
    split = pickle.loads(pickle.dumps(store.split("train")))
    assert isinstance(split, StoreSplit)
    assert len(split.segment_ends) == 5
    with pytest.raises(ValueError, match="read-only"):
        split.segment_ends[0] = 1


def test_an_array_that_was_not_finished_is_not_an_array(tmp_path):
    with ArrayWriter(tmp_path / "whole.npy", np.uint16) as array:
        array.append([1, 2])
        array.append(np.array([65535]))
    assert open_array(tmp_path / "whole.npy").tolist() == [1, 2, 65535]
    assert open_array(tmp_path / "whole.npy").dtype == np.uint16

    def fail() -> None:
        with ArrayWriter(tmp_path / "half.npy", np.uint16) as array:
            array.append([1, 2])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with pytest.raises(ValueError, match=r"allow_pickle|magic"):  # it has no header
        open_array(tmp_path / "half.npy")


def test_an_empty_array(tmp_path):
    small = ArrayWriter(tmp_path / "small.npy", np.uint16)
    with pytest.raises(OverflowError, match="a value does not fit uint16"), small:
        small.append([1, 70_000])
    with ArrayWriter(tmp_path / "empty.npy", np.int64):
        pass
    assert open_array(tmp_path / "empty.npy").tolist() == []
