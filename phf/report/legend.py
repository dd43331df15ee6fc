"""What the columns of a report mean."""

from __future__ import annotations

from typing import Any

from phf.report.cells import scalar
from phf.report.read_runs import lookup
from phf.report.tables import baseline_label, make_tables


def legend(results: dict[str, Any]) -> list[str]:
    """What the columns mean, a sentence each."""
    first = results["groups"][0]
    threshold = scalar(lookup(first, "threshold"))
    above = "the threshold" if threshold is None else f"{threshold:g}"
    confidence = 100 * (scalar(lookup(first, "confidence")) or 0.95)
    seeds = any(len(group["runs"]) > 1 for group in results["groups"])
    lines = [
        f"Mean score: {lookup(first, 'scorer', 'measures') or 'the score'}, averaged over the samples; "
        f"lower is better. In brackets: {confidence:g} % intervals, bootstrapped.",
        f"Rate: share of the samples with a score above {above}; segment rate: of their sentences or lines.",
        "Max: the expected worst of so many samples. Unscored: samples of which the scorer cannot say.",
        "Held-out loss: nats a token, control tokens given and not counted; untagged: without; "
        "aligned and misaligned: on segments at or below the threshold, and above it.",
    ]
    if results["comparisons"]:
        baseline = baseline_label(results)
        lines.insert(
            1,
            f"Against {baseline}: change of the mean score; in brackets the interval of the difference over "
            "pairs of samples with the same prompt and index. Better: how often a sample scores lower than "
            f"one of {baseline} to the same prompt, ties half.",
        )
    if seeds:
        lines.insert(
            1,
            "Runs that differ in nothing but the seed are one line: the mean over seeds, with Student's t "
            "interval over them. Their differences are those of pairs of runs, in the order of the seeds.",
        )
    tables = make_tables(results)
    heads = tables["cost"].columns if "cost" in tables else []
    ways = {str(by) for run in results["runs"] if (by := lookup(run, "kl", "by"))}
    kl = f"KL: nats a sequence from the reference model, by {' or '.join(sorted(ways))}; 0 is the reference"
    if "text" in ways:  # only the way in which the model writes it counts
        kl += ", but by text even the reference itself comes to a little more"
    optional = {
        "KL": f"{kl}.",
        "Ranking": "Ranking: how often the good one of two continuations is more probable than the bad one, "
        "with the good tag where there are tags; by length: its probability a token.",
        "pass@": "pass@k: share of functions that one of k samples gets right.",
    }
    return lines + [said for start, said in optional.items() if any(head.startswith(start) for head in heads)]
