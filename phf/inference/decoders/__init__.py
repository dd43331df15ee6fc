"""Finds decoders by name."""

from __future__ import annotations

from phf.base.errors import ConfigError
from phf.config import DecoderConfig, ScenarioConfig, read_options
from phf.inference.decoders.base import Decoder
from phf.inference.sampler import Sampling
from phf.inference.tag_rule import tag_rule
from phf.model.control_tokens import ControlTokens
from scorers.open_set import OpenSet

DECODERS: OpenSet[Decoder] = OpenSet(
    "decoder",
    Decoder,  # type: ignore[type-abstract]
    {
        "guidance": "phf.inference.decoders.guidance:Guidance",
        "safe_beams": "phf.inference.decoders.safe_beams:SafeBeams",
        "sampling": "phf.inference.decoders.sampling:Sampler",
    },
    ConfigError,
)
"""Every decoder. A package adds one with an entry point of the group `phf.decoders`."""


def find_decoder(scenario: ScenarioConfig, control: ControlTokens) -> Decoder:
    """Makes the decoder of a scenario.

    Raises:
        ConfigError: There is no decoder of this name, it has no such option, or the model lacks the tags
            that it needs.
    """
    cls, options = check_decoder(scenario.decoder)
    banned = tuple(control.banned(scenario))
    sampling = Sampling(scenario, banned, control.eos_id, tag_rule(scenario, control))
    return cls(sampling, control, options)


def check_decoder(config: DecoderConfig) -> tuple[type[Decoder], object]:
    """Finds the class of a configured decoder, and reads its options.

    Raises:
        ConfigError: There is no decoder of this name, or it has no such option.
    """
    cls = DECODERS.find(config.name)
    return cls, read_options(cls.Options, config.options, "decoder.options", config.name)
