"""Implements upsampling: maximum likelihood with the good documents several times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from objectives.engine import Needs
from objectives.mle import MLE
from objectives.view import View


@dataclass
class UpsamplingOptions:
    """Options of `Upsampling`."""

    times: int = 2
    """How often a good document appears in each epoch, each time at another place."""

    def __post_init__(self) -> None:
        if self.times < 1:
            raise ValueError(f"times must be at least 1, not {self.times}")


class Upsampling(MLE):
    """MLE on all documents, where good documents appear several times in each epoch.

    A document is good if its mean segment score is at most the threshold. This is a milder form of filtering,
    common in the mixing of corpora (e.g. Gao et al. 2020, arXiv 2101.00027, table 1). Nothing is left out,
    but good text gets a larger share of the token budget.
    """

    name = "upsampling"
    Options = UpsamplingOptions
    options: UpsamplingOptions

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(threshold="documents")

    def view(self) -> View:
        return View(repeat_below=self.threshold, times=self.options.times)
