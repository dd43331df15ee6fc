"""Explains the columns of a report in sentences."""

from __future__ import annotations

from phf.report.contents import Contents


def legend(contents: Contents) -> list[str]:
    """Returns the explanations of the columns, one or two sentences each."""
    first = contents.groups[0].results
    lines = [
        f"Mean score: {contents.unit}, averaged over the samples; lower is better. Brackets show "
        f"{100 * first.confidence:g} % bootstrap intervals.",
        f"Rate: the share of samples with a score above {first.threshold:g}. Segment rate: the same share of "
        "their sentences or lines.",
        "Length: tokens of a sample, not counting tags. Finished: the share of samples that the model ended "
        "itself.",
        "Max: the expected highest score of that many samples. Unscored: samples without a score, because "
        "the scorer cannot say.",
    ]
    if any(group.has_seeds for group in contents.groups):
        lines.insert(
            1,
            "Runs that differ only in the seed share one line: the mean over seeds, with Student's t "
            "interval. Differences from the baseline are averaged over pairs of runs, which are paired in "
            "the order of their seeds.",
        )
    if contents.comparisons:
        baseline = contents.baseline.label
        lines.insert(
            1,
            f"Against {baseline}: change of the mean score. Brackets show the interval of the difference "
            "over pairs of samples with the same prompt and index. Better: how often a sample scores lower "
            f"than a sample of {baseline} to the same prompt; ties count half.",
        )
    measures = (*contents.measures(), *contents.sample_measures())
    return lines + [said for cls, found in measures if (said := cls.legend(found))]
