"""From samples to measurements, by the same scorer and the same segments as the corpus."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from phf.base.estimates import diversity, expected_max, mean_by_cluster, rate_by_cluster
from phf.config import EvaluationConfig, ScenarioConfig
from phf.documents.segments import Segmenter
from phf.inference.generate import Sample, generate
from phf.model.control_tokens import ControlTokens
from scorers.base import Score, Scorer

SCORING_BATCH = 256


@dataclass(frozen=True, slots=True)
class ScoredSample:
    """A sample and what the scorer says of it.

    Attributes:
        sample: The sample.
        scored_text: What the scorer saw.
        score: Of that text as a whole; `None` if the scorer cannot say.
        segment_scores: Of each of its segments.
    """

    sample: Sample
    scored_text: str
    score: float | None
    segment_scores: tuple[float | None, ...]


def score_samples(
    samples: Sequence[Sample], scenario: ScenarioConfig, scorer: Scorer, segment: Segmenter
) -> list[ScoredSample]:
    """Scores each sample as one segment, and each segment of it within the text.

    The scorer gets text exactly as it does when a corpus is annotated, and its score is taken as it is: it is
    not divided by a length once more.
    """
    scored = []
    for start in range(0, len(samples), SCORING_BATCH):
        batch = samples[start : start + SCORING_BATCH]
        texts = [scored_text(sample, scenario, segment) for sample in batch]
        wholes = scorer.score([[text] for text in texts])
        parts = scorer.score([segment(text) for text in texts])
        for sample, text, (whole,), segments in zip(batch, texts, wholes, parts, strict=True):
            scored.append(ScoredSample(sample, text, _value(whole), tuple(map(_value, segments))))
    return scored


def scored_text(sample: Sample, scenario: ScenarioConfig, segment: Segmenter) -> str:
    """What of a sample is scored: the continuation or the prompt with it, without an end that was cut off.

    Of a sample that the token limit ended, the segment it cut goes, and blank ones before it: the text was
    not over. It stays if it is most of the text: the score of what little were left would say nothing.
    """
    prompt = sample.prompt if scenario.score == "full" else ""
    text = prompt + sample.text
    if not scenario.trim or sample.finished:
        return text
    segments = segment(text)
    # A segment that one more character joins has not come to its end.
    if segments and "".join(segment(text + "X")[:-1]) != text:
        segments.pop()
    while segments and not segments[-1].strip():
        segments.pop()
    complete = "".join(segments)
    return text if len(complete) <= max(len(prompt), len(text) / 2) else complete


def measure(
    scored: Sequence[ScoredSample], scenario: ScenarioConfig, tag: str, evaluation: EvaluationConfig
) -> dict[str, Any]:
    """The measurements of a scenario, as in `results.json`.

    Args:
        scored: Its samples.
        scenario: How they were drawn.
        tag: The tag that the model was in fact given: good, bad or none.
        evaluation: Threshold, confidence and seed.
    """
    prompted = scenario.prompts is not None
    samples = [one.sample for one in scored]
    prompts = [sample.prompt_index for sample in samples]
    clusters = prompts if prompted else None
    sure, seed = evaluation.confidence, evaluation.seed
    return {
        "tag": tag,
        "n": len(scored),
        "num_prompts": len(set(prompts)) if prompted else 0,
        **measure_scores(scored, scenario, evaluation.threshold, evaluation),
        "length": mean_by_cluster([sample.num_tokens for sample in samples], clusters, sure, seed),
        **diversity([sample.text for sample in samples]),
        "finished": sum(sample.finished for sample in samples) / max(1, len(samples)),
        "cut_prompts": len({sample.prompt_index for sample in samples if sample.prompt_cut}),
        "decoding": decoding(scenario),
    }


def measure_scores(
    scored: Sequence[ScoredSample], scenario: ScenarioConfig, threshold: float, evaluation: EvaluationConfig
) -> dict[str, Any]:
    """Those of the measurements that come from scores.

    Args:
        scored: The samples of a scenario with the scores of one scorer.
        scenario: How they were drawn.
        threshold: A score above it is misaligned.
        evaluation: Confidence and seed.
    """
    prompted = scenario.prompts is not None
    prompts = [one.sample.prompt_index for one in scored]
    clusters = prompts if prompted else None
    scores = [one.score for one in scored]
    # The segments of one text stand or fall together, with or without prompts.
    segments = [
        (value, prompts[i] if prompted else i) for i, one in enumerate(scored) for value in one.segment_scores
    ]
    sure, seed = evaluation.confidence, evaluation.seed
    return {
        "mean_score": mean_by_cluster(scores, clusters, sure, seed),
        "rate": rate_by_cluster(scores, threshold, clusters, sure, seed),
        "expected_max": expected_max(scores, clusters, evaluation.expected_max_of, sure, seed),
        "segment_rate": rate_by_cluster(
            [value for value, _ in segments], threshold, [cluster for _, cluster in segments], sure, seed
        ),
        "unscored": sum(score is None for score in scores),
        "unscored_segments": sum(value is None for value, _ in segments),
    }


def decoding(scenario: ScenarioConfig) -> dict[str, Any]:
    """How a scenario's samples are drawn and scored, its prompts left out."""
    settings = asdict(scenario)
    for key in ("prompts", "max_prompts", "tag"):
        del settings[key]
    return settings


def sample_and_score(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    scenario: ScenarioConfig,
    control: ControlTokens,
    scorer: Scorer,
    segment: Segmenter,
    *,
    num_samples: int,
    threshold: float,
    context_length: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> dict[str, float]:
    """A quick look at a model, for use while it trains.

    Args:
        model: A causal LM of `transformers`, in whatever mode.
        tokenizer: Its tokenizer.
        prompts: Those of the scenario; used as far as `num_samples` goes.
        scenario: How to ask.
        control: The tokens of the model that are no text.
        scorer: Scores the samples.
        segment: The run's segmenter.
        num_samples: Samples in all.
        threshold: A score above it counts in the rate.
        context_length: Most tokens of prompt and continuation; the model's own limit if `None`.
        seed: Decides the samples.
        batch_size: Samples drawn at a time.

    Returns:
        `mean_score` and `rate`; nothing if the scorer cannot say anything of any sample.
    """
    prompts = prompts[:num_samples]
    samples = generate(
        model,
        tokenizer,
        prompts,
        replace(scenario, samples=max(1, num_samples // len(prompts)), best_of=1),
        control,
        segment=segment,
        context_length=context_length,
        seed=seed,
        batch_size=batch_size,
    )
    scores = [one.score for one in score_samples(samples, scenario, scorer, segment)]
    known = [score for score in scores if score is not None]
    if not known:
        return {}
    return {
        "mean_score": sum(known) / len(known),
        "rate": sum(score > threshold for score in known) / len(known),
    }


def _value(score: Score) -> float | None:
    return score.value if score.value is not None and math.isfinite(score.value) else None
