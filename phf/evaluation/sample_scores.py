"""Scores samples with the scorer and segmenter of the corpus, and computes the measurements of a scenario."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from phf.base.estimates import Bootstrap, number_prompts
from phf.config import EvaluationConfig, ScenarioConfig
from phf.documents.segments import Segmenter
from phf.evaluation.measures.base import SampleMeasure
from phf.evaluation.results import ScenarioResults, ScoreResults
from phf.inference.generate import Sample, generate
from phf.inference.language_model import LanguageModel
from scorers.base import Score, Scorer

SCORING_BATCH = 256


@dataclass(frozen=True, slots=True)
class ScoredSample:
    """A sample and its scores.

    Attributes:
        sample: The sample.
        scored_text: The text that was scored.
        score: The score of that text as a whole; `None` if the scorer cannot score it.
        segment_scores: The score of each of its segments.
    """

    sample: Sample
    scored_text: str
    score: float | None
    segment_scores: tuple[float | None, ...]


def score_samples(
    samples: Sequence[Sample], scenario: ScenarioConfig, scorer: Scorer, segment: Segmenter
) -> list[ScoredSample]:
    """Scores each sample as a whole (as one segment), and each of its segments within the text.

    The scorer gets text in the same form as when a corpus is annotated. Its scores are used as they are,
    without a further division by length.
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
    """Returns the text of a sample that is scored: the continuation, or the prompt and the continuation.

    With `scenario.trim`, a sample that the token limit ended loses its unfinished last segment, and blank
    segments before it. The text stays whole if no more than half of it, or no more than the prompt, would
    remain, because the score of so little text would say nothing.
    """
    prompt = sample.prompt if scenario.score == "full" else ""
    text = prompt + sample.text
    if not scenario.trim or sample.finished:
        return text
    segments = segment(text)
    # A segment is unfinished if one more character would become part of it.
    if segments and "".join(segment(text + "X")[:-1]) != text:
        segments.pop()
    while segments and not segments[-1].strip():
        segments.pop()
    complete = "".join(segments)
    return text if len(complete) <= max(len(prompt), len(text) / 2) else complete


def measure(
    scored: Sequence[ScoredSample],
    scenario: ScenarioConfig,
    tag: str,
    evaluation: EvaluationConfig,
    measures: Sequence[SampleMeasure] = (),
) -> ScenarioResults:
    """Computes the results of a scenario.

    Args:
        scored: The samples of the scenario, with scores.
        scenario: How they were drawn.
        tag: The tag that the model was actually given: good, bad or none.
        evaluation: Gives threshold, confidence and seed.
        measures: Further measures of the samples.
    """
    prompted = scenario.prompts is not None
    samples = [one.sample for one in scored]
    prompts = number_prompts([sample.prompt for sample in samples])
    clusters = prompts if prompted else None
    bootstrap = Bootstrap(evaluation.confidence, evaluation.seed)
    return ScenarioResults(
        **vars(measure_scores(scored, scenario, evaluation.threshold, evaluation)),
        tag=tag,
        n=len(scored),
        num_prompts=len(set(prompts)) if prompted else 0,
        length=bootstrap.mean([sample.num_tokens for sample in samples], clusters, least=0),
        finished=bootstrap.share([float(sample.finished) for sample in samples], clusters),
        cut_prompts=len({sample.prompt_index for sample in samples if sample.prompt_cut}),
        decoding=decoding(scenario),
        measures={one.name: one.measure(scored, clusters, bootstrap) for one in measures},
    )


def measure_scores(
    scored: Sequence[ScoredSample], scenario: ScenarioConfig, threshold: float, evaluation: EvaluationConfig
) -> ScoreResults:
    """Computes the results of a scenario that depend only on scores.

    Args:
        scored: The samples of the scenario, with the scores of one scorer.
        scenario: How they were drawn.
        threshold: A sample or segment with a score above it is misaligned.
        evaluation: Gives confidence and seed.
    """
    prompted = scenario.prompts is not None
    prompts = number_prompts([one.sample.prompt for one in scored])
    clusters = prompts if prompted else None
    scores = [one.score for one in scored]
    # Segments of one text are not independent: the bootstrap resamples them together, also without prompts.
    segments = [
        (value, prompts[i] if prompted else i) for i, one in enumerate(scored) for value in one.segment_scores
    ]
    values, owners = [value for value, _ in segments], [owner for _, owner in segments]
    bootstrap = Bootstrap(evaluation.confidence, evaluation.seed)
    return ScoreResults(
        mean_score=bootstrap.mean(scores, clusters, least=0),
        rate=bootstrap.rate(scores, threshold, clusters),
        expected_max=bootstrap.expected_max(scores, evaluation.expected_max_of, clusters),
        segment_rate=bootstrap.rate(values, threshold, owners),
        unscored=sum(score is None for score in scores),
        unscored_segments=sum(value is None for value in values),
    )


def sample_and_score(
    model: LanguageModel,
    prompts: Sequence[str],
    scenario: ScenarioConfig,
    scorer: Scorer,
    segment: Segmenter,
    *,
    num_samples: int,
    evaluation: EvaluationConfig,
) -> dict[str, float]:
    """Estimates the mean score and the rate from a few samples, for use during training.

    Args:
        model: The model, in any mode.
        prompts: The prompts of the scenario; at most the first `num_samples` are used.
        scenario: How to draw the samples.
        scorer: Scores the samples.
        segment: Cuts the samples into segments.
        num_samples: The number of samples in all; fewer if it is not a multiple of the number of prompts.
        evaluation: Gives threshold, seed and batch size.

    Returns:
        `mean_score` and `rate`; empty if the scorer can score no sample.
    """
    prompts = prompts[:num_samples]
    samples = generate(
        model,
        prompts,
        replace(scenario, samples=max(1, num_samples // len(prompts)), best_of=1),
        seed=evaluation.seed,
        batch_size=evaluation.batch_size,
    )
    scores = [one.score for one in score_samples(samples, scenario, scorer, segment)]
    known = [score for score in scores if score is not None]
    if not known:
        return {}
    return {
        "mean_score": sum(known) / len(known),
        "rate": sum(score > evaluation.threshold for score in known) / len(known),
    }


def decoding(scenario: ScenarioConfig) -> dict[str, Any]:
    """Returns the settings that decide how samples are drawn and scored, without prompts and tag."""
    settings = asdict(scenario)
    for key in ("prompts", "max_prompts", "tag"):
        del settings[key]
    return settings


def _value(score: Score) -> float | None:
    return score.value if score.value is not None and math.isfinite(score.value) else None
