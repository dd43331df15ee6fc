"""Filtering: maximum likelihood on the documents that are good on average."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from objectives.mle import MLE
from objectives.view import View


class Filtering(MLE):
    """MLE over the documents whose mean segment score is at most `threshold` (Korbak et al. 2023, section 2).

    Args:
        model: The language model.
        threshold: Largest mean score of a document that is kept.
        **engine: See `Objective`.
    """

    name = "filtering"
    threshold: float
    threshold_of = "documents"

    def __init__(self, model: PreTrainedModel, *, threshold: float, **engine: Any):
        super().__init__(model, threshold=threshold, **engine)

    def view(self) -> View:
        return View(keep_below=self.threshold)
