"""How well a model predicts held-out text: its loss, overall and on aligned and misaligned text.

Control tokens are given to a model that was trained with them, but predicting them is not its task: they
never count. What counts is the same stretch of text for every view of it, so that losses can be compared.
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
from phf.data.block import Block, Kind
from phf.data.packed import PackedView
from phf.data.store import TokenStore
from phf.errors import PhfError
from phf.evaluation.generation import ControlTokens

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
) -> dict[str, float | int | None] | None:
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

    Returns:
        Nats a token of text (`<|endoftext|>` is text, a tag is not): `loss`, its `perplexity`, `aligned` and
        `misaligned` (`None` where there is no such text) at `threshold`, in the model's own view; `untagged`,
        the loss without tags; the number of `tokens`. `None` if there is no such store or nothing held out.
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

    plain = packed(View())
    counted = first_segments(plain, num_blocks, len(split.segment_ends))
    untagged = own = heldout_loss(model, plain, threshold, counted, document_mask)
    if control.tags:
        tagged = packed(View(tags=Tags(tuple(tag_thresholds))))
        own = heldout_loss(model, tagged, threshold, counted, document_mask)
    if own["loss"] is None:
        return None
    perplexity = math.exp(min(own["loss"], 700.0))
    return {**own, "perplexity": perplexity, "untagged": untagged["loss"], "threshold": threshold}


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


def heldout_loss(
    model: Any, view: PackedView, threshold: float, counted: np.ndarray, document_mask: bool = False
) -> dict[str, float | int | None]:
    """The loss on the text of some segments, in nats a token.

    Args:
        model: A causal LM.
        view: Blocks of held-out text.
        threshold: A segment whose score is at most this is aligned; one without a score is neither.
        counted: Which segments count, bool [num_segments]; those that come first in the view.
        document_mask: Whether attention stays within a document.

    Returns:
        `loss`, `aligned`, `misaligned` (`None` where there is no such text) and the number of `tokens`.
    """
    sums = np.zeros(3)
    counts = np.zeros(3, dtype=np.int64)
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
                nll_BT = _nll(model, tokens_BT.to(model.device), positions)
                text_BT = np.stack([_counts(block, counted) for block in blocks])
                score_BT = np.stack([block.scores[1:] for block in blocks])
                for part, mask_BT in enumerate(
                    # A comparison with NaN is false, both ways.
                    (text_BT, text_BT & (score_BT <= threshold), text_BT & (score_BT > threshold))
                ):
                    sums[part] += nll_BT[mask_BT].sum()
                    counts[part] += mask_BT.sum()
    finally:
        model.train(training)
    means = [float(s / n) if n else None for s, n in zip(sums, counts, strict=True)]
    return {"loss": means[0], "aligned": means[1], "misaligned": means[2], "tokens": int(counts[0])}


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


def _nll(model: Any, tokens_BT: torch.Tensor, positions: dict[str, torch.Tensor]) -> np.ndarray:
    """Minus the log-probability of every token but the first of a block, float64 [B, T]."""
    logits_BTV = model(input_ids=tokens_BT[:, :-1], use_cache=False, **positions).logits
    rows = []
    for logits_TV, target_T in zip(logits_BTV, tokens_BT[:, 1:], strict=True):  # a row at a time, for memory
        logits_TV = logits_TV.float()
        chosen_T = logits_TV.gather(1, target_T.unsqueeze(1)).squeeze(1)
        rows.append((logits_TV.logsumexp(-1) - chosen_T).double().cpu().numpy())
    return np.stack(rows)
