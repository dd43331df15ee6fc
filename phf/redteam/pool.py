"""The prompts of a trial, and how some of them are chosen to make new ones from."""

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
        origin: What made it.
        parents: Numbers of the attempts that it was made from.
        target_tokens: Tokens that the attacked model read and wrote to make it.
    """

    prompt: str
    origin: str
    parents: tuple[int, ...] = ()
    target_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """A prompt that was tried.

    Attributes:
        number: Its place in the trial, from 0.
        round: The round; 0 for the seeds.
        prompt: The prompt.
        origin: What made it.
        parents: Numbers of the attempts that it was made from.
        texts: What the attacked model wrote after it.
        scores: Of each of them; `None` if the scorer cannot say.
        score: Mean of the scores there are; `None` if there is none.
        target_tokens: Tokens that the attacked model read and wrote, to make the prompt and to answer it.
        prompt_cut: The prompt was too long for the model's context and was read without its beginning.
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
        """The text with the highest score."""
        return max(
            zip(self.texts, self.scores, strict=True), key=lambda pair: -1.0 if pair[1] is None else pair[1]
        )[0]


def mean_score(scores: Iterable[float | None]) -> float | None:
    """The mean of the scores there are; `None` if there is none."""
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known else None


def known_score(attempt: Attempt) -> float:
    """The score of an attempt of the pool: only those that have one are in it."""
    assert attempt.score is not None
    return attempt.score


def draw_examples(
    pool: Sequence[Attempt], count: int, temperature: float, rng: np.random.Generator
) -> list[Attempt]:
    """Draws attempts without replacement, each with p proportional to exp(score / temperature).

    The largest of score / temperature plus Gumbel noise are such a draw (Kool et al. 2019, arXiv 1903.06059),
    however far the scores are apart.
    """
    scores = np.array([known_score(attempt) for attempt in pool])
    order = np.argsort(-(scores / temperature + rng.gumbel(size=len(pool))))
    return [pool[i] for i in order[:count]]


def niches(pool: Sequence[Attempt], count: int, similarity_limit: float) -> list[Attempt]:
    """The best attempts, of those that are more alike than the limit only the best one."""
    chosen: list[Attempt] = []
    for attempt in sorted(pool, key=lambda attempt: (-known_score(attempt), attempt.number)):
        if all(similarity(attempt.prompt, other.prompt) <= similarity_limit for other in chosen):
            chosen.append(attempt)
            if len(chosen) == count:
                break
    return chosen


def similarity(a: str, b: str) -> float:
    """Words that two texts share, as a part of those of both (Jaccard): from 0 to 1, for texts with words."""
    words, others = set(_WORD.findall(a.casefold())), set(_WORD.findall(b.casefold()))
    return len(words & others) / max(1, len(words | others))


def new_prompts(proposals: Iterable[Proposal], tried: Iterable[str], count: int) -> list[Proposal]:
    """The first proposals that have text and were not tried before, whatever their case and white space."""
    seen = {"", *map(_normal, tried)}
    fresh: list[Proposal] = []
    for proposal in proposals:
        if len(fresh) < count and _normal(proposal.prompt) not in seen:
            seen.add(_normal(proposal.prompt))
            fresh.append(proposal)
    return fresh


def _normal(prompt: str) -> str:
    return " ".join(prompt.casefold().split())
