"""Translates configurations of earlier versions, which run folders keep, into today's keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_OBJECTIVE = (
    "drop_rate", "tag_loss", "tag_texts", "times", "alpha", "beta", "max_weight", "reward_scaling",
)  # fmt: skip
_MEASURES = ("kl", "ranking", "code")
_ATTACKERS = {
    "evolution": ("parents", "niche_similarity"),
    "random": (),
    "model": ("model", "instruction", "temperature", "examples", "example_temperature"),
    "endpoint": (
        "model", "base_url", "api", "key", "instruction", "temperature", "examples", "example_temperature",
    ),
}  # fmt: skip
_ATTACKING = tuple(dict.fromkeys(name for names in _ATTACKERS.values() for name in names))

_SCORED = ("texts_field", "scores_field")

_RENAMED = {
    **{rf"documents\.({name})": r"documents.options.\1" for name in _SCORED},
    **{rf"objective\.({name})": r"objective.options.\1" for name in _OBJECTIVE},
    **{rf"evaluation\.({name})(\..*)?": r"evaluation.measures.\1\2" for name in _MEASURES},
    r"evaluation\.heldout_blocks": "evaluation.measures.heldout.blocks",
    r"evaluation\.scenarios\.(.+)\.guidance": r"evaluation.scenarios.\1.decoder.options.weight",
    r"evaluation\.scenarios\.(.+)\.safe_beams": r"evaluation.scenarios.\1.decoder.options.beams",
    **{rf"redteam\.({name})": r"redteam.attacker.options.\1" for name in _ATTACKING},
}  # fmt: skip
"""Patterns of keys that have moved, each with the template of the new key."""


def renamed(key: str) -> str | None:
    """Returns the present name of a key of an earlier version; `None` if no earlier version had the key."""
    for pattern, now in _RENAMED.items():
        if match := re.fullmatch(pattern, key):
            return match.expand(now)
    return None


def upgrade_documents(documents: Mapping[str, Any]) -> dict[str, Any]:
    """Converts the section `documents` of a run folder or a manifest into its present form."""
    options = {name: documents[name] for name in _SCORED if name in documents}
    kept = {key: value for key, value in documents.items() if key not in options}
    if options and documents.get("format") == "scored":
        kept["options"] = options
    return kept


def upgrade(config: dict[str, Any]) -> dict[str, Any]:
    """Converts the configuration of a run folder, in place, into its present form, and returns it."""
    objective, evaluation = config.get("objective") or {}, config.get("evaluation") or {}
    options = {name: value for name in _OBJECTIVE if (value := objective.pop(name, None)) is not None}
    if options:
        objective["options"] = {**options, **objective.get("options", {})}
    measures = {name: value for name in _MEASURES if (value := evaluation.pop(name, None)) is not None}
    if (blocks := evaluation.pop("heldout_blocks", 512)) != 512:
        measures["heldout"] = {"blocks": blocks}
    if measures:
        evaluation["measures"] = measures | evaluation.get("measures", {})
    for scenario in (evaluation.get("scenarios") or {}).values():
        for name, option in (("guidance", "weight"), ("safe_beams", "beams")):
            if isinstance(scenario, dict) and (value := scenario.pop(name, None)):
                scenario["decoder"] = {"name": name, "options": {option: value}}
    redteam = config.get("redteam") or {}
    if isinstance(redteam.get("attacker"), str):
        name = redteam["attacker"]
        known = {key: redteam.pop(key, None) for key in _ATTACKING}
        options = {key: known[key] for key in _ATTACKERS.get(name, ()) if known[key] is not None}
        redteam["attacker"] = {"name": name, "options": options}
    if config.get("documents"):
        config["documents"] = upgrade_documents(config["documents"])
    executor = (config.get("annotations") or {}).get("executor") or {}
    if executor.get("name") == "local":
        executor.clear()
    return config
