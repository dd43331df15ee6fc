"""Views one after the other, against what a reader of their blocks has in fact read."""

import pickle
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.view import View
from phf.blocks import packed
from phf.blocks.block import Kind
from phf.blocks.curriculum import Phases, in_phases
from phf.blocks.packed import PackedView
from phf.blocks.tagged_segments import ORDER, random_numbers
from support.streams import assert_equal, documents, make_split, packed_view, shown, tag_ids, tags

views = st.one_of(
    st.builds(View, st.just(0.3)),
    st.builds(View, repeat_below=st.just(0.3), times=st.just(3)),
    st.builds(View, tags=tags),
)


@pytest.fixture(autouse=True, scope="module")
def _small_windows():
    """Of four blocks, so that an epoch of a test has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "WINDOW_BLOCKS", 4)
        yield


def documents_of(view: PackedView, epoch: int) -> list[int]:
    """The documents of an epoch as its blocks show them, in order."""
    order = []
    for i in range(view.num_blocks(epoch)):
        block = view.block(epoch, i)
        opened = block.segments[:-1][block.kind[:-1] == Kind.EOS]
        order += np.searchsorted(view.split.document_ends, opened, side="right").tolist()
    return order


def wholly_read(view: PackedView, indices: range, epoch: int) -> set[int]:
    """Documents of which every token was a target of these blocks in an epoch."""
    targets: set[int] = set()
    for place_epoch, i in map(view.locate, indices):
        if place_epoch == epoch:
            block = view.block(epoch, i)
            targets |= set(block.tokens[1:][block.kind[1:] == Kind.TEXT].tolist())
    ends = view.split.document_token_ends
    text = view.split.tokens
    return {d for d in range(len(ends)) if targets >= set(text[ends[d - 1] if d else 0 : ends[d]].tolist())}


@pytest.mark.slow
@given(documents, views, st.integers(2, 9), st.integers(1, 30), st.integers(1, 9))
def test_finetuning_goes_on_with_the_documents_that_are_not_wholly_read(
    corpus, view, context_length, seen, size
):
    """The earlier run has read its blocks as if it would never stop."""
    with tempfile.TemporaryDirectory() as folder:
        split = make_split(Path(folder), corpus)
        wanted = shown(corpus, view)
        if not wanted:
            return
        make = partial(packed_view, split, context_length=context_length, tag_ids=tag_ids(view, 1))
        plain, phases = make(View()), in_phases(make, view, begin=seen, end=seen + size, seen=seen)
        assert isinstance(phases, Phases)
        for i in range(seen):
            assert_equal(phases.block(*phases.locate(i)), plain.block(*plain.locate(i)))
        epoch, _ = plain.locate(seen)
        behind = wholly_read(plain, range(seen), epoch)
        left = documents_of(phases.views[1], epoch)
        assert sorted(left) == sorted(d for d in wanted if d not in behind)
        assert sorted(documents_of(phases.views[1], epoch + 1)) == sorted(wanted)
        if left:
            assert phases.locate(seen)[:2] == (1, epoch)
        if phases.views[2]._epochs.first == epoch:
            assert not behind & set(documents_of(phases.views[2], epoch))


@pytest.mark.slow
@given(documents, views, st.integers(2, 9), st.integers(0, 12), st.integers(1, 12))
def test_plain_text_at_the_beginning_and_at_the_end(corpus, view, context_length, begin, size):
    """Each phase takes up the order of all documents where the one before it put it down."""
    with tempfile.TemporaryDirectory() as folder:
        split = make_split(Path(folder), corpus)
        if not shown(corpus, view):
            return
        make = partial(packed_view, split, context_length=context_length, tag_ids=tag_ids(view, 1))
        phases = in_phases(make, view, begin=begin, end=begin + size)
        assert isinstance(phases, Phases)
        assert [phases.locate(i)[0] - len(phases.views) for i in (begin, begin + size)] == [-2, -1]
        for phase, (first, stop) in enumerate(zip(phases.starts, [*phases.starts[1:], None], strict=True)):
            reader = phases.views[phase]
            assert reader.view == ([View()] * begin + [view] * size + [View()])[first]
            if stop is None:
                continue
            # What is read of an epoch that is not read to its end is its first blocks.
            epoch, _ = reader.locate(stop - first - 1)
            read = [i for e, i in map(reader.locate, range(stop - first)) if e == epoch]
            assert sorted(read) == list(range(len(read)))
            following = phases.views[phase + 1]
            epoch = following._epochs.first
            order = random_numbers(1, epoch, ORDER, np.arange(len(corpus))).argsort().tolist()
            left = documents_of(following, epoch)
            # The following phase has the end of the order, as far as its view shows it.
            where = [order.index(d) for d in left]
            rest = order[min(where, default=len(order)) :]
            assert set(left) == set(rest) & set(shown(corpus, following.view))
            behind = wholly_read(reader, range(stop - first), epoch)
            assert reader.view.times > 1 or not behind & set(left)


@pytest.mark.slow
@given(documents, views, st.integers(2, 9), st.integers(1, 3), st.integers(0, 9), st.integers(2, 20))
def test_targets_that_count(corpus, view, context_length, tag_length, begin, size):
    with tempfile.TemporaryDirectory() as folder:
        split = make_split(Path(folder), corpus)
        if not shown(corpus, view):
            return
        ids = tag_ids(view, tag_length)
        make = partial(packed_view, split, context_length=context_length, tag_ids=ids)
        for loss in (True, False):
            if view.tags:
                view = replace(view, tags=replace(view.tags, loss=loss))
            stream = in_phases(make, view, begin=begin, end=begin + size // 2)
            indices = range(begin // 2, begin + size)
            no_target = {Kind.PAD} if loss else {Kind.PAD, Kind.TAG}
            kinds = [stream.block(*stream.locate(i)).kind[1:].tolist() for i in indices]
            assert stream.num_targets(indices) == sum(kind not in no_target for row in kinds for kind in row)
            assert stream.learns_tags == (loss or not view.tags)


def test_a_phase_that_is_empty_is_none(tmp_path):
    make = partial(packed_view, make_split(tmp_path, [[(9, 0.0)]] * 9))
    view = View(keep_below=0.0)
    assert isinstance(in_phases(make, view, begin=0, end=None), PackedView)
    after = in_phases(make, view, begin=5, end=3, seen=5)
    assert [one.view for one in after.views] == [View(), View()]
    assert after.starts == [0, 5]


def test_the_same_in_another_process(tmp_path):
    make = partial(packed_view, make_split(tmp_path, [[(9, i / 40)] for i in range(40)]))
    phases = in_phases(make, View(keep_below=0.5), begin=7, end=15)
    copy = pickle.loads(pickle.dumps(phases))
    assert len(pickle.dumps(phases)) < 3000
    for i in (0, 6, 7, 14, 15, 90):
        assert copy.locate(i) == phases.locate(i)
        assert_equal(copy.block(*copy.locate(i)), phases.block(*phases.locate(i)))


def test_an_epoch_is_shuffled_a_window_at_a_time(tmp_path):
    stream = packed_view(make_split(tmp_path, [[(9, 0.0)]] * 20))
    order = [i for epoch, i in map(stream.locate, range(stream.num_blocks(0)))]
    assert order != sorted(order)
    assert [i // 4 for i in order] == sorted(i // 4 for i in order)
