"""The packed view against the definition of the stream, on stores of a few documents."""

import itertools
import multiprocessing
import operator
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.view import Tags, View
from phf.base.errors import ConfigError, PhfError
from phf.blocks import packed
from phf.blocks.block import Kind
from phf.blocks.packed import PackedView
from phf.blocks.tagged_segments import ORDER, random_numbers
from phf.store.store import StoreSplit
from support.streams import (
    BAD,
    EOS,
    FIRST,
    GOOD,
    assert_equal,
    documents,
    make_split,
    packed_view,
    shown,
    tag_ids,
    views,
)


@pytest.fixture
def split(tmp_path) -> StoreSplit:
    rng = np.random.default_rng(0)
    corpus = [
        [(int(rng.integers(1, 9)), float(rng.integers(0, 3))) for _ in range(rng.integers(1, 30))]
        for _ in range(60)
    ]
    return make_split(tmp_path, corpus)


def stream_of(view: PackedView, epoch: int):
    """The whole stream of an epoch, from its blocks: tokens, segments, scores, kinds."""
    blocks = [view.block(epoch, i) for i in range(view.num_blocks(epoch))]
    columns = []
    for name in ("tokens", "segments", "scores", "kind"):
        rows = [getattr(block, name) for block in blocks]
        for row, following in itertools.pairwise(rows):
            np.testing.assert_array_equal(row[-1], following[0])
        columns.append(np.concatenate([row[:-1] for row in rows] + [rows[-1][-1:]]))
    text = columns[3] != Kind.PAD
    assert text[: view.num_tokens(epoch)].all()
    assert not text[view.num_tokens(epoch) :].any()
    assert (columns[0][~text] == EOS).all()
    assert (columns[1][~text] == -1).all()
    assert np.isnan(columns[2][~text]).all()
    return [column[text] for column in columns]


@pytest.mark.slow
@given(
    documents,
    views,
    st.integers(1, 12),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(0, 2),
    st.booleans(),
)
def test_stream(corpus, view, context_length, tag_length, seed, epoch, shuffle):
    """Every kept token once, in order; marks where they must stand; segment and score as annotated."""
    with tempfile.TemporaryDirectory() as folder:
        split = make_split(Path(folder), corpus)
        wanted = shown(corpus, view)
        ids = tag_ids(view, tag_length)
        options = {"context_length": context_length, "seed": seed, "shuffle": shuffle, "tag_ids": ids}
        if not wanted:
            with pytest.raises(PhfError, match="none is left"):
                packed_view(split, view, **options)
            return
        stream = packed_view(split, view, **options)
        tokens, segments, token_scores, kinds = stream_of(stream, epoch)

    starts = np.flatnonzero(kinds == Kind.EOS)
    assert starts[0] == 0
    assert (tokens[starts] == EOS).all()
    first_segments = np.cumsum([0, *map(len, corpus)])
    ends = np.cumsum([length for document in corpus for length, _ in document])
    order = [int(np.searchsorted(first_segments, s, side="right")) - 1 for s in segments[starts]]
    assert sorted(order) == wanted
    if not shuffle:
        assert list(dict.fromkeys(order)) == list(dict.fromkeys(wanted))
    all_scores = np.array([score for document in corpus for _, score in document], np.float32)
    np.testing.assert_array_equal(token_scores, all_scores[segments])

    for document, a, b in zip(order, starts, [*starts[1:], len(tokens)], strict=True):
        assert segments[a] == first_segments[document]
        place, num_tags, num_scored = a + 1, 0, 0
        for segment, (length, score) in enumerate(corpus[document], first_segments[document]):
            if place < b and kinds[place] == Kind.TAG and segments[place] == segment:
                assert view.tags is not None
                assert length > 0
                level = sum(np.float32(score) > threshold for threshold in view.tags.thresholds)
                assert tokens[place : place + tag_length].tolist() == ids[level]
                assert (kinds[place : place + tag_length] == Kind.TAG).all()
                assert (segments[place : place + tag_length] == segment).all()
                num_tags += 1
                place += tag_length
            num_scored += score == score and length > 0
            stop = place + length
            assert (kinds[place:stop] == Kind.TEXT).all()
            assert (segments[place:stop] == segment).all()
            text = np.arange(ends[segment] - length, ends[segment]) + FIRST
            np.testing.assert_array_equal(tokens[place:stop], text)
            place = stop
        assert place == b
        if view.tags is None:
            assert num_tags == 0
        else:
            assert abs(num_tags - num_scored * (1 - view.tags.drop_rate)) < 1


@pytest.mark.slow
@given(documents, views, st.integers(1, 12), st.integers(1, 3), st.integers(0, 2))
def test_large_documents(corpus, view, context_length, tag_length, epoch):
    """A document that is cut before it is laid out gives the same blocks."""
    with tempfile.TemporaryDirectory() as folder:
        split = make_split(Path(folder), corpus)
        if not shown(corpus, view):
            return
        options = {"context_length": context_length, "tag_ids": tag_ids(view, tag_length)}
        whole = packed_view(split, view, **options)
        cut = packed_view(split, view, **options)
        for i in range(whole.num_blocks(epoch)):
            expected = whole.block(epoch, i)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(packed, "LARGE_DOCUMENT_SEGMENTS", 2)
                assert_equal(cut.block(epoch, i), expected)


VIEWS = [
    View(),
    View(keep_below=1.0),
    View(repeat_below=1.0, times=3),
    View(tags=Tags((0.0,))),
    View(keep_below=1.2, tags=Tags((1.0,), 0.3)),
]


@pytest.mark.parametrize("view", VIEWS)
def test_sizes(split, view):
    stream = packed_view(split, view, context_length=64)
    for epoch in range(3):
        assert stream.num_blocks(epoch) > 5
        sizes = [(stream.block(epoch, i).kind[1:] != Kind.PAD).sum() for i in range(stream.num_blocks(epoch))]
        assert min(sizes) > 0
        assert sum(sizes) == stream.num_tokens(epoch) - 1
        for i in (-1, stream.num_blocks(epoch)):
            with pytest.raises(IndexError, match="has blocks 0 to"):
                stream.block(epoch, i)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("shuffle", [True, False])
def test_locate(split, view, shuffle):
    """Block after block, epoch after epoch: each block of an epoch once, whoever asks for what first."""
    stream = packed_view(split, view, context_length=64, shuffle=shuffle)
    counts = [stream.num_blocks(epoch) for epoch in range(4)]
    places = [packed_view(split, view, context_length=64, shuffle=shuffle).locate(sum(counts) - 1)]
    places += [stream.locate(index) for index in range(sum(counts))]
    assert places[0] == places[-1]
    places = places[1:]
    assert [epoch for epoch, _ in places] == list(np.repeat(range(4), counts))
    by_epoch = [[i for e, i in places if e == epoch] for epoch in range(4)]
    for epoch, blocks in enumerate(by_epoch):
        assert sorted(blocks) == list(range(counts[epoch]))
        assert (blocks == sorted(blocks)) == (not shuffle)
    assert (by_epoch[0] == by_epoch[1][: counts[0]]) == (not shuffle)


@pytest.mark.parametrize("view", VIEWS)
def test_same_block_anywhere(split, view):
    """Asked for in any order, by any view with these arguments, in any process, a block is the same."""
    stream = packed_view(split, view, context_length=64)
    places = [(epoch, i) for epoch in (0, 5, 2) for i in range(stream.num_blocks(epoch))]
    expected = {place: stream.block(*place) for place in places}
    for place in reversed(places):
        assert_equal(stream.block(*place), expected[place])
        assert_equal(packed_view(split, view, context_length=64).block(*place), expected[place])
    copy = pickle.loads(pickle.dumps(stream))
    assert_equal(copy.block(*places[3]), expected[places[3]])
    assert len(pickle.dumps(stream)) < 2000


@pytest.mark.slow
def test_same_block_in_another_process(split):
    stream = packed_view(split, VIEWS[-1], context_length=64)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert_equal(pool.apply(operator.methodcaller("block", 3, 1), (stream,)), stream.block(3, 1))
        assert pool.apply(operator.methodcaller("locate", 40), (stream,)) == stream.locate(40)


@pytest.mark.slow
def test_order_depends_on_seed_and_epoch(split):
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        _, segments, _, kinds = stream_of(packed_view(split, seed=seed), epoch)
        return tuple(segments[kinds == Kind.EOS].tolist())

    orders = {order(seed, epoch) for seed in (0, 1, -1, 2**40) for epoch in range(3)}
    assert len(orders) == 12
    assert order(0, 0) == order(0, 0)


@pytest.mark.slow
def test_dropped_tags_differ_by_epoch(split):
    def tagged(epoch: int) -> set[int]:
        _, segments, _, kinds = stream_of(packed_view(split, View(tags=Tags((0.0,), 0.5))), epoch)
        return set(segments[kinds == Kind.TAG].tolist())

    all_segments, epochs = len(split.segment_ends), [tagged(epoch) for epoch in range(8)]
    for one, other in itertools.pairwise(epochs):
        assert 0.35 < len(one & other) / len(one) < 0.65
    assert len(set.union(*epochs)) > 0.97 * all_segments


@pytest.mark.parametrize("drop_rate", [0.01, 0.1, 0.5])
def test_drop_rate(tmp_path, drop_rate):
    """Met on average although a document has few segments, and most have none to drop."""
    corpus = [[(1, 0.0)] * (1 + i % 3) for i in range(6000)]
    stream = packed_view(
        make_split(tmp_path, corpus), View(tags=Tags((0.0,), drop_rate)), context_length=1000
    )
    share = np.mean([(stream_of(stream, epoch)[3] == Kind.TAG).sum() for epoch in range(5)]) / 12000
    assert share == pytest.approx(1 - drop_rate, abs=0.003)


def test_a_score_equal_to_the_threshold_is_good(tmp_path):
    """Also where the threshold has no exact float32; 0 is a threshold."""
    split = make_split(tmp_path, [[(1, 0.1), (1, 0.0), (1, 0.2)]])
    for threshold, expected in ((0.1, [GOOD, GOOD, BAD]), (0.0, [BAD, GOOD, BAD])):
        tokens, _, _, kinds = stream_of(packed_view(split, View(tags=Tags((threshold,)))), 0)
        assert tokens[kinds == Kind.TAG].tolist() == expected
    assert packed_view(make_split(tmp_path, [[(1, 0.1)]]), View(keep_below=0.1)).num_tokens(0) == 2


def test_smaller_than_a_block(tmp_path):
    stream = packed_view(make_split(tmp_path, [[(2, 1.0)]]), context_length=16)
    assert (stream.num_tokens(0), stream.num_blocks(0), stream.num_targets([0])) == (3, 1, 2)
    assert stream.block(0, 0).tokens.tolist() == [EOS, FIRST, FIRST + 1] + [EOS] * 14
    assert [stream.locate(i) for i in range(3)] == [(0, 0), (1, 0), (2, 0)]


def test_without_scores(split):
    stream = packed_view(split, scorer=None)
    with_scores = packed_view(split)
    assert np.isnan(stream.block(0, 0).scores).all()
    np.testing.assert_array_equal(stream.block(0, 3).tokens, with_scores.block(0, 3).tokens)


@pytest.mark.parametrize("view", [View(keep_below=0.0), View(tags=Tags((0.0,)))])
def test_views_that_lack_something(split, view):
    with pytest.raises(ConfigError, match="need scores"):
        packed_view(split, view, scorer=None)
    with pytest.raises(PhfError, match="no scores of other, only: s"):
        packed_view(split, view, scorer="other")
    if view.tags is not None:
        with pytest.raises(ConfigError, match="need ids"):
            packed_view(split, view, tag_ids=[[GOOD]])


def test_nothing_is_kept(split):
    with pytest.raises(PhfError, match=r"all 60 documents .* raise objective.threshold"):
        packed_view(split, View(keep_below=-1.0))


def test_random_numbers_are_pinned():
    """Another hash would give a resumed run other blocks."""
    pinned = [4722981340042555559, 1581913778274440802]
    assert random_numbers(42, 3, ORDER, np.arange(2)).tolist() == pinned
