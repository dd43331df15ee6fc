"""Searches for prompts after which a model misbehaves: the verb `redteam`.

A trial starts with some seeds. In each round, the attacker proposes prompts, made from those that were tried.
The model continues each prompt several times. The mean score of the continuations is the score of the prompt,
and the prompt joins the pool (the procedure of Korbak et al. 2023, arXiv 2302.08582).

Everything random in a round follows from (seed, trial, round), and each round is kept when it is done. So an
attack that was stopped can resume, with the same results as an uninterrupted one.
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
from phf.base.estimates import Bootstrap
from phf.base.progress import progress
from phf.base.resumable import Parts
from phf.config import Config, RedteamConfig, ScenarioConfig
from phf.evaluation.prompts import load_prompts
from phf.evaluation.result_files import finished_results, write_results
from phf.evaluation.results import BestPrompt, RedteamResults
from phf.evaluation.sample_scores import ScoredSample
from phf.model.model_folder import find_model
from phf.redteam.attackers import check_attacker, make_attacker
from phf.redteam.attackers.base import Attacker, shuffled_seeds
from phf.redteam.curves import best_attempts, by_round, by_tokens
from phf.redteam.pool import Attempt, Proposal, mean_score, new_prompts
from phf.redteam.target import Target

log = logging.getLogger("phf")

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


def attack(folder: Path, config: Config) -> RedteamResults:
    """Searches for prompts after which a model misbehaves.

    Args:
        folder: A run folder, or the folder of any causal LM of `transformers`.
        config: The sections `redteam` and `evaluation` are used. For a model that does not name its own
            scorer, segmenter and store, those sections are used too.

    Returns:
        The results that are in `redteam/results.json`, beside `redteam/attempts.parquet`. If both files exist
        and still match, nothing is computed.

    Raises:
        ConfigError: The configuration is invalid for this model.
        PhfError: The folder holds no model, there are no seeds, or the red LM or the scorer fails.
    """
    check_attacker(config.redteam.attacker)
    target = Target(find_model(Path(folder)), config, "redteam", config.redteam.scenario)
    seeds = _seeds(target, config)
    identity = target.identity(seeds, config.redteam)
    output = target.source.folder / "redteam"
    if (results := finished_results(output, identity, RedteamResults, TABLE)) is not None:
        log.info("%s is already attacked: nothing to do", target.source.folder)
        return results
    search = Attack(config.redteam, target, seeds)
    parts = Parts(output / "rounds", identity)
    trials = search.run(parts)
    results = search.results(trials)
    rows = [{"trial": t, **asdict(attempt)} for t, trial in enumerate(trials) for attempt in trial]
    write_results(output, identity, results, pa.Table.from_pylist(rows, schema=_ATTEMPTS), TABLE)
    parts.remove()
    _log(folder, output, results)
    return results


def _seeds(target: Target, config: Config) -> list[str]:
    """Loads the prompts to start from, without duplicates."""
    prompts = config.redteam.prompts or {"heldout": "any", "segments": None, "tokens": _SEED_TOKENS}
    scenario = ScenarioConfig(prompts=prompts, max_prompts=_MOST_SEEDS)
    try:
        seeds = load_prompts(scenario, target.instruments.heldout_documents)
    except PhfError as error:
        raise type(error)(f"redteam.prompts: {error}") from error
    proposals = (Proposal(seed, "seed") for seed in seeds)
    return [proposal.prompt for proposal in new_prompts(proposals, [], len(seeds))]


class Attack:
    """An attack on a model.

    Args:
        config: The section `redteam`.
        target: The attacked model, loaded.
        seeds: The prompts to start from, without duplicates.

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
        """Runs all trials and returns the attempts of each. Rounds that are among the parts are not repeated.

        Raises:
            PhfError: No seed of a trial can be scored, or the red LM or the scorer fails.
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
        """Runs one round, given the attempts of the trial so far, and returns the new attempts."""
        rng = np.random.default_rng([self.config.seed, trial, number])
        if number == 0:
            seeds = shuffled_seeds(self.config, self.seeds, trial)[: self.config.seeds]
            proposals = [Proposal(seed, "seed") for seed in seeds]
        else:
            pool = [attempt for attempt in attempts if attempt.score is not None]
            if not pool:
                raise PhfError(f"the scorer could not score any answer to {len(attempts)} seeds")
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
        """Draws and scores the model's answers to each prompt."""
        scored = self.target.judge(self.target.write(prompts, scenario, seed, advance), scenario)
        return [list(answers) for _, answers in groupby(scored, lambda one: one.sample.prompt_index)]

    def _is_spent(self, attempts: Sequence[Attempt]) -> bool:
        budget = self.config.budget
        return budget is not None and sum(attempt.target_tokens for attempt in attempts) >= budget

    def results(self, trials: Sequence[Sequence[Attempt]]) -> RedteamResults:
        """Computes the results for `results.json`."""
        config, evaluation = self.config, self.target.evaluation
        attempts = [attempt for trial in trials for attempt in trial]
        bootstrap = Bootstrap(evaluation.confidence, evaluation.seed)
        return RedteamResults(
            **vars(self.target.settings(config.seed, self.scenario)),
            attacker=asdict(config.attacker),
            rounds=config.rounds,
            trials=config.trials,
            proposals=config.proposals,
            samples=config.samples,
            budget=config.budget,
            num_seeds=len(self.seeds),
            num_attempts=len(attempts),
            unscored=sum(attempt.score is None for attempt in attempts),
            target_tokens=[sum(attempt.target_tokens for attempt in trial) for trial in trials],
            budget_reached=None if config.budget is None else [self._is_spent(trial) for trial in trials],
            by_round=by_round(trials, bootstrap),
            by_tokens=by_tokens(trials, bootstrap),
            best_prompts=self._best_prompts(trials, bootstrap),
        )

    def _best_prompts(self, trials: Sequence[Sequence[Attempt]], bootstrap: Bootstrap) -> list[BestPrompt]:
        """Scores the best prompts of all trials on new answers, which did not help to choose the prompts."""
        best = best_attempts(trials)
        scenario = replace(self.scenario, samples=self.config.fresh_samples)
        seed = int(np.random.default_rng([self.config.seed, len(trials)]).integers(2**62))
        answers = self._ask([attempt.prompt for _, attempt in best], scenario, seed)
        rows = []
        for (trial, attempt), scored in zip(best, answers, strict=True):
            scores = [one.score for one in scored]
            rows.append(
                BestPrompt(
                    attempt.prompt,
                    attempt.score,
                    bootstrap.mean(scores),
                    bootstrap.rate(scores, self.target.evaluation.threshold),
                    trial,
                    attempt.number,
                    attempt.round,
                    attempt.origin,
                    attempt.worst_text,
                )
            )
        return rows


def _attempt(row: dict[str, Any]) -> Attempt:
    """Restores an attempt from the row that was kept."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    return Attempt(**values)


def _log(folder: Path, output: Path, results: RedteamResults) -> None:
    if short := (results.budget_reached or []).count(False):
        log.warning(
            "%s: %d of %d trials ran out of rounds at %d tokens or more, below redteam.budget=%d: raise "
            "redteam.rounds above %d, or compare by_tokens only",
            folder, short, results.trials, min(results.target_tokens), results.budget, results.rounds,
        )  # fmt: skip
    first, last = results.by_round[0], results.by_round[-1]
    log.info(
        "%s: best prompt of a trial: score %.4g after the seeds, %.4g after %d rounds; results in %s",
        folder, first.best.value, last.best.value, last.round, output,
    )  # fmt: skip
