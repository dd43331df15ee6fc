"""Upsampling: maximum likelihood with the good documents several times."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from objectives.mle import MLE
from objectives.view import View


class Upsampling(MLE):
    """MLE over all documents, of which the good ones come `times` times in each epoch.

    The gentle form of filtering, common in the mixing of corpora (e.g. Gao et al. 2020, arXiv 2101.00027,
    table 1): nothing is left out, and good text has a larger share of the budget.

    Args:
        model: The language model.
        threshold: Largest mean score of a document that is good.
        times: How often it comes, each time in another place.
        **engine: See `Objective`.
    """

    name = "upsampling"
    threshold: float
    threshold_of = "documents"

    def __init__(self, model: PreTrainedModel, *, threshold: float, times: int = 2, **engine: Any):
        super().__init__(model, threshold=threshold, **engine)
        if times < 1:
            raise ValueError(f"times must be at least 1, not {times}")
        self.times = times

    def view(self) -> View:
        return View(repeat_below=self.threshold, times=self.times)
