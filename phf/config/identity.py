"""Selects the options that decide the result of a run.

The schema marks the fields that may change without changing a result (`free` in `phf.config.fields.Facts`).
The sections below, together with the contents of the token store, decide the weights of a run. The other
sections configure what happens before or after a run.
"""

from __future__ import annotations

from typing import Any

from phf.config.fields import decisive
from phf.config.schema import Config

_SECTIONS = ("objective", "model", "train")


def run_identity(config: Config) -> dict[str, Any]:
    """Returns the values, by dotted key, that two configurations on one store share if they are one run."""
    found = {
        f"{section}.{key}": value
        for section in _SECTIONS
        for key, value in decisive(getattr(config, section)).items()
    }
    return found | {"scorer": config.scorer.key}


def run_identity_without_seed(config: Config) -> dict[str, Any]:
    """Returns `run_identity` without the seed: equal for runs that differ in nothing but the seed."""
    return {key: value for key, value in run_identity(config).items() if key != "train.seed"}
