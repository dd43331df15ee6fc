"""Stores of a few documents, and packed views of them."""

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from objectives.view import Tags, View
from phf.blocks.packed import PackedView
from phf.store.store import StoreSplit

EOS, GOOD, BAD, FIRST = 0, 1, 2, 40
NAN = float("nan")

# A document: the number of tokens and the score of each of its segments.
Document = list[tuple[int, float]]

scores = st.sampled_from([0.0, 0.25, 0.5, 1.0, NAN])
documents = st.lists(
    st.lists(st.tuples(st.integers(0, 5), scores), min_size=1, max_size=8).filter(
        lambda document: sum(length for length, _ in document) > 0
    ),
    min_size=1,
    max_size=8,
)
levels = st.lists(st.sampled_from([0.0, 0.25, 0.6]), min_size=1, unique=True).map(lambda x: tuple(sorted(x)))
tags = st.builds(Tags, levels, st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
limits = st.none() | st.sampled_from([0.0, 0.3, 1.0])
views = st.builds(View, limits, st.none() | tags, limits, st.integers(1, 3))


def tag_ids(view: View, length: int) -> list[list[int]]:
    """For each tag tokens of its own, from the best to the worst."""
    names = view.tags.names if view.tags else ()
    return [list(range(1 + length * i, 1 + length * (i + 1))) for i in range(len(names))]


def make_split(folder: Path, corpus: list[Document]) -> StoreSplit:
    """A split in which every token is its own index plus FIRST."""
    segments = [segment for document in corpus for segment in document]
    lengths = [sum(length for length, _ in document) for document in corpus]
    values = [np.array([score for _, score in document], np.float32) for document in corpus]
    means = [np.mean(v[~np.isnan(v)], dtype=np.float64) if (~np.isnan(v)).any() else NAN for v in values]
    arrays = {
        "tokens": np.arange(FIRST, FIRST + sum(lengths), dtype=np.uint16),
        "segment_ends": np.cumsum([length for length, _ in segments]),
        "document_ends": np.cumsum([len(document) for document in corpus]),
        "document_token_ends": np.cumsum(lengths),
        "scores/s": np.array([score for _, score in segments], np.float32),
        "document_scores/s": np.array(means, np.float32),
        "document_num_scored/s": np.array(
            [sum(n > 0 and s == s for n, s in document) for document in corpus], np.int32
        ),
    }
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
    return StoreSplit(folder)


def packed_view(split: StoreSplit, view: View | None = None, **options) -> PackedView:
    defaults = {"scorer": "s", "context_length": 7, "seed": 1, "eos_id": EOS, "tag_ids": [[GOOD], [BAD]]}
    return PackedView(split, view or View(), **(defaults | options))


def shown(corpus: list[Document], view: View) -> list[int]:
    """Documents of an epoch, each as often as it comes, from the definition."""

    def mean(document: Document) -> np.float32:
        return np.float32(np.mean([score for _, score in document if score == score] or [NAN]))

    limit = np.float32(np.inf if view.keep_below is None else view.keep_below)
    kept = [i for i, document in enumerate(corpus) if not mean(document) > limit]
    often = np.float32(-1 if view.repeat_below is None else view.repeat_below)
    return [i for i in kept for _ in range(view.times if mean(corpus[i]) <= often else 1)]


def assert_equal(a, b) -> None:
    for name, dtype in (("tokens", "i8"), ("segments", "i8"), ("scores", "f4"), ("kind", "u1")):
        assert getattr(a, name).dtype == dtype
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
