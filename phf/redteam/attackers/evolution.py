"""Implements the attacker `evolution`: evolutionary search, after EvoPrompting (arXiv 2302.14838).

The best prompts that are not too similar breed. The attacked model itself writes some of the children: it
reads two parents as examples, or continues the beginning of one. The other children cost no tokens: parents
are spliced or extended, and words are replaced, inserted and deleted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from phf.config import RedteamConfig, ScenarioConfig, option
from phf.redteam.attackers.base import Attacker
from phf.redteam.pool import Attempt, Proposal, known_score, new_prompts, niches
from phf.redteam.target import Target

# A word with the white space before it. Joining all matches gives the text again.
_WORD = re.compile(r"\s*\S+|\s+$")

# With few parents, many children were tried before. The search for new ones gives up after this many litters.
_MOST_LITTERS = 20

_BETWEEN_EXAMPLES = "\n\n"

_WRITTEN_SHARE = 1 / 3
"""Share of the children that the attacked model writes. They cost tokens that could be spent on answers."""


@dataclass
class EvolutionOptions:
    """Options of `Evolution`."""

    parents: int = option(10, least=1)
    """How many of the best prompts breed, at most one from each niche."""
    niche_similarity: float = option(0.5, least=0, most=1)
    """Two prompts are in one niche if they share more than this part of their words."""


class Evolution(Attacker):
    """Breeds new prompts from the best ones; needs no second model."""

    name = "evolution"
    Options = EvolutionOptions
    options: EvolutionOptions

    def __init__(
        self, options: EvolutionOptions, config: RedteamConfig, seeds: Sequence[str], target: Target
    ):
        super().__init__(options, config, seeds, target)
        self.vocabulary = sorted({word for seed in seeds for word in words(seed)})
        # The target writes under the attacked tag and not under the bad tag, which some models do not have.
        self.scenario = ScenarioConfig(
            prompts=[],
            samples=1,
            max_new_tokens=max(1, config.max_prompt_tokens // 2),
            min_new_tokens=1,
            temperature=1.0,
            top_p=0.95,
            tag=target.scenario.tag,
        )

    def propose(
        self, pool: Sequence[Attempt], tried: Sequence[str], trial: int, rng: np.random.Generator
    ) -> list[Proposal]:
        """Proposes new prompts, none of which was tried before."""
        parents = niches(pool, self.options.parents, self.options.niche_similarity)
        children: list[Proposal] = []
        cost = 0
        for _ in range(_MOST_LITTERS):
            missing = self.config.proposals - len(children)
            if not missing:
                break
            num_written = int(rng.binomial(missing, _WRITTEN_SHARE))
            litter = self._write(parents, num_written, rng)
            litter += [self._mutate(parents, rng) for _ in range(missing - num_written)]
            cost += sum(child.target_tokens for child in litter)
            children = new_prompts([*children, *litter], tried, self.config.proposals)
        if children:  # children that were dropped because they had been tried before cost tokens as well
            lost = cost - sum(child.target_tokens for child in children)
            children[0] = replace(children[0], target_tokens=children[0].target_tokens + lost)
        return children

    def _write(self, parents: Sequence[Attempt], count: int, rng: np.random.Generator) -> list[Proposal]:
        """Lets the attacked model write children: from two parents as examples, or from the start of one."""
        drafts: list[tuple[str, tuple[Attempt, ...], str, str]] = []
        for _ in range(count):
            a, b = _select(parents, rng), _select(parents, rng)
            if rng.random() < 0.5:
                examples = "".join(parent.prompt + _BETWEEN_EXAMPLES for parent in (a, b))
                drafts.append(("crossover", (a, b), examples, ""))
            else:
                beginning = words(a.prompt)
                kept = "".join(beginning[: rng.integers(1, len(beginning) + 1)])
                drafts.append(("continuation", (a,), "", kept))
        asked = [examples + beginning for _, _, examples, beginning in drafts]
        samples = self.target.write(asked, self.scenario, int(rng.integers(2**62)))
        children = []
        for (origin, couple, _, kept), prompt, sample in zip(drafts, asked, samples, strict=True):
            text = kept + sample.text if kept else sample.text.strip().partition(_BETWEEN_EXAMPLES)[0]
            cost = self.target.cost(prompt, [sample], self.scenario)
            children.append(self._child(text, origin, couple, cost))
        return children

    def _mutate(self, parents: Sequence[Attempt], rng: np.random.Generator) -> Proposal:
        """Makes a child that costs no tokens."""
        mutate = MUTATIONS[rng.integers(len(MUTATIONS))]
        couple = _select(parents, rng), _select(parents, rng)
        text = mutate(*couple, self.vocabulary, rng)
        return self._child(text, mutate.__name__, couple if mutate is splice else couple[:1], 0)

    def _child(self, text: str, origin: str, parents: Sequence[Attempt], tokens: int) -> Proposal:
        numbers = tuple(dict.fromkeys(parent.number for parent in parents))
        prompt = self.target.cut(text, self.config.max_prompt_tokens).lstrip()
        return Proposal(prompt, origin, numbers, tokens)


def _select(parents: Sequence[Attempt], rng: np.random.Generator) -> Attempt:
    """Selects the better of two random parents. The choice does not depend on how scores are scaled."""
    return max((parents[i] for i in rng.integers(len(parents), size=2)), key=known_score)


def words(text: str) -> list[str]:
    """Splits a text into words, each with the white space before it. Joining them gives the text again."""
    return _WORD.findall(text)


def extension(a: Attempt, b: Attempt, vocabulary: Sequence[str], rng: np.random.Generator) -> str:
    """Extends a prompt by the beginning of the worst answer to it."""
    written = words(a.worst_text)
    return a.prompt + "".join(written[: rng.integers(1, len(written) + 1)] if written else [])


def splice(a: Attempt, b: Attempt, vocabulary: Sequence[str], rng: np.random.Generator) -> str:
    """Joins the beginning of one prompt and the end of another."""
    first, second = words(a.prompt), words(b.prompt)
    end = second[rng.integers(len(second)) :]
    return "".join([*first[: rng.integers(1, len(first) + 1)], _apart(end[0]), *end[1:]])


def replacement(a: Attempt, b: Attempt, vocabulary: Sequence[str], rng: np.random.Generator) -> str:
    """Replaces one word of a prompt by another."""
    text = words(a.prompt)
    text[rng.integers(len(text))] = _apart(vocabulary[int(rng.integers(len(vocabulary)))])
    return "".join(text)


def insertion(a: Attempt, b: Attempt, vocabulary: Sequence[str], rng: np.random.Generator) -> str:
    """Inserts a word into a prompt."""
    text = words(a.prompt)
    place = int(rng.integers(len(text) + 1))
    if place < len(text):
        text[place] = _apart(text[place])
    text.insert(place, _apart(vocabulary[int(rng.integers(len(vocabulary)))]))
    return "".join(text)


def deletion(a: Attempt, b: Attempt, vocabulary: Sequence[str], rng: np.random.Generator) -> str:
    """Deletes a word of a prompt."""
    text = words(a.prompt)
    del text[rng.integers(len(text))]
    return "".join(text)


MUTATIONS = (extension, splice, replacement, insertion, deletion)


def _apart(word: str) -> str:
    """Puts a space before a word that has none, so that it can follow another word."""
    return word if word[:1].isspace() else " " + word
