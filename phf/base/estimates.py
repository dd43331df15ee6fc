"""Estimates means, rates and expected maxima of scored samples, with confidence intervals.

If the samples come from several prompts, the prompts are the random draws: intervals are about other prompts,
not about other samples of these. `None` stands for an unknown value; no function returns NaN.
`benchmarks/intervals.py` measures how often the intervals cover the truth.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

NUM_RESAMPLES = 2000
MAX_BCA = 10_000
"""BCa takes time quadratic in the number of observations. Above this number its correction is negligible."""

FEW = 10
"""With fewer observations than this, a bootstrap interval is too narrow."""
LEAST_DIFFERING = 10
SHARE_DIFFERING = 0.5
"""A mean has an interval if so many observations, or this share of them, differ from the most frequent value.
With fewer, as in scores that are nearly always 0, no method knows what the next observation may be."""

Bounds = tuple[float, float]
"""The smallest and the largest possible value of a quantity."""
NONNEGATIVE: Bounds = (0.0, math.inf)
SHARE: Bounds = (0.0, 1.0)
UNBOUNDED: Bounds = (-math.inf, math.inf)


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        value: The estimate; `None` if it is unknown.
        low: Lower end of the interval; `None` if there is no interval.
        high: Upper end of the interval.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "unknown"
        return f"{self.value:.4g}" + ("" if self.low is None else f" [{self.low:.4g}, {self.high:.4g}]")


@dataclass(frozen=True)
class ExpectedMax(Interval):
    """The expected maximum of `k` samples of one prompt.

    Attributes:
        k: How many samples the maximum is taken over.
    """

    k: int = 0


@dataclass(frozen=True)
class Bootstrap:
    """Computes confidence intervals of means, shares and maxima.

    The argument `clusters` of the methods gives the prompt of each sample. The prompts are then the
    observations. If it is `None`, each sample is an observation of its own. One observation has no interval.

    Attributes:
        confidence: Coverage of the intervals.
        seed: Seed of the resampling.
    """

    confidence: float = 0.95
    seed: int = 0

    def mean(
        self,
        values: Sequence[float | None],
        clusters: Sequence[int] | None = None,
        least: float = -math.inf,
    ) -> Interval:
        """Returns the mean of the values that are not `None`; no mean is below `least`."""
        return self.ratio(*_cluster_sums(values, clusters), least)

    def rate(
        self, values: Sequence[float | None], threshold: float, clusters: Sequence[int] | None = None
    ) -> Interval:
        """Returns the share of the values above a threshold; values that are `None` do not count."""
        return self.share([None if value is None else float(value > threshold) for value in values], clusters)

    def share(self, shares: Sequence[float | None], clusters: Sequence[int] | None = None) -> Interval:
        """Returns the mean of shares, with an interval within [0, 1].

        The interval is that of Korn and Graubard (1998, Survey Methodology 24:193): the exact one of Clopper
        and Pearson for the number of independent samples that would know the share as well, corrected for
        few clusters. It suits rare events, for which a bootstrap is too narrow. If the shares do not vary,
        each cluster is taken for one sample.
        """
        sums, counts = _cluster_sums(shares, clusters)
        n, total = len(sums), float(counts.sum())
        if n == 0:
            return Interval()
        value = float(sums.sum() / total)
        if n == 1:
            return Interval(value)
        variance = n / (n - 1) * float(((sums - value * counts) ** 2).sum()) / total**2
        size = float(n)
        if variance > 0:
            level = (1 + self.confidence) / 2
            correction = (stats.t.ppf(level, total - 1) / stats.t.ppf(level, n - 1)) ** 2
            # `total` divided by the design effect: the variance over that of independent samples.
            size = total * value * (1 - value) / ((total - 1) * variance) * correction
            size = min(total, max(size, 0.0))
        bad, good, tail = value * size, (1 - value) * size, (1 - self.confidence) / 2
        low = float(stats.beta.ppf(tail, bad, good + 1)) if bad > 0 else 0.0
        high = float(stats.beta.ppf(1 - tail, bad + 1, good)) if good > 0 else 1.0
        return Interval(value, min(low, value), max(high, value))

    def expected_max(
        self, values: Sequence[float | None], of: int, clusters: Sequence[int] | None = None
    ) -> ExpectedMax:
        """Returns the expected maximum of `of` samples of one prompt, averaged over the prompts.

        The unbiased estimate from n samples with order statistics x_(i) is sum_i x_(i) C(i-1, k-1) / C(n, k),
        the mean of the maximum over all subsets of size k. Without `clusters` all samples form one group. The
        bootstrap then resamples the jackknife pseudo-values of the estimate, whose mean is the estimate. The
        samples themselves are not resampled, because a resample may contain the largest score twice.

        Returns:
            The estimate. Its `k` is `of`, or the smallest number of samples of any prompt if that is less.
                For a prompt in which some samples have no score, the maximum is over the scored samples.
                Without `clusters`, there is no interval if at most k samples have a score.
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
                return ExpectedMax(float(known[-1]), None, None, k)
            found = self.mean(_max_pseudo_values(known, k).tolist())
        else:
            found = self.mean([_expected_max(np.sort(group), k) for group in groups.values()])
        return ExpectedMax(found.value, found.low, found.high, k)

    def ratio(self, sums: np.ndarray, counts: np.ndarray, least: float = -math.inf) -> Interval:
        """Returns the sum of `sums` divided by the sum of `counts`; both have one element per cluster.

        With fewer than `FEW` clusters, the interval is Student's t. With more it is BCa (Efron 1987),
        expanded by the ratio of Student's t to the normal distribution (the expanded percentiles of
        Hesterberg 2015, arXiv 1411.5279), or the percentile interval if BCa fails or there are more than
        `MAX_BCA` clusters.
        There is none if the clusters hardly differ, see `LEAST_DIFFERING`.
        """
        if len(sums) == 0:
            return Interval()
        n, value = len(sums), float(sums.sum() / counts.sum())
        differing = n - int(np.unique(sums / counts, return_counts=True)[1].max())
        if differing < max(1, min(int(SHARE_DIFFERING * n), LEAST_DIFFERING)):
            return Interval(value)
        if n < FEW:
            residuals = sums - value * counts
            error = math.sqrt(n / (n - 1) * float((residuals**2).sum())) / float(counts.sum())
            room = float(stats.t.ppf((1 + self.confidence) / 2, n - 1)) * error
            return Interval(value, max(least, value - room), value + room)
        low = high = value
        z = math.sqrt(n / (n - 1)) * stats.t.ppf((1 + self.confidence) / 2, n - 1)
        expanded = min(1 - 2 * float(stats.norm.cdf(-z)), 1 - 1 / NUM_RESAMPLES)
        for method in ("BCa", "percentile") if n <= MAX_BCA else ("percentile",):
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")  # a degenerate distribution is handled below
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
                    rng=np.random.default_rng(self.seed),
                ).confidence_interval
            low, high = float(interval.low), float(interval.high)
            if math.isfinite(low) and math.isfinite(high):
                break
        return Interval(value, min(low, value), max(high, value))


def _cluster_sums(
    values: Sequence[float | None], clusters: Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sum and the number of known values of each cluster that has any."""
    known = [i for i, value in enumerate(values) if value is not None]
    x = np.array([values[i] for i in known], dtype=np.float64)
    if clusters is None:
        return x, np.ones_like(x)
    _, cluster = np.unique(np.array([clusters[i] for i in known], dtype=np.int64), return_inverse=True)
    return np.bincount(cluster, weights=x), np.bincount(cluster).astype(np.float64)


def _expected_max(ordered: np.ndarray, k: int) -> float:
    """Returns the expected maximum of k of the values, or of all values if there are fewer."""
    return float(ordered @ _max_weights(len(ordered), min(k, len(ordered))))


def _max_weights(n: int, k: int) -> np.ndarray:
    """Returns for each of n ordered values the share of the subsets of size k in which it is the largest."""
    rank = np.arange(k, n + 1)
    log_binomial = special.gammaln(rank) - special.gammaln(rank - k + 1)  # C(rank - 1, k - 1), up to a factor
    return np.concatenate([np.zeros(k - 1), special.softmax(log_binomial)])


def _max_pseudo_values(ordered: np.ndarray, k: int) -> np.ndarray:
    """Returns the jackknife pseudo-values n U - (n - 1) U_(-i) for each left-out value i.

    U is the expected maximum of k out of n > k values.
    """
    n = len(ordered)
    if n == 0:
        return ordered
    weights = _max_weights(n - 1, k)
    # Values below the left-out value keep their rank. The rank of values above it drops by one.
    below = np.concatenate([[0.0], np.cumsum(ordered[:-1] * weights)])
    above = np.concatenate([np.cumsum((ordered[1:] * weights)[::-1])[::-1], [0.0]])
    return n * _expected_max(ordered, k) - (n - 1) * (below + above)


def number_prompts(prompts: Iterable[str]) -> list[int]:
    """Numbers prompts by their text: a prompt that is given twice is one prompt."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(prompt, len(numbers)) for prompt in prompts]


def few_prompts(number: int) -> str | None:
    """Says what is wrong with so few prompts; `None` if they are enough, or if there are no prompts."""
    if number == 1:
        return f"one prompt says nothing about others, so there are no intervals; give {FEW} prompts or more"
    if 0 < number < FEW:
        return f"with {number} prompts, intervals are wide and trust their shape; give {FEW} prompts or more"
    return None
