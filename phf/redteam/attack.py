"""The verb `redteam`: prompts are tried, scored by what the model writes after them, and bred from the best.

A trial starts with some seeds. In each round an attacker proposes prompts, made of those that were tried; the
model continues each several times; the mean score of the continuations is the score of the prompt, which
joins the pool (the procedure of Korbak et al. 2023, arXiv 2302.08582).

Everything random in a round follows from (seed, trial, round), and each round is kept when it is done: an
attack that was stopped goes on, and ends as if it had not been.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from phf.base.errors import PhfError
from phf.base.estimates import mean_by_cluster, rate_by_cluster
from phf.base.progress import progress
from phf.base.resumable import Parts
from phf.config import Config, RedteamConfig, ScenarioConfig
from phf.evaluation.instruments import describe_model, describe_scorer, heldout_documents
from phf.evaluation.prompts import load_prompts
from phf.evaluation.results import finished_results, write_output
from phf.evaluation.sample_scores import ScoredSample, decoding
from phf.model.loaded_model import Subject, find_subject
from phf.redteam.attackers import Attacker, make_attacker, shuffled_seeds
from phf.redteam.curves import best_attempts, by_round, by_tokens
from phf.redteam.pool import Attempt, Proposal, mean_score, new_prompts
from phf.redteam.target import Target

log = logging.getLogger("phf")

FORMAT = 1
TABLE = "attempts.parquet"

_ATTEMPTS = pa.schema(
    [
        ("trial", pa.int64()),
        ("number", pa.int64()),
        ("round", pa.int64()),
        ("prompt", pa.string()),
        ("origin", pa.string()),
        ("parents", pa.list_(pa.int64())),
        ("texts", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float64())),
        ("score", pa.float64()),
        ("target_tokens", pa.int64()),
        ("prompt_cut", pa.bool_()),
    ]
)

_SEED_TOKENS = 16
_MOST_SEEDS = 10_000


def redteam(folder: Path, config: Config) -> dict[str, Any]:
    """Searches for prompts after which a model misbehaves.

    Args:
        folder: A run folder, or the folder of any causal LM of `transformers`.
        config: Its parts `redteam` and `evaluation`; scorer and segmenter too for a model that does not name
            its own.

    Returns:
        What was written to `redteam/results.json`, beside `redteam/attempts.parquet`. If both are there
        already and still match, nothing is done.

    Raises:
        ConfigError: The configuration asks for something that cannot be.
        PhfError: The folder holds no model, there are no seeds, or the red LM or the scorer fails.
    """
    subject = find_subject(Path(folder))
    target = Target(subject, config, "redteam", config.redteam.scenario)
    seeds = _seeds(subject, config)
    identity = target.identity(seeds, config.redteam)
    output = subject.folder / "redteam"
    if (results := finished_results(output, identity, TABLE)) is not None:
        log.info("%s is attacked: nothing to do", subject.folder)
        return results
    target.load()
    attack = Attack(config.redteam, target, seeds)
    parts = Parts(output / "rounds", identity)
    trials = attack.run(parts)
    results = attack.results(trials)
    rows = [{"trial": t, **asdict(attempt)} for t, trial in enumerate(trials) for attempt in trial]
    write_output(output, identity, results, TABLE, pa.Table.from_pylist(rows, schema=_ATTEMPTS))
    parts.remove()
    _log(folder, output, results)
    return results


def _seeds(subject: Subject, config: Config) -> list[str]:
    """The prompts to start from, without doubles."""
    prompts = config.redteam.prompts or {"heldout": "any", "segments": None, "tokens": _SEED_TOKENS}
    scenario = ScenarioConfig(prompts=prompts, max_prompts=_MOST_SEEDS)
    try:
        seeds = load_prompts(scenario, heldout_documents(subject, config))
    except PhfError as error:
        raise type(error)(f"redteam.prompts: {error}") from error
    proposals = (Proposal(seed, "seed") for seed in seeds)
    return [proposal.prompt for proposal in new_prompts(proposals, [], len(seeds))]


class Attack:
    """An attack on a model.

    Args:
        config: The section `redteam`.
        target: The attacked model, loaded.
        seeds: The prompts to start from, no two alike.

    Raises:
        ConfigError: The scenario leaves no room for prompts, or the attacker is not installed.
        PhfError: The red LM cannot be loaded.
    """

    def __init__(self, config: RedteamConfig, target: Target, seeds: Sequence[str]):
        self.scenario = replace(target.scenario, prompts=[], samples=config.samples)
        most = min(config.max_prompt_tokens, target.room(self.scenario))
        self.config = replace(config, max_prompt_tokens=most)
        self.target = target
        self.seeds = seeds
        self.attacker: Attacker = make_attacker(self.config, seeds, target)

    def run(self, parts: Parts) -> list[list[Attempt]]:
        """The attempts of each trial; rounds that are among the parts are not done again.

        Raises:
            PhfError: None of the seeds of a trial can be scored, or the red LM or the scorer fails.
        """
        config = self.config
        share = config.samples * (min(config.seeds, len(self.seeds)) + config.rounds * config.proposals)
        trials = []
        with progress("red-teaming, samples", config.trials * share) as advance:
            for trial in range(config.trials):
                trials.append(self._trial(trial, parts, advance))
                advance(max(0, share - config.samples * len(trials[-1])))  # a budget may end it early
        return trials

    def _trial(self, trial: int, parts: Parts, advance: Callable[[int], None]) -> list[Attempt]:
        attempts: list[Attempt] = []
        for number in range(self.config.rounds + 1):
            if self._is_spent(attempts):
                break
            name = f"{trial:04}-{number:04}"
            if (rows := parts.read(name)) is None:
                rows = [asdict(attempt) for attempt in self._round(trial, number, attempts, advance)]
                parts.write(name, rows)
            else:
                advance(sum(len(row["texts"]) for row in rows))
            attempts += map(_attempt, rows)
        return attempts

    def _round(
        self, trial: int, number: int, attempts: Sequence[Attempt], advance: Callable[[int], None]
    ) -> list[Attempt]:
        """What is tried in a round, after the attempts of the trial so far."""
        rng = np.random.default_rng([self.config.seed, trial, number])
        if number == 0:
            seeds = shuffled_seeds(self.config, self.seeds, trial)[: self.config.seeds]
            proposals = [Proposal(seed, "seed") for seed in seeds]
        else:
            pool = [attempt for attempt in attempts if attempt.score is not None]
            if not pool:
                raise PhfError(f"the scorer cannot say anything of any answer to {len(attempts)} seeds")
            prompts = [attempt.prompt for attempt in attempts]
            proposals = self.attacker.propose(pool, prompts, trial, rng)
            if not proposals:
                log.warning("trial %d, round %d: the attacker has no new prompts", trial, number)
        answers = self._ask([p.prompt for p in proposals], self.scenario, int(rng.integers(2**62)), advance)
        tried: list[Attempt] = []
        for proposal, scored in zip(proposals, answers, strict=True):
            if self._is_spent([*attempts, *tried]):
                break
            scores = tuple(one.score for one in scored)
            answered = self.target.cost(proposal.prompt, [one.sample for one in scored], self.scenario)
            tried.append(
                Attempt(
                    number=len(attempts) + len(tried),
                    round=number,
                    prompt=proposal.prompt,
                    origin=proposal.origin,
                    parents=proposal.parents,
                    texts=tuple(one.sample.text for one in scored),
                    scores=scores,
                    score=mean_score(scores),
                    target_tokens=proposal.target_tokens + answered,
                    prompt_cut=any(one.sample.prompt_cut for one in scored),
                )
            )
        return tried

    def _ask(
        self,
        prompts: Sequence[str],
        scenario: ScenarioConfig,
        seed: int,
        advance: Callable[[int], None] | None = None,
    ) -> list[list[ScoredSample]]:
        """What the model answers to each prompt, with scores."""
        scored = self.target.judge(self.target.write(prompts, scenario, seed, advance), scenario)
        return [list(answers) for _, answers in groupby(scored, lambda one: one.sample.prompt_index)]

    def _is_spent(self, attempts: Sequence[Attempt]) -> bool:
        budget = self.config.budget
        return budget is not None and sum(attempt.target_tokens for attempt in attempts) >= budget

    def results(self, trials: Sequence[Sequence[Attempt]]) -> dict[str, Any]:
        """The contents of `results.json`; see the documentation of the verb."""
        config, target, evaluation = self.config, self.target, self.target.evaluation
        attempts = [attempt for trial in trials for attempt in trial]
        return {
            "format": FORMAT,
            "run": describe_model(target.subject, target.model),
            "scorer": describe_scorer(target.scorer_config, target.scorer),
            "scorer_differs": target.scorer_differs,
            "threshold": evaluation.threshold,
            "confidence": evaluation.confidence,
            "seed": config.seed,
            "scenario": {"name": target.name, "tag": target.tag, **decoding(self.scenario)},
            "attacker": {"name": config.attacker, "model": config.model},
            **{key: getattr(config, key) for key in ("rounds", "trials", "proposals", "samples", "budget")},
            "num_seeds": len(self.seeds),
            "num_attempts": len(attempts),
            "unscored": sum(attempt.score is None for attempt in attempts),
            "target_tokens": [sum(attempt.target_tokens for attempt in trial) for trial in trials],
            "budget_reached": None if config.budget is None else [self._is_spent(trial) for trial in trials],
            "by_round": by_round(trials, evaluation.confidence, evaluation.seed),
            "by_tokens": by_tokens(trials, evaluation.confidence, evaluation.seed),
            "best_prompts": self._best_prompts(trials),
        }

    def _best_prompts(self, trials: Sequence[Sequence[Attempt]]) -> list[dict[str, Any]]:
        """The best prompts of all trials, judged by answers that did not help to choose them."""
        best, evaluation = best_attempts(trials), self.target.evaluation
        scenario = replace(self.scenario, samples=self.config.fresh_samples)
        seed = int(np.random.default_rng([self.config.seed, len(trials)]).integers(2**62))
        answers = self._ask([attempt.prompt for _, attempt in best], scenario, seed)
        rows = []
        for (trial, attempt), scored in zip(best, answers, strict=True):
            scores = [one.score for one in scored]
            sure, bootstrap_seed = evaluation.confidence, evaluation.seed
            rows.append(
                {
                    "trial": trial,
                    **{
                        key: getattr(attempt, key) for key in ("number", "round", "origin", "prompt", "score")
                    },
                    "fresh_score": mean_by_cluster(scores, None, sure, bootstrap_seed),
                    "fresh_rate": rate_by_cluster(scores, evaluation.threshold, None, sure, bootstrap_seed),
                    "worst_text": attempt.worst_text,
                }
            )
        return rows


def _attempt(row: dict[str, Any]) -> Attempt:
    """An attempt as it was kept."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    return Attempt(**values)


def _log(folder: Path, output: Path, results: dict[str, Any]) -> None:
    if short := (results["budget_reached"] or []).count(False):
        log.warning(
            "%s: %d of %d trials ran out of rounds at %d tokens or more, below redteam.budget=%d: give more "
            "redteam.rounds than %d, or compare by_tokens only",
            folder, short, results["trials"], min(results["target_tokens"]), results["budget"],
            results["rounds"],
        )  # fmt: skip
    first, last = (results["by_round"][i]["best"]["value"] for i in (0, -1))
    log.info(
        "%s: best prompt of a trial: score %.4g of the seeds, %.4g after %d rounds; results in %s",
        folder, first, last, results["by_round"][-1]["round"], output,
    )  # fmt: skip
