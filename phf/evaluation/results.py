"""Defines the results of an evaluation and of attacks, as `results.json` keeps them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from phf.annotation.manifest import ScorerRecord
from phf.base.estimates import SHARE, ExpectedMax, Interval
from phf.evaluation.measures.base import estimate

FORMAT = 2


@dataclass(frozen=True)
class RunInfo:
    """The model that was measured, and the run that made it.

    Attributes:
        name: Name of the run; of the folder if there is no run.
        folder: Path of the folder.
        objective: The training objective; `None` for a model made elsewhere.
        uses_scores: Whether the objective uses scores, which a baseline does not. `None` if it is unknown.
        tokens: Number of training tokens.
        wall_seconds: Duration of the run, in seconds.
        parameters: Number of parameters of the model.
    """

    name: str
    folder: str = ""
    objective: str | None = None
    uses_scores: bool | None = None
    tokens: int | None = None
    wall_seconds: float | None = None
    parameters: int | None = None


@dataclass(frozen=True)
class JudgeRecord(ScorerRecord):
    """A scorer that samples are scored with besides the main one.

    Attributes:
        threshold: A sample with a score above it counts as misaligned.
    """

    threshold: float = 0.0


@dataclass(frozen=True)
class ScoreResults:
    """The results of a scenario that depend only on the scores of its samples.

    Attributes:
        mean_score: Mean over the samples that have a score.
        rate: Share of these samples with a score above the threshold.
        expected_max: The expected highest score among several samples of one prompt.
        segment_rate: Share of the scored segments with a score above the threshold.
        unscored: Number of samples that the scorer could not score.
        unscored_segments: Number of segments that the scorer could not score.
    """

    mean_score: Interval = estimate()
    rate: Interval = estimate(SHARE)
    expected_max: ExpectedMax = field(default_factory=ExpectedMax)
    segment_rate: Interval = estimate(SHARE)
    unscored: int = 0
    unscored_segments: int = 0


@dataclass(frozen=True)
class ScenarioResults(ScoreResults):
    """All results of a scenario.

    Attributes:
        tag: The tag that the model was actually given: good, bad or none.
        n: Number of samples.
        num_prompts: Number of prompts; 0 if the model started from nothing.
        length: Mean number of tokens in a continuation.
        finished: Share of the samples that the model ended itself.
        cut_prompts: Number of prompts that were too long for the model and lost their beginning.
        decoding: The settings that decided how the samples were drawn and scored.
        scorers: The results from each other scorer's scores, by name of the scorer.
        measures: The results of measures of samples, by name of the measure.
    """

    tag: str = "none"
    n: int = 0
    num_prompts: int = 0
    length: Interval = estimate()
    finished: Interval = estimate(SHARE)
    cut_prompts: int = 0
    decoding: dict[str, Any] = field(default_factory=dict)
    scorers: dict[str, ScoreResults] = field(default_factory=dict)
    measures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationResults:
    """All results of an evaluation.

    Attributes:
        run: The model and its run.
        scorer: The main scorer.
        threshold: A sample with a score above it is misaligned.
        scenarios: The results of each scenario, by name.
        scorers: The other scorers, by name.
        scorer_differs: Whether samples and training corpus have different scorers; `None` if it is unknown.
        confidence: Coverage of the intervals.
        seed: The seed that decided the samples.
        backend: The engine that generated the samples.
        measures: The results of measures of the model, by name of the measure.
        measured_by: Where `MEASURES` finds the class of each measure, including measures of samples.
        skipped: The scenarios that make no sense for the model, with the reasons.
        samples_per_second: Speed of sampling.
        format: Version of the file format.
    """

    run: RunInfo
    scorer: ScorerRecord
    threshold: float
    scenarios: dict[str, ScenarioResults]
    scorers: dict[str, JudgeRecord] = field(default_factory=dict)
    scorer_differs: bool | None = None
    confidence: float = 0.95
    seed: int = 0
    backend: str = "transformers"
    measures: dict[str, Any] = field(default_factory=dict)
    measured_by: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    samples_per_second: float | None = None
    format: int = FORMAT


@dataclass(frozen=True)
class AttackRound:
    """The progress of an attack at the end of a round, or after a number of tokens, as means over trials.

    Attributes:
        best: Score of the best prompt so far.
        best_10: Mean score of the ten best prompts so far.
        average: Mean score of the prompts of the round.
        round: The round, from 0 (the seeds); `None` on the curve by tokens.
        target_tokens: Tokens that the attacked model has read and written so far in a trial.
    """

    best: Interval = estimate()
    best_10: Interval = estimate()
    average: Interval = estimate()
    round: int | None = None
    target_tokens: float = 0.0


@dataclass(frozen=True)
class BestPrompt:
    """One of the prompts with the highest scores.

    Attributes:
        prompt: The prompt.
        score: Its score in the search. It is biased high, because it is the largest of many.
        fresh_score: Its mean score on new answers, drawn after the search.
        fresh_rate: Share of these new answers with a score above the threshold.
        trial: The trial that found the prompt.
        number: The number of the attempt in that trial.
        round: The round of that trial.
        origin: How the prompt was made, such as `seed` or the name of a mutation.
        worst_text: The answer with the highest score in the search.
    """

    prompt: str
    score: float | None = None
    fresh_score: Interval = estimate()
    fresh_rate: Interval = estimate(SHARE)
    trial: int = 0
    number: int = 0
    round: int = 0
    origin: str = ""
    worst_text: str = ""


@dataclass(frozen=True)
class AttackSettings:
    """How an attack was made and measured, with the settings that decide whether attacks can be compared.

    Attributes:
        run: The attacked model and its run.
        scorer: The scorer.
        scorer_differs: Whether samples and training corpus have different scorers; `None` if it is unknown.
        threshold: A sample with a score above it is misaligned.
        confidence: Coverage of the intervals.
        seed: For `phf redteam`, the seed of the attack; for `phf tamper`, the seed of the samples.
        scenario: The name and the tag of the scenario, and how its samples are drawn.
        format: Version of the file format.
    """

    run: RunInfo | None = None
    scorer: ScorerRecord | None = None
    scorer_differs: bool | None = None
    threshold: float | None = None
    confidence: float = 0.95
    seed: int = 0
    scenario: dict[str, Any] = field(default_factory=dict)
    format: int = 1


@dataclass(frozen=True)
class RedteamResults(AttackSettings):
    """The results of `phf redteam`, as kept in `redteam/results.json`.

    Attributes:
        attacker: The name and the options of the attacker.
        rounds: Rounds of a trial, after the round of the seeds.
        trials: Number of trials.
        proposals: New prompts in a round.
        samples: Answers to each prompt.
        budget: Token limit of a trial; `None` for no limit.
        num_seeds: Number of seeds to draw from.
        num_attempts: Number of prompts that were tried.
        unscored: Number of tried prompts without a score.
        target_tokens: Tokens that the attacked model read and wrote in each trial.
        budget_reached: Whether each trial reached its budget; `None` without a budget.
        by_round: The progress by round.
        by_tokens: The progress by tokens.
        best_prompts: The best prompts of all trials.
    """

    attacker: dict[str, Any] = field(default_factory=dict)
    rounds: int = 0
    trials: int = 0
    proposals: int = 0
    samples: int = 0
    budget: int | None = None
    num_seeds: int = 0
    num_attempts: int = 0
    unscored: int = 0
    target_tokens: list[int] = field(default_factory=list)
    budget_reached: list[bool] | None = None
    by_round: list[AttackRound] = field(default_factory=list)
    by_tokens: list[AttackRound] = field(default_factory=list)
    best_prompts: list[BestPrompt] = field(default_factory=list)


@dataclass(frozen=True)
class TamperPoint(ScenarioResults):
    """The results of a scenario after some finetuning.

    Attributes:
        tokens: Number of finetuning tokens so far.
        loss: Mean finetuning loss since the previous point; `None` at the start.
    """

    tokens: int = 0
    loss: float | None = None


@dataclass(frozen=True)
class TamperResults(AttackSettings):
    """The results of `phf tamper`, as kept in `tamper/results.json`.

    Attributes:
        finetuning: Learning rate, batch size, seed and context length of the finetuning.
        documents: For each kind of text (bad, benign), the source and the number of its documents.
        curves: For each kind of text, the measured points.
        measured_by: Where `MEASURES` finds the class of each measure of samples.
    """

    finetuning: dict[str, Any] = field(default_factory=dict)
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    curves: dict[str, list[TamperPoint]] = field(default_factory=dict)
    measured_by: dict[str, str] = field(default_factory=dict)
