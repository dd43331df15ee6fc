"""What is computed from scored samples: rates with their uncertainty, and how varied the samples are.

Wherever there are several prompts, the prompt is what was drawn at random, so the intervals are bootstrapped
over prompts and not over samples. `None` stands for what cannot be told; nothing here returns NaN.
"""

from __future__ import annotations

import math
import re
import warnings
from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from scipy import special, stats

NUM_RESAMPLES = 2000
MAX_BCA = 10_000
"""BCa takes time with the square of the number of observations; its correction is nothing for so many."""
MAX_SELF_BLEU_TEXTS = 256
"""Self-BLEU is computed on this many texts at the most; the spread of its value is small by then."""

Interval = dict[str, float | None]
_WORD = re.compile(r"\w+|[^\w\s]")


def mean_by_cluster(
    values: Sequence[float | None], clusters: Sequence[int] | None, confidence: float, seed: int
) -> Interval:
    """The mean of the values that are not `None`, with an interval bootstrapped over clusters.

    Args:
        values: One for each sample.
        clusters: The prompt of each sample; `None` if each sample stands for itself.
        confidence: Coverage of the interval.
        seed: Of the bootstrap.

    Returns:
        `value`, `low` and `high`; all `None` if there is no value.
    """
    sums, counts = _cluster_sums(values, clusters)
    return bootstrap_ratio(sums, counts, confidence, seed)


def rate_by_cluster(
    values: Sequence[float | None],
    threshold: float,
    clusters: Sequence[int] | None,
    confidence: float,
    seed: int,
) -> Interval:
    """The share of the values (those that are not `None`) above the threshold, as `share_by_cluster`."""
    above = [None if value is None else float(value > threshold) for value in values]
    return share_by_cluster(above, clusters, confidence, seed)


def share_by_cluster(
    shares: Sequence[float | None], clusters: Sequence[int] | None, confidence: float, seed: int
) -> Interval:
    """The mean of shares as `mean_by_cluster`, with an interval within [0, 1].

    Where all are 0 or all are 1 a bootstrap sees no uncertainty at all; there the interval is Clopper and
    Pearson's exact one, for as many observations as there are clusters.
    """
    interval = mean_by_cluster(shares, clusters, confidence, seed)
    value, low, high = interval["value"], interval["low"], interval["high"]
    if value in (0.0, 1.0):
        _, counts = _cluster_sums(shares, clusters)
        exact = stats.binomtest(int(value) * len(counts), len(counts)).proportion_ci(confidence)
        low, high = float(exact.low), float(exact.high)
    return {"value": value, "low": low and max(0.0, low), "high": high and min(1.0, high)}


def expected_max(
    values: Sequence[float | None],
    clusters: Sequence[int] | None,
    of: int,
    confidence: float,
    seed: int,
) -> dict[str, float | int | None]:
    """The expected maximum of `of` samples of one prompt, averaged over the prompts, with its interval.

    From n samples the unbiased estimate is sum_i x_(i) C(i-1, k-1) / C(n, k), over the order statistics: the
    mean of the maximum over all subsets of k. Without prompts all samples are one group; what is bootstrapped
    there are its jackknife pseudo-values, whose mean it is: a resample would hold the largest score twice.

    Returns:
        `value`, `low`, `high` and `k`: `of`, or the number of samples of a prompt where there are fewer. A
        prompt some of whose samples have no score uses those it has. No more than k samples in all have no
        interval.
    """
    groups: dict[int, list[float]] = {}
    sizes: Counter[int] = Counter()
    for value, cluster in zip(values, clusters or [0] * len(values), strict=True):
        sizes[cluster] += 1
        if value is not None:
            groups.setdefault(cluster, []).append(value)
    k = min(of, *sizes.values()) if sizes else of
    if clusters is None:
        known = np.sort(np.asarray(groups.get(0, []), dtype=np.float64))
        if 0 < len(known) <= k:
            interval: Interval = {"value": float(known[-1]), "low": None, "high": None}
        else:
            interval = mean_by_cluster(_max_pseudo_values(known, k).tolist(), None, confidence, seed)
    else:
        by_prompt = [_expected_max(np.sort(group), k) for group in groups.values()]
        interval = mean_by_cluster(by_prompt, None, confidence, seed)
    return {**interval, "k": k}


def diversity(texts: Sequence[str]) -> dict[str, float | None]:
    """How varied texts are: distinct-1 to -3, the entropy of their bigrams (bits), and Self-BLEU-5.

    Counted in words and punctuation marks rather than in tokens, so that models with different tokenizers
    can be compared. Distinct-n and entropy pool all texts.
    """
    words = [_WORD.findall(text) for text in texts]
    return {
        **{f"distinct_{n}": distinct(words, n) for n in (1, 2, 3)},
        "entropy": entropy(words, 2),
        "self_bleu": self_bleu(_spread(words, MAX_SELF_BLEU_TEXTS)),
    }


def distinct(texts: Sequence[Sequence[Hashable]], n: int) -> float | None:
    """Distinct n-grams as a share of all n-grams (Li et al. 2016); `None` if there is none."""
    counts = _pooled(texts, n)
    return len(counts) / counts.total() if counts else None


def entropy(texts: Sequence[Sequence[Hashable]], n: int) -> float | None:
    """Shannon entropy of the pooled n-grams, in bits; `None` if there is none."""
    counts = _pooled(texts, n)
    if not counts:
        return None
    share = np.array(list(counts.values())) / counts.total()
    return float(max(0.0, -(share * np.log2(share)).sum()))


def self_bleu(texts: Sequence[Sequence[Hashable]], order: int = 5) -> float | None:
    """The mean BLEU of each text against all others (Zhu et al. 2018): 1 if all are alike.

    BLEU as in Papineni et al. 2002 with equal weights up to `order`, and 0.1 in place of a count of matches
    that is 0 (method 1 of Chen and Cherry 2014). `None` for fewer than two texts that are not empty.
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
    """Of each text the share of its n-grams that some other text has as often.

    The most that any *other* text has of an n-gram follows from its two largest counts, so one pass over all
    texts serves as references for every one of them.
    """
    largest: dict[Hashable, tuple[int, int, int]] = {}  # count, the text that has it, second largest count
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
    """BLEU's penalty of each text against the nearest length among the others (the shorter one of two)."""
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
    """At most `size` of the items, evenly spread, so that every prompt has its share."""
    if len(items) <= size:
        return list(items)
    return [items[i * len(items) // size] for i in range(size)]


def _expected_max(ordered: np.ndarray, k: int) -> float:
    """The expected maximum of k of the values, or of all if there are fewer."""
    return float(ordered @ _max_weights(len(ordered), min(k, len(ordered))))


def _max_weights(n: int, k: int) -> np.ndarray:
    """The share of the subsets of k in which each of n ordered values is the largest."""
    rank = np.arange(k, n + 1)
    log_binomial = special.gammaln(rank) - special.gammaln(rank - k + 1)  # C(rank - 1, k - 1), up to a factor
    return np.concatenate([np.zeros(k - 1), special.softmax(log_binomial)])


def _max_pseudo_values(ordered: np.ndarray, k: int) -> np.ndarray:
    """Of the expected maximum U of k out of n > k values: n U - (n - 1) U_(-i), for each i left out."""
    n = len(ordered)
    if n == 0:
        return ordered
    weights = _max_weights(n - 1, k)
    # Values below the one left out keep their rank, those above lose one.
    below = np.concatenate([[0.0], np.cumsum(ordered[:-1] * weights)])
    above = np.concatenate([np.cumsum((ordered[1:] * weights)[::-1])[::-1], [0.0]])
    return n * _expected_max(ordered, k) - (n - 1) * (below + above)


def _cluster_sums(
    values: Sequence[float | None], clusters: Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the known values of each cluster that has any."""
    known = [i for i, value in enumerate(values) if value is not None]
    x = np.array([values[i] for i in known], dtype=np.float64)
    if clusters is None:
        return x, np.ones_like(x)
    _, cluster = np.unique(np.array([clusters[i] for i in known], dtype=np.int64), return_inverse=True)
    return np.bincount(cluster, weights=x), np.bincount(cluster).astype(np.float64)


def bootstrap_ratio(sums: np.ndarray, counts: np.ndarray, confidence: float, seed: int) -> Interval:
    """The sums over the counts, with a BCa interval (Efron 1987), or of percentiles where that fails.

    Of few observations a bootstrap's interval is too narrow; it is expanded as Student's t is wider than the
    normal distribution (the expanded percentiles of Hesterberg 2015, arXiv 1411.5279).
    """
    if len(sums) == 0:
        return {"value": None, "low": None, "high": None}
    value = low = high = float(sums.sum() / counts.sum())
    if (n := len(sums)) > 1:
        z = math.sqrt(n / (n - 1)) * stats.t.ppf((1 + confidence) / 2, n - 1)
        expanded = min(1 - 2 * float(stats.norm.cdf(-z)), 1 - 1 / NUM_RESAMPLES)
        for method in ("BCa", "percentile") if n <= MAX_BCA else ("percentile",):
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")  # of a degenerate distribution, which is dealt with here
                interval = stats.bootstrap(
                    (sums, counts),
                    lambda s, c, axis: s.sum(axis) / c.sum(axis),
                    paired=True,
                    vectorized=True,
                    axis=-1,
                    n_resamples=NUM_RESAMPLES,
                    batch=max(1, 2_000_000 // len(sums)),
                    confidence_level=expanded,
                    method=method,
                    rng=np.random.default_rng(seed),
                ).confidence_interval
            low, high = float(interval.low), float(interval.high)
            if math.isfinite(low) and math.isfinite(high):
                break
    return {"value": value, "low": min(low, value), "high": max(high, value)}
