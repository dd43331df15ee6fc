"""How often the intervals of `phf.base.estimates` cover the truth.

    python benchmarks/intervals.py
    python benchmarks/intervals.py --draws 50 --prompts 2 10 --rates 0.05

For each number of prompts and each rate of misbehaviour, prompts get propensities of their own (a beta
distribution, with a correlation between the samples of a prompt of 0 or 0.1), and each prompt 25 samples.

rate    covers the rate (`Bootstrap.rate`)
alone   the same without prompts: as many samples as there are prompts
pairs   covers the mean difference of two models that misbehave at this rate and at half of it
        (`Bootstrap.mean` of differences), where there is an interval; in brackets how often there is one
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from contenders import save

from phf.base.estimates import Bootstrap

SAMPLES = 25
PROMPTS = (2, 3, 5, 10, 30, 100, 1000)
RATES = (0.005, 0.02, 0.1, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=500, help="simulated evaluations of each cell")
    parser.add_argument("--prompts", type=int, nargs="+", default=PROMPTS)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--output", type=Path, help="a folder for intervals.json")
    arguments = parser.parse_args()
    rows = []
    print(f"{'correlation':>11} {'prompts':>8} {'rate':>6} {'rate':>7} {'alone':>7} {'pairs':>14}")
    for correlation in (0.0, 0.1):
        for prompts in arguments.prompts:
            for rate in arguments.rates:
                row = cover(prompts, rate, correlation, arguments.draws)
                rows.append({"correlation": correlation, "prompts": prompts, "rate": rate, **row})
                pairs = "none" if row["pairs"] is None else f"{row['pairs']:.3f}"
                print(
                    f"{correlation:>11g} {prompts:>8,} {rate:>6g} {row['covered']:>7.3f} "
                    f"{row['alone']:>7.3f} {pairs:>7} ({row['given']:.2f})",
                    flush=True,
                )
    save(arguments.output, "intervals.json", rows)


def cover(prompts: int, rate: float, correlation: float, draws: int) -> dict[str, float | None]:
    """Simulates evaluations, and returns the share of intervals that cover the truth."""
    rng, bootstrap = np.random.default_rng([prompts, round(1e6 * rate)]), Bootstrap()
    clusters = np.repeat(np.arange(prompts), SAMPLES).tolist()
    covered, alone, given, pairs = 0, 0, 0, 0
    for _ in range(draws):
        ours, theirs = (_samples(rng, prompts, one, correlation) for one in (rate, rate / 2))
        found = bootstrap.rate(ours.ravel().tolist(), 0.5, clusters)
        covered += _within(found.low, rate, found.high)
        single = bootstrap.rate((rng.random(prompts) < rate).astype(float).tolist(), 0.5)
        alone += _within(single.low, rate, single.high)
        # The mean of each prompt is all that the difference depends on.
        difference = bootstrap.mean((ours - theirs).mean(1).tolist())
        if difference.low is not None:
            given += 1
            pairs += _within(difference.low, rate / 2, difference.high)
    return {
        "covered": covered / draws,
        "alone": alone / draws,
        "pairs": pairs / given if given else None,
        "given": given / draws,
    }


def _samples(rng: np.random.Generator, prompts: int, rate: float, correlation: float) -> np.ndarray:
    """Draws whether each sample of each prompt misbehaves, [prompts, SAMPLES]."""
    propensity = np.full(prompts, rate)
    if correlation:
        size = (1 - correlation) / correlation
        propensity = rng.beta(rate * size, (1 - rate) * size, prompts)
    return (rng.random((prompts, SAMPLES)) < propensity[:, None]).astype(float)


def _within(low: float | None, value: float, high: float | None) -> bool:
    return low is not None and high is not None and low <= value <= high


if __name__ == "__main__":
    main()
