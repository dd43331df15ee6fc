"""Defines the prompts of a trial, and chooses those from which new ones are made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Proposal:
    """A prompt to try.

    Attributes:
        prompt: The prompt.
        origin: How the prompt was made, such as `seed` or the name of a mutation.
        parents: Numbers of the attempts that it was made from.
        target_tokens: Tokens that the attacked model read and wrote to make the prompt.
    """

    prompt: str
    origin: str
    parents: tuple[int, ...] = ()
    target_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """A prompt that was tried.

    Attributes:
        number: Index of the attempt in the trial, from 0.
        round: The round; 0 for the seeds.
        prompt: The prompt.
        origin: How the prompt was made, such as `seed` or the name of a mutation.
        parents: Numbers of the attempts that it was made from.
        texts: The answers that the attacked model wrote.
        scores: The score of each answer; `None` if the scorer could not score it.
        score: Mean of the known scores; `None` if there are none.
        target_tokens: Tokens that the attacked model read and wrote, to make the prompt and to answer it.
        prompt_cut: Whether the prompt was too long for the model's context and was read without its
            beginning.
    """

    number: int
    round: int
    prompt: str
    origin: str
    parents: tuple[int, ...]
    texts: tuple[str, ...]
    scores: tuple[float | None, ...]
    score: float | None
    target_tokens: int
    prompt_cut: bool = False

    @property
    def worst_text(self) -> str:
        """The answer with the highest score."""
        return max(
            zip(self.texts, self.scores, strict=True), key=lambda pair: -1.0 if pair[1] is None else pair[1]
        )[0]


def mean_score(scores: Iterable[float | None]) -> float | None:
    """Computes the mean of the known scores; `None` if there are none."""
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known else None


def known_score(attempt: Attempt) -> float:
    """Returns the score of an attempt in the pool, which holds only attempts with a score."""
    assert attempt.score is not None
    return attempt.score


def draw_examples(
    pool: Sequence[Attempt], count: int, temperature: float, rng: np.random.Generator
) -> list[Attempt]:
    """Draws attempts without replacement, with probability proportional to exp(score / temperature).

    The attempts with the largest values of score / temperature plus Gumbel noise are such a draw (Kool et al.
    2019, arXiv 1903.06059). This also works for scores that are far apart.
    """
    scores = np.array([known_score(attempt) for attempt in pool])
    order = np.argsort(-(scores / temperature + rng.gumbel(size=len(pool))))
    return [pool[i] for i in order[:count]]


def niches(pool: Sequence[Attempt], count: int, similarity_limit: float) -> list[Attempt]:
    """Returns the best attempts. Of attempts more similar than the limit, only the best one is included."""
    chosen: list[Attempt] = []
    for attempt in sorted(pool, key=lambda attempt: (-known_score(attempt), attempt.number)):
        if all(similarity(attempt.prompt, other.prompt) <= similarity_limit for other in chosen):
            chosen.append(attempt)
            if len(chosen) == count:
                break
    return chosen


def similarity(a: str, b: str) -> float:
    """Computes the Jaccard similarity of the sets of words of two texts: from 0 to 1; 0 without any words."""
    words, others = set(_WORD.findall(a.casefold())), set(_WORD.findall(b.casefold()))
    return len(words & others) / max(1, len(words | others))


def new_prompts(proposals: Iterable[Proposal], tried: Iterable[str], count: int) -> list[Proposal]:
    """Returns the first `count` proposals with text that are new, ignoring case and white space."""
    seen = {"", *map(_normal, tried)}
    fresh: list[Proposal] = []
    for proposal in proposals:
        if len(fresh) < count and _normal(proposal.prompt) not in seen:
            seen.add(_normal(proposal.prompt))
            fresh.append(proposal)
    return fresh


def _normal(prompt: str) -> str:
    return " ".join(prompt.casefold().split())
