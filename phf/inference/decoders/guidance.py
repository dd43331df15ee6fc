"""Implements the decoder `guidance`: draws from the contrast of good and bad conditioning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from phf.base.errors import ConfigError
from phf.config import option
from phf.inference.decoders.sampling import Sampler
from phf.inference.sampler import Sampling
from phf.model.control_tokens import ControlTokens


@dataclass
class GuidanceOptions:
    """Options of `Guidance`."""

    weight: float = option(1.5, least=0)
    """Weight of the contrast; 0 draws from the good tag alone."""


class Guidance(Sampler):
    """Draws from logits_good + weight (logits_good - logits_bad).

    This is DExperts (Liu et al. 2021, arXiv 2105.03023, equation 1) with one model in all three roles, which
    is the same as classifier-free guidance. Each text takes two rows, one with each tag.
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

    def combine(self, logits_NWV: torch.Tensor) -> torch.Tensor:
        good_NV, bad_NV = logits_NWV.unbind(1)
        return good_NV + self.options.weight * (good_NV - bad_NV)

    def spread(self, drawn_N: torch.Tensor) -> torch.Tensor:
        """Gives both contexts the drawn tokens. A drawn good tag becomes the bad tag in the bad context."""
        mirrored_N = drawn_N.clone()
        if not self.control.tags_are_text:
            mirrored_N[drawn_N == self.control.tags[0][0]] = self.control.tags[-1][0]
        return torch.stack([drawn_N, mirrored_N], 1)
