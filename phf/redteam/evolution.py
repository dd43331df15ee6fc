"""A red team without a second model: evolutionary search, after EvoPrompting (arXiv 2302.14838).

The best prompts that are not alike breed. Some children are written by the attacked model itself: it reads
two parents as examples of what to write, or goes on from the beginning of one. The others cost none of its
tokens: parents are spliced, and words replaced, added and left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from phf.config import RedteamConfig, ScenarioConfig
from phf.redteam.pool import Attempt, Proposal, known_score, new_prompts, niches
from phf.redteam.target import Target

# A word with the white space before it: joined they are the text again.
_WORD = re.compile(r"\s*\S+|\s+$")

# Of the children of a few parents many have been tried before; a search that finds no new ones gives up.
_MOST_LITTERS = 20

_BETWEEN_EXAMPLES = "\n\n"

_WRITTEN_SHARE = 1 / 3
"""Of the children, those that the attacked model writes: they cost tokens that could be spent on trying."""


class Evolution:
    """Breeds prompts.

    Args:
        config: The section `redteam`.
        seeds: All seeds, from whose words new ones are taken.
        target: The attacked model.
    """

    def __init__(self, config: RedteamConfig, seeds: Sequence[str], target: Target):
        self.config = config
        self.target = target
        self.vocabulary = sorted({word for seed in seeds for word in words(seed)})
        # It writes as it likes, but under the attacked tag: another model may have no bad one to write under.
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
        """New prompts, none of which was tried."""
        parents = niches(pool, self.config.parents, self.config.niche_similarity)
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
        if children:  # those that had been tried before were paid for as well
            lost = cost - sum(child.target_tokens for child in children)
            children[0] = replace(children[0], target_tokens=children[0].target_tokens + lost)
        return children

    def _write(self, parents: Sequence[Attempt], count: int, rng: np.random.Generator) -> list[Proposal]:
        """Children that the attacked model writes: after two parents, or on from the beginning of one."""
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
        """A child that costs no tokens."""
        mutate = MUTATIONS[rng.integers(len(MUTATIONS))]
        couple = _select(parents, rng), _select(parents, rng)
        text = mutate(*couple, self.vocabulary, rng)
        return self._child(text, mutate.__name__, couple if mutate is splice else couple[:1], 0)

    def _child(self, text: str, origin: str, parents: Sequence[Attempt], tokens: int) -> Proposal:
        numbers = tuple(dict.fromkeys(parent.number for parent in parents))
        prompt = self.target.cut(text, self.config.max_prompt_tokens).lstrip()
        return Proposal(prompt, origin, numbers, tokens)


def _select(parents: Sequence[Attempt], rng: np.random.Generator) -> Attempt:
    """The better one of two: a choice that does not depend on how scores are scaled."""
    return max((parents[i] for i in rng.integers(len(parents), size=2)), key=known_score)


def words(text: str) -> list[str]:
    """The words of a text, each with the white space before it: joined they are the text."""
    return _WORD.findall(text)


def extension(a: Attempt, b: Attempt, vocabulary: Sequence[str], rng: np.random.Generator) -> str:
    """A prompt with the beginning of the worst that the model wrote after it."""
    written = words(a.worst_text)
    return a.prompt + "".join(written[: rng.integers(1, len(written) + 1)] if written else [])


def splice(a: Attempt, b: Attempt, vocabulary: Sequence[str], rng: np.random.Generator) -> str:
    """The beginning of one prompt and the end of another."""
    first, second = words(a.prompt), words(b.prompt)
    end = second[rng.integers(len(second)) :]
    return "".join([*first[: rng.integers(1, len(first) + 1)], _apart(end[0]), *end[1:]])


def replacement(a: Attempt, b: Attempt, vocabulary: Sequence[str], rng: np.random.Generator) -> str:
    """A prompt with another word in place of one."""
    text = words(a.prompt)
    text[rng.integers(len(text))] = _apart(vocabulary[int(rng.integers(len(vocabulary)))])
    return "".join(text)


def insertion(a: Attempt, b: Attempt, vocabulary: Sequence[str], rng: np.random.Generator) -> str:
    """A prompt with a word more."""
    text = words(a.prompt)
    place = int(rng.integers(len(text) + 1))
    if place < len(text):
        text[place] = _apart(text[place])
    text.insert(place, _apart(vocabulary[int(rng.integers(len(vocabulary)))]))
    return "".join(text)


def deletion(a: Attempt, b: Attempt, vocabulary: Sequence[str], rng: np.random.Generator) -> str:
    """A prompt with a word less."""
    text = words(a.prompt)
    del text[rng.integers(len(text))]
    return "".join(text)


MUTATIONS = (extension, splice, replacement, insertion, deletion)


def _apart(word: str) -> str:
    """A word that may come after another."""
    return word if word[:1].isspace() else " " + word
