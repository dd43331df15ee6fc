"""Implements the decoder `guidance`: draws from the contrast of good and bad conditioning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from phf.base.errors import ConfigError
from phf.config import option
from phf.inference.decoders.base import Text
from phf.inference.decoders.sampling import Sampler
from phf.inference.sampler import Sampling
from phf.inference.tag_rule import tokens_written
from phf.model.control_tokens import ControlTokens


@dataclass
class GuidanceOptions:
    """Options of `Guidance`."""

    weight: float = option(1.5, least=0)
    """Weight of the contrast; 0 draws from the good tag alone."""


class Guidance(Sampler):
    """Draws text from logits_good + weight (logits_good - logits_bad), and tags from the good context alone.

    This is DExperts (Liu et al. 2021, arXiv 2105.03023, equation 1) with one model in all three roles, which
    is the same as classifier-free guidance. Each text takes two rows, one with each tag. The contrast is that
    of text: where the model would write a tag, the bad context would find the good one likelier.
    """

    name = "guidance"
    Options = GuidanceOptions
    options: GuidanceOptions
    context_tags = ("good", "bad")
    needs_tags = True
    plain = False
    width = 2

    def __init__(self, sampling: Sampling, control: ControlTokens, options: Any = None) -> None:
        super().__init__(sampling, control, options)
        if sampling.scenario.tag != "good":
            raise ConfigError(
                f"decoder: guidance contrasts the good tag with the bad one: set tag to good, not "
                f"{sampling.scenario.tag}"
            )
        if not control.tags:
            raise ConfigError("decoder: the model has no good and bad tag to contrast; set it to sampling")

    def combine(self, logits_NWV: torch.Tensor, texts: Sequence[Text]) -> torch.Tensor:
        good_NV, bad_NV = logits_NWV.unbind(1)
        contrast_NV = good_NV + self.options.weight * (good_NV - bad_NV)
        if rule := self.sampling.rule:
            for _, tokens, rows in rule.places(good_NV, [text.recent(rule.memory) for text in texts]):
                contrast_NV[rows] = self._of_text(good_NV[rows], bad_NV[rows], tokens)
        return contrast_NV

    def _of_text(self, good_BV: torch.Tensor, bad_BV: torch.Tensor, tags: list[int]) -> torch.Tensor:
        """Contrasts what is not a tag; tags keep their log-probability in the good context."""
        good_BV, bad_BV = good_BV.log_softmax(-1), bad_BV.log_softmax(-1)
        tags_BT = good_BV[:, tags]
        text_BV = good_BV + self.options.weight * (good_BV - bad_BV)
        text_BV[:, tags] = -math.inf
        no_tag_B1 = torch.log1p(-tags_BT.exp().sum(-1, keepdim=True).clamp(max=1))
        text_BV = text_BV.log_softmax(-1) + no_tag_B1
        text_BV[:, tags] = tags_BT
        return text_BV

    def spread(self, drawn_N: torch.Tensor, texts: Sequence[Text]) -> torch.Tensor:
        """Gives both contexts the drawn tokens. A drawn good tag becomes the bad tag in the bad context."""
        good, bad = self.control.tags[0], self.control.tags[-1]
        mirrored = drawn_N.tolist()
        for i, text in enumerate(texts):
            if written := tokens_written(good, text.recent(len(good)), len(good)):
                mirrored[i] = bad[written - 1]
        return torch.stack([drawn_N, drawn_N.new_tensor(mirrored)], 1)
