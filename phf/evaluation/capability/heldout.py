"""How well a model predicts held-out text: its loss, overall, on aligned and misaligned text, and by score.

Control tokens are given to a model that was trained with them, but predicting them is not its task: they
never count, and are left out of the distribution, as they are when the model is sampled from. What counts is
the same stretch of text for every view of it, so that losses can be compared.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from objectives.view import Tags, View
from phf.base.errors import PhfError
from phf.base.estimates import Interval, bootstrap_ratio
from phf.base.quantiles import smallest_reaching
from phf.blocks.block import Block, Kind
from phf.blocks.packed import PackedView
from phf.config import ScenarioConfig
from phf.model.control_tokens import ControlTokens
from phf.store.store import TokenStore

log = logging.getLogger("phf")

# Logits held at a time; in float32 four bytes each.
MAX_LOGITS = 2**26
MAX_BLOCKS = 16


def measure_heldout(
    model: Any,
    store_path: Path,
    control: ControlTokens,
    *,
    scorer: str,
    tag_thresholds: Sequence[float],
    threshold: float,
    context_length: int,
    num_blocks: int | None,
    document_mask: bool = False,
    confidence: float = 0.95,
) -> dict[str, Any] | None:
    """The held-out loss of a model in its own view of the store, and in the plain one.

    Args:
        model: A causal LM.
        store_path: The token store it was trained on.
        control: The tokens of the model that are no text.
        scorer: Whose scores tell aligned from misaligned text.
        tag_thresholds: Of the model's tags, ascending; empty if it has none.
        threshold: Scores up to it are aligned in the split of the loss.
        context_length: Tokens in a block.
        num_blocks: How much text, in blocks of the plain view; `None` for all of it.
        document_mask: Whether the model was trained with attention that does not cross documents.
        confidence: Coverage of the intervals.

    Returns:
        Nats a token of text (`<|endoftext|>` is text, a tag is not): `loss`, its `perplexity`, `aligned` and
        `misaligned` (`None` where there is no such text) at `threshold`, in the model's own view; `untagged`,
        the loss without tags; the number of `tokens`; `deciles`, see `loss_by_decile`; `intervals` of `loss`
        and `untagged`, bootstrapped by document. `None` if there is no such store or nothing held out.
    """
    try:
        split = TokenStore(store_path).split("heldout")
    except PhfError as error:
        log.info("no held-out loss: %s", error)
        return None
    has_scores = scorer in TokenStore(store_path).scorers
    if not split.num_documents or (control.tags and not has_scores):
        reason = f"no scores of {scorer}" if split.num_documents else "no held-out documents"
        log.info("no held-out loss: %s has %s", store_path, reason)
        return None

    def packed(view: View) -> PackedView:
        return PackedView(
            split,
            view,
            scorer=scorer if has_scores else None,
            context_length=context_length,
            seed=0,
            eos_id=control.eos_id,
            tag_ids=control.tags,
            shuffle=False,
        )

    plain, banned = packed(View()), control.banned(ScenarioConfig())
    counted = first_segments(plain, num_blocks, len(split.segment_ends))
    untagged = own = segment_losses(model, plain, counted, document_mask, banned)
    if control.tags:
        tagged = packed(View(tags=Tags(tuple(tag_thresholds))))
        own = segment_losses(model, tagged, counted, document_mask, banned)
    scores = np.asarray(split.scores(scorer)) if has_scores else np.full(len(counted), np.nan)
    losses = split_loss(*own, scores, threshold)
    if losses["loss"] is None:
        return None
    return {
        **losses,
        "perplexity": _perplexity(losses["loss"]),
        "untagged": _mean(*untagged, np.ones(len(scores), dtype=bool)),
        "threshold": threshold,
        "deciles": loss_by_decile(*own, scores),
        "intervals": {
            name: _interval(*measured, np.asarray(split.document_ends), confidence)
            for name, measured in (("loss", own), ("untagged", untagged))
        },
    }


def first_segments(view: PackedView, num_blocks: int | None, num_segments: int) -> np.ndarray:
    """Which segments lie wholly within the first blocks of a view, bool [num_segments]."""
    if num_blocks is None or num_blocks >= view.num_blocks(0):
        return np.ones(num_segments, dtype=bool)
    inside = np.zeros(num_segments, dtype=bool)
    for index in range(num_blocks):
        inside[view.block(0, index).segments[1:]] = True
    # The last one goes on in the next block.
    inside[view.block(0, num_blocks - 1).segments[-1]] = False
    return inside


def segment_losses(
    model: Any,
    view: PackedView,
    counted: np.ndarray,
    document_mask: bool = False,
    banned: Sequence[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """For each segment the sum of the loss over its tokens, in nats, and how many they are.

    Args:
        model: A causal LM.
        view: Blocks of held-out text.
        counted: Which segments count, bool [num_segments]; those that come first in the view.
        document_mask: Whether attention stays within a document.
        banned: Tokens left out of the distribution; none that counts.

    Returns:
        float64 [num_segments] and int64 [num_segments]; 0 for those that do not count.
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


def split_loss(sums: np.ndarray, counts: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, Any]:
    """The loss overall, and on text on both sides of a threshold.

    Args:
        sums: Of the loss over each segment, [num_segments].
        counts: Of its tokens.
        scores: Of each segment; one without a score (NaN) is neither aligned nor misaligned.
        threshold: Scores up to it are aligned.

    Returns:
        `loss`, `aligned`, `misaligned` (`None` where there is no such text) and the number of `tokens`.
    """
    return {
        "loss": _mean(sums, counts, np.ones(len(scores), dtype=bool)),
        # A comparison with NaN is false, both ways.
        "aligned": _mean(sums, counts, scores <= threshold),
        "misaligned": _mean(sums, counts, scores > threshold),
        "tokens": int(counts.sum()),
    }


def loss_by_decile(sums: np.ndarray, counts: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    """The loss on each tenth of the segments, ordered by their scores.

    Equal scores are not torn apart: where the bounds of several deciles are one score, they are one.

    Args:
        sums: Of the loss over each segment, [num_segments].
        counts: Of its tokens; a segment without any does not count.
        scores: Of each segment; one without a score (NaN) does not count.

    Returns:
        From the best text to the worst: the `deciles` (from 1) that it is, the smallest and largest score
        (`low`, `high`), how many `segments` and `tokens`, their `loss` in nats a token and its `perplexity`.
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
            {
                "deciles": (np.flatnonzero(bounds == bound) + 1).tolist(),
                "low": float(scores[inside].min()),
                "high": float(scores[inside].max()),
                "segments": len(inside),
                "tokens": int(counts[inside].sum()),
                "loss": loss,
                "perplexity": _perplexity(loss),
            }
        )
    return parts


def _mean(sums: np.ndarray, counts: np.ndarray, which: np.ndarray) -> float | None:
    tokens = counts[which].sum()
    return float(sums[which].sum() / tokens) if tokens else None


def _interval(sums: np.ndarray, counts: np.ndarray, document_ends: np.ndarray, confidence: float) -> Interval:
    """The loss over all segments, with an interval bootstrapped by document."""
    document = document_ends.searchsorted(np.arange(len(sums)), side="right")
    totals, tokens = np.bincount(document, sums), np.bincount(document, counts)
    return bootstrap_ratio(totals[tokens > 0], tokens[tokens > 0], confidence, seed=0)


def _perplexity(loss: float | None) -> float | None:
    return None if loss is None else math.exp(min(loss, 700.0))


def _counts(block: Block, counted: np.ndarray) -> np.ndarray:
    """Which targets of a block count, bool [T]: text and `<|endoftext|>`, no tags and no padding."""
    kind, segment = block.kind[1:], block.segments[1:]
    text = (kind == Kind.TEXT) | (kind == Kind.EOS)
    return text & counted[np.where(segment >= 0, segment, 0)]


def _batches(view: PackedView, counted: np.ndarray, size: int) -> Iterator[list[Block]]:
    """The blocks in which something counts: all of them come first."""
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
    """Minus the log-probability of every token but the first of a block, float64 [B, T]; inf if banned."""
    logits_BTV = model(input_ids=tokens_BT[:, :-1], use_cache=False, **positions).logits
    rows = []
    for logits_TV, target_T in zip(logits_BTV, tokens_BT[:, 1:], strict=True):  # a row at a time, for memory
        logits_TV = logits_TV.float()
        logits_TV[:, list(banned)] = -torch.inf
        chosen_T = logits_TV.gather(1, target_T.unsqueeze(1)).squeeze(1)
        rows.append((logits_TV.logsumexp(-1) - chosen_T).double().cpu().numpy())
    return np.stack(rows)
