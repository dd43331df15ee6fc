"""Computes the loss on held-out text: overall, on aligned and misaligned text, and by decile of the score.

A model that was trained with tags gets tags here too, but does not have to predict them: tags never count,
and they are excluded from the distribution, as in sampling. The same text counts in every view, so that
losses can be compared.

Shapes: B blocks of a batch, T tokens of a block, V tokens of the vocabulary.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from objectives.view import Tags, View
from phf.base.errors import PhfError
from phf.base.estimates import Bootstrap, Interval
from phf.base.quantiles import smallest_reaching
from phf.blocks.block import Block, Kind
from phf.blocks.packed import PackedView
from phf.evaluation.measures.heldout import Decile, HeldoutResults
from phf.inference.loaded_model import LoadedModel
from phf.store.store import TokenStore

log = logging.getLogger("phf")

# Logits held at a time, 4 bytes each in float32.
MAX_LOGITS = 2**26
MAX_BLOCKS = 16


def measure_heldout(
    model: LoadedModel, *, threshold: float, num_blocks: int | None, confidence: float = 0.95
) -> HeldoutResults | None:
    """Measures the held-out loss of a model in its own view of its token store, and in the plain view.

    Args:
        model: The model.
        threshold: Segments with scores up to it are aligned.
        num_blocks: The amount of text, in blocks of the plain view; `None` for all.
        confidence: Coverage of the intervals, which are bootstrapped by document.

    Returns:
        The results. `None` if the model has no store, the store has no held-out documents, or a model with
        tags has no scores there.
    """
    facts, control = model.facts, model.control
    if facts is None or not facts.store:
        log.info("no held-out loss: the model does not name its token store")
        return None
    try:
        store = TokenStore(facts.store)
    except PhfError as error:
        log.info("no held-out loss: %s", error)
        return None
    split, scorer = store.split("heldout"), facts.scorer.key
    has_scores = scorer in store.scorers
    if not split.num_documents or (control.tags and not has_scores):
        reason = f"no scores of {scorer}" if split.num_documents else "no held-out documents"
        log.info("no held-out loss: %s has %s", store.path, reason)
        return None

    def packed(view: View) -> PackedView:
        return PackedView(
            split,
            view,
            scorer=scorer if has_scores else None,
            context_length=facts.context_length,
            seed=0,
            eos_id=control.eos_id,
            tag_ids=control.tags,
            shuffle=False,
        )

    plain, banned = packed(View()), control.tag_tokens
    counted = first_segments(plain, num_blocks, len(split.segment_ends))
    untagged = own = segment_losses(model.network, plain, counted, facts.document_mask, banned)
    if facts.tags:
        tagged = packed(View(tags=Tags(tuple(facts.tags.thresholds))))
        own = segment_losses(model.network, tagged, counted, facts.document_mask, banned)
    scores = np.asarray(split.scores(scorer)) if has_scores else np.full(len(counted), np.nan)
    ends = np.asarray(split.document_ends)
    loss = _interval(*own, ends, confidence)
    if loss.value is None:
        return None
    return HeldoutResults(
        threshold,
        int(own[1].sum()),
        loss=loss,
        untagged=_interval(*untagged, ends, confidence),
        # A comparison with NaN is false, both ways.
        aligned=_mean(*own, scores <= threshold),
        misaligned=_mean(*own, scores > threshold),
        perplexity=_perplexity(loss),
        deciles=loss_by_decile(*own, scores),
    )


def first_segments(view: PackedView, num_blocks: int | None, num_segments: int) -> np.ndarray:
    """Finds the segments that lie entirely within the first blocks of a view, bool [num_segments]."""
    if num_blocks is None or num_blocks >= view.num_blocks(0):
        return np.ones(num_segments, dtype=bool)
    inside = np.zeros(num_segments, dtype=bool)
    for index in range(num_blocks):
        inside[view.block(0, index).segments[1:]] = True
    # The last segment continues in the next block.
    inside[view.block(0, num_blocks - 1).segments[-1]] = False
    return inside


def segment_losses(
    model: Any,
    view: PackedView,
    counted: np.ndarray,
    document_mask: bool = False,
    banned: Sequence[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the summed loss of each segment, in nats, and its number of tokens.

    Args:
        model: A causal LM.
        view: Blocks of held-out text.
        counted: Which segments count, bool [num_segments]; they must come first in the view.
        document_mask: Whether attention stays within a document.
        banned: Tokens excluded from the distribution; they must not be among those that count.

    Returns:
        Losses, float64 [num_segments], and numbers of tokens, int64 [num_segments]; both are 0 for segments
        that do not count.
    """
    sums, counts = np.zeros(len(counted)), np.zeros(len(counted), dtype=np.int64)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), torch.compiler.set_stance("force_eager"):
            for blocks in _batches(view, counted, _batch_size(model, view)):
                tokens_BT = torch.from_numpy(np.stack([block.tokens for block in blocks]))
                positions = {}
                if document_mask:
                    positions_BT = torch.from_numpy(np.stack([block.positions() for block in blocks]))
                    positions["position_ids"] = positions_BT.to(model.device)
                nll_BT = _nll(model, tokens_BT.to(model.device), positions, banned)
                text_BT = np.stack([_counts(block, counted) for block in blocks])
                segments = np.stack([block.segments[1:] for block in blocks])[text_BT]
                np.add.at(sums, segments, nll_BT[text_BT])
                np.add.at(counts, segments, 1)
    finally:
        model.train(training)
    return sums, counts


def loss_by_decile(sums: np.ndarray, counts: np.ndarray, scores: np.ndarray) -> list[Decile]:
    """Computes the loss on each tenth of the segments, ordered by score, from the best text to the worst.

    Segments with equal scores stay together: deciles with the same bound are merged.

    Args:
        sums: Summed loss of each segment, [num_segments].
        counts: Number of tokens of each segment; a segment without tokens does not count.
        scores: Score of each segment; a segment without a score (NaN) does not count.
    """
    known = np.flatnonzero((counts > 0) & ~np.isnan(scores))
    if not len(known):
        return []
    bounds = smallest_reaching(scores[known], [decile / 10 for decile in range(1, 11)])
    parts = []
    bin_of = np.unique(bounds).searchsorted(scores[known])
    for number, bound in enumerate(np.unique(bounds)):
        inside = known[bin_of == number]
        loss = _mean(sums, counts, inside)
        parts.append(
            Decile(
                (np.flatnonzero(bounds == bound) + 1).tolist(),
                float(scores[inside].min()),
                float(scores[inside].max()),
                len(inside),
                int(counts[inside].sum()),
                loss,
                _perplexity(loss),
            )
        )
    return parts


def _mean(sums: np.ndarray, counts: np.ndarray, which: np.ndarray) -> Interval:
    tokens = counts[which].sum()
    return Interval(float(sums[which].sum() / tokens) if tokens else None)


def _interval(sums: np.ndarray, counts: np.ndarray, document_ends: np.ndarray, confidence: float) -> Interval:
    """Computes the loss per token over all segments, with an interval bootstrapped by document."""
    document = document_ends.searchsorted(np.arange(len(sums)), side="right")
    totals, tokens = np.bincount(document, sums), np.bincount(document, counts)
    return Bootstrap(confidence).ratio(totals[tokens > 0], tokens[tokens > 0])


def _perplexity(loss: Interval) -> Interval:
    return Interval(
        *(None if x is None else math.exp(min(x, 700.0)) for x in (loss.value, loss.low, loss.high))
    )


def _counts(block: Block, counted: np.ndarray) -> np.ndarray:
    """Finds the targets of a block that count, bool [T]: text and `<|endoftext|>`, not tags or padding."""
    kind, segment = block.kind[1:], block.segments[1:]
    text = (kind == Kind.TEXT) | (kind == Kind.EOS)
    return text & counted[np.where(segment >= 0, segment, 0)]


def _batches(view: PackedView, counted: np.ndarray, size: int) -> Iterator[list[Block]]:
    """Yields batches of the blocks with tokens that count. These blocks come first in the view."""
    batch: list[Block] = []
    for index in range(view.num_blocks(0)):
        block = view.block(0, index)
        if not _counts(block, counted).any():
            break
        batch.append(block)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _batch_size(model: Any, view: PackedView) -> int:
    return max(1, min(MAX_BLOCKS, MAX_LOGITS // (view.context_length * model.config.vocab_size)))


def _nll(
    model: Any, tokens_BT: torch.Tensor, positions: dict[str, torch.Tensor], banned: Sequence[int]
) -> np.ndarray:
    """Computes -log p of every token of a block except the first, float64 [B, T]; inf if banned."""
    logits_BTV = model(input_ids=tokens_BT[:, :-1], use_cache=False, **positions).logits
    rows = []
    for logits_TV, target_T in zip(logits_BTV, tokens_BT[:, 1:], strict=True):  # one at a time: saves memory
        logits_TV = logits_TV.float()
        logits_TV[:, list(banned)] = -torch.inf
        chosen_T = logits_TV.gather(1, target_T.unsqueeze(1)).squeeze(1)
        rows.append((logits_TV.logsumexp(-1) - chosen_T).double().cpu().numpy())
    return np.stack(rows)
