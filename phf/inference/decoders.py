"""How texts are decoded: drawn from the model as it is, from the contrast of its tags, or by safe beams.

Shapes as in `phf.inference.continuous`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from phf.base.errors import ConfigError
from phf.config import ScenarioConfig
from phf.inference.continuous import Decoder, Text
from phf.inference.safe_beams import SafeBeams
from phf.inference.sampler import Sampling
from phf.model.control_tokens import ControlTokens


def find_decoder(scenario: ScenarioConfig, control: ControlTokens) -> Decoder:
    """What decodes a scenario.

    Raises:
        ConfigError: It needs tags that the model has not.
    """
    sampling = Sampling(scenario, tuple(control.banned(scenario)), control.eos_id)
    if scenario.guidance:
        if not control.tags:
            raise ConfigError("guidance: the model has no good and bad tag to contrast; set it to 0")
        single = not control.tags_are_text
        mirrored = {control.tags[0][0]: control.tags[-1][0]} if single else {}
        return Guidance(sampling, scenario.guidance, mirrored)
    if scenario.safe_beams:
        if not control.tags or control.tags_are_text:
            what = "tags are ordinary text" if control.tags else "model has no tags"
            raise ConfigError(f"safe_beams: the {what}: there is no bad one to watch for; set it to 0")
        bad_ids = [token for tag in control.tags[1:] for token in tag]
        return SafeBeams(sampling, scenario.safe_beams, bad_ids)
    return Sampler(sampling)


class Sampler:
    """Draws each token from the model."""

    width = 1

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling

    def step(self, logits_NWV: torch.Tensor, texts: Sequence[Text]) -> tuple[torch.Tensor, None]:
        device = logits_NWV.device
        drawn_N = self.sampling.draw(
            self.combine(logits_NWV),
            torch.tensor([text.request.key for text in texts], device=device),
            torch.tensor([len(text.tokens) for text in texts], device=device),
        )
        for text, token in zip(texts, drawn_N.tolist(), strict=True):
            text.tokens.append(token)
            text.done = token == self.sampling.eos_id or len(text.tokens) == text.request.max_new_tokens
        return self.spread(drawn_N), None

    def combine(self, logits_NWV: torch.Tensor) -> torch.Tensor:
        """The logits to draw from, [N, V]."""
        return logits_NWV[:, 0]

    def spread(self, drawn_N: torch.Tensor) -> torch.Tensor:
        """What each row is told of the drawn tokens, [N, W]."""
        return drawn_N[:, None]


class Guidance(Sampler):
    """Draws from the contrast of good and bad conditioning.

    logits = logits_good + weight (logits_good - logits_bad): DExperts (Liu et al. 2021, arXiv 2105.03023,
    equation 1) with one model in all three roles, which is classifier-free guidance.

    Args:
        sampling: How to draw from these logits.
        weight: 0 draws from the good tag alone.
        mirrored: What a token that is drawn becomes in the bad context: the good tag becomes the bad one.
    """

    width = 2

    def __init__(self, sampling: Sampling, weight: float, mirrored: Mapping[int, int]) -> None:
        super().__init__(sampling)
        self.weight = weight
        self.mirrored = mirrored

    def combine(self, logits_NWV: torch.Tensor) -> torch.Tensor:
        good_NV, bad_NV = logits_NWV.unbind(1)
        return good_NV + self.weight * (good_NV - bad_NV)

    def spread(self, drawn_N: torch.Tensor) -> torch.Tensor:
        mirrored_N = drawn_N.clone()
        for good, bad in self.mirrored.items():
            mirrored_N[drawn_N == good] = bad
        return torch.stack([drawn_N, mirrored_N], 1)
