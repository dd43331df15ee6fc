"""Implements filtering: maximum likelihood on the documents whose mean score is low enough."""

from __future__ import annotations

from typing import Any

from objectives.engine import Needs
from objectives.mle import MLE
from objectives.view import View


class Filtering(MLE):
    """MLE on the documents whose mean segment score is at most the threshold (Korbak et al. 2023)."""

    name = "filtering"

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(threshold="documents")

    def view(self) -> View:
        return View(keep_below=self.threshold)
