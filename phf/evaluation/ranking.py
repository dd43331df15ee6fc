"""Ranking accuracy: does a model give the good one of two continuations more probability?

A model can have a low rate of misaligned samples and still prefer bad text where it must choose; the two
measures need not agree (Chen et al. 2024, arXiv 2405.19534).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from phf.config import EvaluationConfig, RankingConfig
from phf.data.store import StoreSplit, TokenStore
from phf.errors import ConfigError, PhfError
from phf.evaluation.likelihood import Reader
from phf.evaluation.metrics import rate_by_cluster
from phf.evaluation.progress import progress

log = logging.getLogger("phf")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two continuations of one prompt, in tokens.

    Attributes:
        prompt: What stands before both; may be empty.
        good: The continuation that agrees with the preference; not empty.
        bad: The one that violates it; not empty.
        group: Pairs with one number stand or fall together in the bootstrap.
    """

    prompt: list[int]
    good: list[int]
    bad: list[int]
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
                max_prompt_tokens=reader.room,
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
    fitting = [pair for pair in pairs if max(len(pair.good), len(pair.bad)) <= reader.room]
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


def _accuracy(reader: Reader, pairs: list[Pair], tag: Any, evaluation: EvaluationConfig) -> dict[str, Any]:
    rows = []
    for pair in pairs:
        space = reader.room - max(len(pair.good), len(pair.bad))
        given = reader.prefix(tag) + pair.prompt[max(0, len(pair.prompt) - space) :]
        rows += [(given, pair.good), (given, pair.bad)]
    with progress(f"ranking, {tag} tag", len(rows)) as advance:
        logp_N2 = reader.log_probabilities(rows, advance).reshape(-1, 2)
    lengths_N2 = np.array([[len(pair.good), len(pair.bad)] for pair in pairs])
    margins = {"plain": logp_N2, "length_normalized": logp_N2 / lengths_N2}
    return {
        name: rate_by_cluster(
            (x_N2[:, 0] - x_N2[:, 1]).tolist(), 0.0, [pair.group for pair in pairs],
            evaluation.confidence, evaluation.seed,
        )
        for name, x_N2 in margins.items()
    }  # fmt: skip


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
    store: TokenStore, *, scorer: str, threshold: float, max_pairs: int, max_prompt_tokens: int, seed: int
) -> list[Pair]:
    """Pairs of natural text: two neighbouring segments of a held-out document, one good and one bad.

    The prompt is what stands before both. The one that really follows it has an advantage which has nothing
    to do with the preference; so in half of the pairs it is the good one and in half the bad one, and a model
    that only knows what follows what is right in half of them. Neither segment is white space alone.

    Args:
        store: The token store.
        scorer: Whose scores tell good from bad.
        threshold: A score above it is bad.
        max_pairs: Use at most so many, drawn at random.
        max_prompt_tokens: A longer prompt loses its beginning.
        seed: Of the draw.

    Raises:
        PhfError: The store has no such scores, or no such neighbours.
    """
    split = store.split("heldout")
    scores = np.asarray(split.scores(scorer))
    bad = np.where(np.isnan(scores), 0, np.where(scores > threshold, 1, -1))
    sizes = np.diff(split.segment_ends, prepend=0)
    turns = (bad[:-1] * bad[1:] == -1) & (sizes[:-1] > 0) & (sizes[1:] > 0)
    turns[split.document_ends[:-1] - 1] = False  # the next segment is in another document
    tokenizer = store.tokenizer()
    order = np.random.default_rng(seed).permutation(np.flatnonzero(turns))

    def has_text(pair: Pair) -> bool:
        return all(tokenizer.decode(ids).strip() for ids in (pair.good, pair.bad))

    half = max(1, max_pairs // 2)
    chosen = []
    for sign in (-1, 1):
        pairs = (_pair(split, int(i), sign == 1, max_prompt_tokens) for i in order[bad[order] == sign])
        chosen.append(list(islice(filter(has_text, pairs), half)))
    same = min(map(len, chosen))
    if not same:
        raise PhfError(
            f"{split.path} has no neighbours with scores of {scorer} on both sides of {threshold:g}, "
            "in either order"
        )
    return chosen[0][:same] + chosen[1][:same]


def _pair(split: StoreSplit, i: int, bad_first: bool, max_prompt_tokens: int) -> Pair:
    document = int(split.document_ends.searchsorted(i, side="right"))
    start = int(split.document_token_ends[document - 1]) if document else 0
    begin, middle, end = (int(split.segment_ends[j]) if j >= 0 else 0 for j in (i - 1, i, i + 1))
    prompt, first, second = (
        [int(token) for token in split.tokens[slice(*bounds)]]
        for bounds in ((max(start, begin - max_prompt_tokens), begin), (begin, middle), (middle, end))
    )
    good, bad = (second, first) if bad_first else (first, second)
    return Pair(prompt, good, bad, document)
