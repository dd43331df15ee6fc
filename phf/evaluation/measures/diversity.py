"""Implements the measure `diversity`: distinct n-grams, entropy and Self-BLEU.

A model that has become repetitive uses few different words and phrases.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from phf.base.estimates import SHARE, Bootstrap, Interval
from phf.evaluation.measures.base import Column, SampleMeasure, estimate

if TYPE_CHECKING:
    from phf.evaluation.sample_scores import ScoredSample

MAX_SELF_BLEU_TEXTS = 256
"""Self-BLEU is computed on at most this many texts; its value varies little by then."""

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class DiversityResults:
    """How varied the samples of a scenario are; a value is `None` if there is too little text.

    Attributes:
        distinct_1: Number of different words, divided by the number of words.
        distinct_2: The same for pairs of consecutive words.
        distinct_3: The same for triples of consecutive words.
        entropy: Entropy of the pairs, in bits.
        self_bleu: Mean BLEU of each text against all others; 1 if all texts are equal.
    """

    distinct_1: Interval = estimate(SHARE)
    distinct_2: Interval = estimate(SHARE)
    distinct_3: Interval = estimate(SHARE)
    entropy: Interval = estimate()
    self_bleu: Interval = estimate(SHARE)


class Diversity(SampleMeasure):
    """Distinct n-grams, entropy and Self-BLEU of the continuations.

    The units are words and punctuation marks rather than tokens, so that models with different tokenizers
    can be compared. Distinct-n and entropy pool all texts.
    """

    name = "diversity"
    title = "Variety of the text"
    Results = DiversityResults
    columns = (
        Column("Distinct-1", lambda found: found.distinct_1),
        Column("Distinct-2", lambda found: found.distinct_2),
        Column("Distinct-3", lambda found: found.distinct_3),
        Column("Entropy", lambda found: found.entropy),
        Column("Self-BLEU", lambda found: found.self_bleu),
    )

    def measure(
        self, samples: Sequence[ScoredSample], clusters: Sequence[int] | None, bootstrap: Bootstrap
    ) -> DiversityResults:
        return diversity([one.sample.text for one in samples])


def diversity(texts: Sequence[str]) -> DiversityResults:
    """Computes how varied texts are."""
    words = [_WORD.findall(text) for text in texts]
    return DiversityResults(
        Interval(distinct(words, 1)),
        Interval(distinct(words, 2)),
        Interval(distinct(words, 3)),
        Interval(entropy(words, 2)),
        Interval(self_bleu(_spread(words, MAX_SELF_BLEU_TEXTS))),
    )


def distinct(texts: Sequence[Sequence[Hashable]], n: int) -> float | None:
    """Computes the share of distinct n-grams (Li et al. 2016); `None` if there are no n-grams."""
    counts = _pooled(texts, n)
    return len(counts) / counts.total() if counts else None


def entropy(texts: Sequence[Sequence[Hashable]], n: int) -> float | None:
    """Computes the Shannon entropy of the pooled n-grams, in bits; `None` if there are no n-grams."""
    counts = _pooled(texts, n)
    if not counts:
        return None
    share = np.array(list(counts.values())) / counts.total()
    return float(max(0.0, -(share * np.log2(share)).sum()))


def self_bleu(texts: Sequence[Sequence[Hashable]], order: int = 5) -> float | None:
    """Computes the mean BLEU of each text against all others (Zhu et al. 2018): 1 if all texts are equal.

    BLEU is that of Papineni et al. 2002 with equal weights up to `order`. A match count of 0 is replaced by
    0.1 (method 1 of Chen and Cherry 2014). `None` if fewer than two texts are not empty.
    """
    texts = [text for text in texts if text]
    if len(texts) < 2:
        return None
    log_precision = np.zeros(len(texts))
    for n in range(1, order + 1):
        log_precision += np.log(_precisions([Counter(_ngrams(text, n)) for text in texts])) / order
    penalty = _brevity_penalties([len(text) for text in texts])
    return float((penalty * np.exp(log_precision)).mean())


def _precisions(counts: Sequence[Counter[Hashable]]) -> list[float]:
    """Computes BLEU's clipped n-gram precision of each text, with all other texts as references.

    The largest count of an n-gram in any *other* text follows from the two largest counts over all texts. So
    one pass over all texts is enough.
    """
    largest: dict[Hashable, tuple[int, int, int]] = {}  # largest count, its text, second largest count
    for index, counter in enumerate(counts):
        for gram, count in counter.items():
            first, owner, second = largest.get(gram, (0, -1, 0))
            largest[gram] = (count, index, first) if count > first else (first, owner, max(second, count))
    precisions = []
    for index, counter in enumerate(counts):
        matches = 0
        for gram, count in counter.items():
            first, owner, second = largest[gram]
            matches += min(count, second if owner == index else first)
        precisions.append((matches or 0.1) / max(1, counter.total()))
    return precisions


def _brevity_penalties(lengths: Sequence[int]) -> np.ndarray:
    """Computes BLEU's brevity penalty of each text against the nearest other length (the shorter of two)."""
    ordered = sorted(lengths)
    penalties = []
    for length in lengths:
        place = bisect_left(ordered, length)
        others = ordered[max(0, place - 1) : place] + ordered[place + 1 : place + 2]
        nearest = min(others, key=lambda other: (abs(other - length), other))
        penalties.append(min(1.0, math.exp(1 - nearest / length)))
    return np.array(penalties)


def _ngrams(text: Sequence[Hashable], n: int) -> zip[tuple[Hashable, ...]]:
    return zip(*(text[start:] for start in range(n)), strict=False)


def _pooled(texts: Sequence[Sequence[Hashable]], n: int) -> Counter[tuple[Hashable, ...]]:
    return Counter(gram for text in texts for gram in _ngrams(text, n))


def _spread(items: Sequence[Any], size: int) -> list[Any]:
    """Returns at most `size` of the items, evenly spread, so that every prompt is represented."""
    if len(items) <= size:
        return list(items)
    return [items[i * len(items) // size] for i in range(size)]
