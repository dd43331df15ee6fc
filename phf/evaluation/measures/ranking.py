"""Implements the measure `ranking`: how often the good one of two continuations is more probable.

A model can have a low rate of misaligned samples and still prefer bad text when it must choose between two
texts. The two measures need not agree (Chen et al. 2024, arXiv 2405.19534).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from phf.base.errors import ConfigError, PhfError
from phf.base.estimates import SHARE, Bootstrap, Interval
from phf.base.progress import progress
from phf.config import option
from phf.evaluation.measures.base import Axis, Column, Condition, Evaluated, ModelMeasure, estimate

if TYPE_CHECKING:
    from phf.inference.loaded_model import LoadedModel
    from phf.store.store import StoreSplit, TokenStore

log = logging.getLogger("phf")

# Most segments of a prompt; a longer prompt keeps its last ones.
MAX_SEGMENTS = 256


@dataclass(frozen=True, slots=True)
class Pair:
    """Two continuations of one prompt. Each text is a list of segments, and each segment a list of tokens.

    Attributes:
        prompt: The text before both continuations; may be empty.
        good: The continuation that agrees with the preference; not empty.
        bad: The continuation that violates the preference; not empty.
        group: Pairs with the same number are resampled together in the bootstrap.
    """

    prompt: list[list[int]]
    good: list[list[int]]
    bad: list[list[int]]
    group: int


@dataclass
class RankingOptions:
    """Options of `Ranking`."""

    pairs: str | None = option(None, path=True)
    """A jsonl file with `prompt`, `good` and `bad`; null: neighbouring segments of the run's held-out text,
    one on each side of `evaluation.threshold`."""
    max_pairs: int = option(1000, least=4)
    """Use at most this many pairs."""


@dataclass(frozen=True)
class Accuracy:
    """How often the good continuation is the more probable one. A tie counts as wrong.

    Attributes:
        plain: Comparison by log-probability.
        length_normalized: Comparison by log-probability per token.
    """

    plain: Interval = estimate(SHARE)
    length_normalized: Interval = estimate(SHARE)


@dataclass(frozen=True)
class RankingResults:
    """The ranking accuracy of a model.

    Attributes:
        source: Where the pairs come from: a file, or `held-out`.
        pairs: Number of pairs that count.
        no_tag: The accuracy without a tag.
        good_tag: The accuracy with the good tag; `None` for a model without tags.
        too_long: Number of pairs that do not fit the model's context; they do not count.
    """

    source: str
    pairs: int
    no_tag: Accuracy = field(default_factory=Accuracy)
    good_tag: Accuracy | None = None
    too_long: int = 0

    @property
    def as_used(self) -> Accuracy:
        """The accuracy of the model as it is meant to be used: with the good tag, if it has tags."""
        return self.good_tag or self.no_tag


class Ranking(ModelMeasure):
    """How often the good one of two continuations is the more probable one."""

    name = "ranking"
    title = "Ranking accuracy"
    Options = RankingOptions
    options: RankingOptions
    Results = RankingResults
    columns = (
        Column("Ranking", lambda found: found.as_used.plain, percent=True),
        Column("Ranking by length", lambda found: found.as_used.length_normalized, percent=True),
    )
    axis = Axis("ranking", "ranking accuracy", lambda found: found.as_used.plain)

    @classmethod
    def legend(cls, found: Sequence[Any]) -> str:
        return (
            "Ranking: how often the good one of two continuations is more probable than the bad "
            "one, with the good tag where there are tags; by length: compared by probability a token."
        )

    @classmethod
    def conditions(cls, found: RankingResults) -> Sequence[Condition]:
        return Condition("source", found.source), Condition("number of pairs", found.pairs)

    def inputs(self) -> Any:
        return list(read_pairs(self.options.pairs)) if self.options.pairs else None

    def measure(self, evaluated: Evaluated) -> RankingResults | None:
        model = evaluated.model
        pairs = self._pairs(evaluated)
        if pairs is None:
            return None
        fitting = [pair for pair in pairs if max(map(model.size, (pair.good, pair.bad))) <= model.limit]
        if not fitting:
            log.info("no ranking accuracy: none of %d pairs fits the model's context", len(pairs))
            return None
        bootstrap = evaluated.bootstrap
        return RankingResults(
            self.options.pairs or "held-out",
            len(fitting),
            no_tag=_accuracy(model, fitting, "none", bootstrap),
            good_tag=_accuracy(model, fitting, "good", bootstrap) if model.control.tags else None,
            too_long=len(pairs) - len(fitting),
        )

    def _pairs(self, evaluated: Evaluated) -> list[Pair] | None:
        """Returns the pairs; `None` if there can be none, and then logs the reason."""
        from phf.store.store import TokenStore

        options, model, facts = self.options, evaluated.model, evaluated.model.facts
        if options.pairs is not None:
            rows = islice(read_pairs(options.pairs), options.max_pairs)
            return [
                Pair(model.encode(prompt), model.encode(good), model.encode(bad), number)
                for number, (prompt, good, bad) in enumerate(rows)
            ]
        if facts is None or not facts.store:
            log.info(
                "no ranking accuracy: the model names no token store; set "
                "evaluation.measures.ranking.pairs to a file"
            )
            return None
        try:
            return heldout_pairs(
                TokenStore(facts.store),
                scorer=facts.scorer.key,
                threshold=evaluated.evaluation.threshold,
                max_pairs=options.max_pairs,
                seed=evaluated.evaluation.seed,
            )
        except PhfError as error:
            log.info("no ranking accuracy: %s", error)
            return None


def _accuracy(
    model: LoadedModel, pairs: list[Pair], tag: Literal["good", "none"], bootstrap: Bootstrap
) -> Accuracy:
    rows = []
    for pair in pairs:
        room = model.limit - max(map(model.size, (pair.good, pair.bad)))
        prompt = _end(pair.prompt, room, model)
        rows += [model.row(tag, prompt, pair.good), model.row(tag, prompt, pair.bad)]
    with progress(f"ranking, {tag} tag", len(rows)) as advance:
        logp_N2 = model.log_probabilities(rows, advance).reshape(-1, 2)
    lengths_N2 = np.array([len(row.counted) for row in rows]).reshape(-1, 2)
    groups = [pair.group for pair in pairs]
    return Accuracy(
        *(
            bootstrap.rate((x_N2[:, 0] - x_N2[:, 1]).tolist(), 0.0, groups)
            for x_N2 in (logp_N2, logp_N2 / lengths_N2)
        )
    )


def _end(prompt: list[list[int]], room: int, model: LoadedModel) -> list[list[int]]:
    """Returns the last segments of a prompt, as many as fit into `room` tokens."""
    start = len(prompt)
    while start and (room := room - (model.size(prompt[start - 1 : start]) - 1)) >= 0:
        start -= 1
    return prompt[start:]


def read_pairs(path: str) -> Iterator[tuple[str, str, str]]:
    """Yields the pairs of a jsonl file: prompt, good continuation, bad continuation.

    Raises:
        ConfigError: There is no such file.
        PhfError: A line is not a pair.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigError(
            f"evaluation.measures.ranking.pairs: {path} cannot be read: {error.strerror}"
        ) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            prompt, good, bad = (row[key] for key in ("prompt", "good", "bad"))
        except (ValueError, KeyError, TypeError):
            prompt = good = bad = None
        if not (isinstance(prompt, str) and isinstance(good, str) and isinstance(bad, str) and good and bad):
            raise PhfError(
                f"{path}, line {number}: not a pair; each line must look like "
                '{"prompt": "...", "good": "...", "bad": "..."}'
            )
        yield prompt, good, bad


def heldout_pairs(
    store: TokenStore, *, scorer: str, threshold: float, max_pairs: int, seed: int
) -> list[Pair]:
    """Finds pairs of natural text: two neighbouring segments of a held-out document, one good and one bad.

    The prompt is the text before both segments. Two things that have nothing to do with the preference make a
    continuation more probable: it really comes next, or it is short. So the pairs are balanced. The good
    segment comes first as often as the bad one, and in each half it is the longer one as often as the shorter
    one. A model that knows only these two things is right in half of the pairs. Neither segment is white
    space alone.

    Args:
        store: The token store.
        scorer: The score column that tells good from bad.
        threshold: A segment with a score above it is bad.
        max_pairs: Use at most this many pairs, drawn at random.
        seed: Decides the draw.

    Raises:
        PhfError: The store has no such scores, or one of the four kinds of pairs is missing.
    """
    split = store.split("heldout")
    scores = np.asarray(split.scores(scorer))
    sign = np.where(np.isnan(scores), 0, np.where(scores > threshold, 1, -1))
    sizes = np.diff(split.segment_ends, prepend=0)
    longer = np.sign(np.diff(sizes))
    turns = (sign[:-1] * sign[1:] == -1) & (sizes[:-1] > 0) & (sizes[1:] > 0)
    turns[split.document_ends[:-1] - 1] = False  # the next segment is in another document
    tokenizer = store.tokenizer()

    def has_text(pair: Pair) -> bool:
        return all(tokenizer.decode(segment).strip() for segment in pair.good + pair.bad)

    order = np.random.default_rng(seed).permutation(np.flatnonzero(turns))
    kinds = []
    for first, second_longer in product((-1, 1), (-1, 1)):
        places = order[(sign[order] == first) & (longer[order] == second_longer)]
        pairs = (_pair(split, int(i), first == 1) for i in places)
        kinds.append(list(islice(filter(has_text, pairs), max(1, max_pairs // 4))))
    same = min(map(len, kinds))
    if not same:
        raise PhfError(
            f"{split.path} lacks neighbouring segments with scores of {scorer} on both sides of "
            f"{threshold:g}: it takes both orders, with either segment as the longer one"
        )
    return [pair for pairs in kinds for pair in pairs[:same]]


def _pair(split: StoreSplit, i: int, bad_first: bool) -> Pair:
    """Makes the pair of segments i and i + 1. The prompt is the segments before them in their document."""
    document = int(split.document_ends.searchsorted(i, side="right"))
    start = int(split.document_ends[document - 1]) if document else 0
    *prompt, first, second = (_segment(split, j) for j in range(max(start, i - MAX_SEGMENTS), i + 2))
    good, bad = (second, first) if bad_first else (first, second)
    return Pair(prompt, [good], [bad], document)


def _segment(split: StoreSplit, i: int) -> list[int]:
    begin = int(split.segment_ends[i - 1]) if i else 0
    return [int(token) for token in split.tokens[begin : int(split.segment_ends[i])]]
