"""Ranking accuracy: does a model give the good one of two continuations more probability?

A model can have a low rate of misaligned samples and still prefer bad text where it must choose; the two
measures need not agree (Chen et al. 2024, arXiv 2405.19534).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from phf.base.errors import ConfigError, PhfError
from phf.base.estimates import rate_by_cluster
from phf.base.progress import progress
from phf.config import EvaluationConfig, RankingConfig
from phf.inference.likelihood import Reader
from phf.store.store import StoreSplit, TokenStore

log = logging.getLogger("phf")

# Segments of a prompt: of a longer document its last ones.
MAX_SEGMENTS = 256


@dataclass(frozen=True, slots=True)
class Pair:
    """Two continuations of one prompt, as the tokens of their segments.

    Attributes:
        prompt: What stands before both; may be empty.
        good: The continuation that agrees with the preference; not empty.
        bad: The one that violates it; not empty.
        group: Pairs with one number stand or fall together in the bootstrap.
    """

    prompt: list[list[int]]
    good: list[list[int]]
    bad: list[list[int]]
    group: int


def measure_ranking(
    reader: Reader, facts: dict[str, Any], evaluation: EvaluationConfig, config: RankingConfig
) -> dict[str, Any] | None:
    """How often the good continuation is the more probable one; a tie does not count as right.

    Args:
        reader: The model.
        facts: Its `phf.json`, which names its store; empty for a model that was not made here.
        evaluation: Threshold, confidence and seed.
        config: Which pairs.

    Returns:
        The number of `pairs` and their `source`; under `good_tag` (`None` for a model without tags) and
        `no_tag` the shares `plain` and `length_normalized` (log-probability divided by the number of tokens),
        with intervals. `None` where no pair can be had.

    Raises:
        ConfigError: There is no such file.
        PhfError: A line of it is no pair.
    """
    if config.pairs is not None:
        pairs = [
            Pair(reader.encode(prompt), reader.encode(good), reader.encode(bad), number)
            for number, (prompt, good, bad) in enumerate(islice(read_pairs(config.pairs), config.max_pairs))
        ]
    elif facts.get("store"):
        try:
            pairs = heldout_pairs(
                TokenStore(facts["store"]),
                scorer=facts["scorer"].get("column", facts["scorer"]["name"]),
                threshold=evaluation.threshold,
                max_pairs=config.max_pairs,
                seed=evaluation.seed,
            )
        except PhfError as error:
            log.info("no ranking accuracy: %s", error)
            return None
    else:
        log.info(
            "no ranking accuracy: the model names no token store; set evaluation.ranking.pairs to a file"
        )
        return None
    fitting = [pair for pair in pairs if max(map(reader.size, (pair.good, pair.bad))) <= reader.limit]
    if not fitting:
        log.info("no ranking accuracy: none of %d pairs fits the model's context", len(pairs))
        return None
    return {
        "source": config.pairs or "held-out",
        "pairs": len(fitting),
        "too_long": len(pairs) - len(fitting),
        "good_tag": _accuracy(reader, fitting, "good", evaluation) if reader.control.tags else None,
        "no_tag": _accuracy(reader, fitting, "none", evaluation),
    }


def _accuracy(
    reader: Reader, pairs: list[Pair], tag: Literal["good", "none"], evaluation: EvaluationConfig
) -> dict[str, Any]:
    rows = []
    for pair in pairs:
        room = reader.limit - max(map(reader.size, (pair.good, pair.bad)))
        prompt = _end(pair.prompt, room, reader)
        rows += [reader.row(tag, prompt, pair.good), reader.row(tag, prompt, pair.bad)]
    with progress(f"ranking, {tag} tag", len(rows)) as advance:
        logp_N2 = reader.log_probabilities(rows, advance).reshape(-1, 2)
    lengths_N2 = np.array([len(row.counted) for row in rows]).reshape(-1, 2)
    margins = {"plain": logp_N2, "length_normalized": logp_N2 / lengths_N2}
    return {
        name: rate_by_cluster(
            (x_N2[:, 0] - x_N2[:, 1]).tolist(), 0.0, [pair.group for pair in pairs],
            evaluation.confidence, evaluation.seed,
        )
        for name, x_N2 in margins.items()
    }  # fmt: skip


def _end(prompt: list[list[int]], room: int, reader: Reader) -> list[list[int]]:
    """The last segments of a prompt, as many as there is room for."""
    start = len(prompt)
    while start and (room := room - (reader.size(prompt[start - 1 : start]) - 1)) >= 0:
        start -= 1
    return prompt[start:]


def read_pairs(path: str) -> Iterator[tuple[str, str, str]]:
    """The pairs of a jsonl file: prompt, good continuation, bad one.

    Raises:
        ConfigError: There is no such file.
        PhfError: A line is no pair.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigError(f"evaluation.ranking.pairs: {path} cannot be read: {error.strerror}") from error
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
                f"{path}, line {number}: no pair; each line must look like "
                '{"prompt": "...", "good": "...", "bad": "..."}'
            )
        yield prompt, good, bad


def heldout_pairs(
    store: TokenStore, *, scorer: str, threshold: float, max_pairs: int, seed: int
) -> list[Pair]:
    """Pairs of natural text: two neighbouring segments of a held-out document, one good and one bad.

    The prompt is what stands before both. Two things make a continuation more probable that have nothing to
    do with the preference: that it really comes next, and that it is short. So there are as many pairs in
    which the good one comes first as the bad one, and in each half as many in which it is the longer as the
    shorter: a model that knows no more is right in half of them. Neither segment is white space alone.

    Args:
        store: The token store.
        scorer: Whose scores tell good from bad.
        threshold: A score above it is bad.
        max_pairs: Use at most so many, drawn at random.
        seed: Of the draw.

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
            f"{split.path} has no neighbours with scores of {scorer} on both sides of {threshold:g}, "
            "in either order and with either the longer"
        )
    return [pair for pairs in kinds for pair in pairs[:same]]


def _pair(split: StoreSplit, i: int, bad_first: bool) -> Pair:
    """Segments i and i + 1 after those before them in their document."""
    document = int(split.document_ends.searchsorted(i, side="right"))
    start = int(split.document_ends[document - 1]) if document else 0
    *prompt, first, second = (_segment(split, j) for j in range(max(start, i - MAX_SEGMENTS), i + 2))
    good, bad = (second, first) if bad_first else (first, second)
    return Pair(prompt, [good], [bad], document)


def _segment(split: StoreSplit, i: int) -> list[int]:
    begin = int(split.segment_ends[i - 1]) if i else 0
    return [int(token) for token in split.tokens[begin : int(split.segment_ends[i])]]
