"""Implements conditional training, which puts a good or bad tag before each segment."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from transformers import PreTrainedModel

from objectives.engine import Needs
from objectives.mle import MLE
from objectives.view import Tags, View


@dataclass
class ConditionalOptions:
    """Options of `Conditional`."""

    drop_rate: float = 0.01
    """Share of the segments that get no tag."""
    tag_loss: bool = True
    """Whether the model learns to predict tags, or only reads them (Gao et al. 2025, arXiv 2501.01956)."""
    tag_texts: list[str] | None = None
    """Ordinary text to use instead of control tokens: one text for each tag, from the best to the worst. All
    texts must have the same number of tokens."""

    def __post_init__(self) -> None:
        if not 0 <= self.drop_rate <= 1:
            raise ValueError(f"drop_rate must lie in [0, 1], not {self.drop_rate}")


class Conditional(MLE):
    """MLE on text with a control token before each segment (Korbak et al. 2023, section 2).

    A segment whose score is at most the first threshold gets the best tag. Each further threshold adds one
    tag (Lu et al. 2022, arXiv 2205.13636).
    """

    name = "conditional"
    Options = ConditionalOptions
    options: ConditionalOptions

    @classmethod
    def needs(cls, options: Any) -> Needs:
        return Needs(threshold="segments", levels=True)

    def __init__(self, model: PreTrainedModel, options: Any = None, **engine: Any):
        super().__init__(model, options, **engine)
        texts = self.options.tag_texts
        if any(low >= high for low, high in pairwise(self.thresholds)):
            raise ValueError(f"thresholds must ascend, not {', '.join(f'{x:g}' for x in self.thresholds)}")
        if texts is not None and not len(self.thresholds) + 1 == len(texts) == len(set(texts)):
            raise ValueError(
                f"tag_texts must be {len(self.thresholds) + 1} different texts, from the best tag to the "
                f"worst, not {list(texts)}"
            )

    def view(self) -> View:
        options = self.options
        texts = None if options.tag_texts is None else tuple(options.tag_texts)
        return View(tags=Tags(self.thresholds, options.drop_rate, texts, options.tag_loss))
