"""What several sections of the configuration check in the same way."""

from __future__ import annotations

from pathlib import Path

from phf.errors import ConfigError


def check(condition: bool, message: str) -> None:
    """Raises a `ConfigError` with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def home(path: str) -> str:
    """The path with the home folder for a leading `~`, which a shell leaves as it is after `key=`."""
    return str(Path.home() / path[2:]) if path.startswith("~/") else path


def parse_quantile(threshold: str) -> float:
    """The share in a threshold such as `q0.05`.

    Raises:
        ConfigError: It is no quantile.
    """
    try:
        share = float(threshold.removeprefix("q")) if threshold.startswith("q") else -1.0
    except ValueError:
        share = -1.0
    check(
        0 <= share <= 1,
        f"objective.threshold must be a number or a quantile such as q0.05, not {threshold!r}",
    )
    return share
