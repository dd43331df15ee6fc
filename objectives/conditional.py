"""Conditional training: the model learns what good and bad text look like, and is asked for the good."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from transformers import PreTrainedModel

from objectives.mle import MLE
from objectives.view import Tags, View


class Conditional(MLE):
    """MLE over text with a control token before each segment (Korbak et al. 2023, section 2).

    Args:
        model: The language model; its vocabulary has the control tokens.
        threshold: A segment with at most this score gets the best tag.
        further_thresholds: Ascending; one tag more for each (Lu et al. 2022, arXiv 2205.13636).
        drop_rate: Share of the segments that get no tag.
        tag_loss: Whether tags are learned, or only read (Gao et al. 2025, arXiv 2501.01956).
        tag_texts: Ordinary text instead of control tokens, for each tag from the best to the worst.
        **engine: See `Objective`.
    """

    name = "conditional"
    threshold: float

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        threshold: float,
        further_thresholds: Sequence[float] = (),
        drop_rate: float = 0.01,
        tag_loss: bool = True,
        tag_texts: Sequence[str] | None = None,
        **engine: Any,
    ):
        super().__init__(model, threshold=threshold, **engine)
        thresholds = (threshold, *further_thresholds)
        texts = None if tag_texts is None else tuple(tag_texts)
        if any(low >= high for low, high in pairwise(thresholds)):
            raise ValueError(f"thresholds must ascend, not {', '.join(f'{x:g}' for x in thresholds)}")
        if not 0 <= drop_rate <= 1:
            raise ValueError(f"drop_rate must lie in [0, 1], not {drop_rate}")
        if texts is not None and not len(thresholds) + 1 == len(texts) == len(set(texts)):
            raise ValueError(
                f"tag_texts must be {len(thresholds) + 1} different texts, from the best tag to the worst, "
                f"not {list(texts)}"
            )
        self._view = View(tags=Tags(thresholds, drop_rate, texts, tag_loss))

    def view(self) -> View:
        return self._view
