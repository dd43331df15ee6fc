"""Whose a run folder is: what makes two calls of `pretrain` the same run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from phf.base.errors import ConfigError, PhfError
from phf.config import Config, load_config, to_yaml
from phf.store.store import TokenStore

# What may differ when a run goes on: where it runs and what it writes, not what it computes.
_FREE = (
    "evaluation", "redteam", "tamper", "annotations", "documents", "run",
    "train.devices", "train.nodes", "train.accelerator", "train.num_workers", "train.micro_batch_size",
    "train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "train.loggers",
    "train.peak_flops", "train.profile_steps", "train.strategy", "model.compile",
    "model.activation_checkpointing",
)  # fmt: skip

_STORE_FILE = "store.json"


def check_same_run(config: Config, store: TokenStore, folder: Path) -> None:
    """Raises a `ConfigError` if there is a run in a folder, and it is another, or on another store."""
    if not (folder / "config.yaml").is_file():
        return
    old, new = _identity(load_config([str(folder / "config.yaml")])), _identity(config)
    different = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if different:
        key = different[0]
        raise ConfigError(
            f"{folder} holds a run with {key}={old.get(key)}, not {new.get(key)}: "
            "choose another run.name, or delete the folder"
        )
    path = folder / _STORE_FILE
    if path.is_file() and json.loads(path.read_text())["sha256"] != _fingerprint(config, store):
        raise ConfigError(
            f"{folder} holds a run on another token store than there is in {store.path} now: "
            "choose another run.name, or delete the folder"
        )


@rank_zero_only
def claim(config: Config, store: TokenStore, folder: Path) -> None:
    """Makes the run folder, and writes down whose it is.

    Raises:
        PhfError: The folder cannot be made.
    """
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PhfError(f"run.folder: {folder} cannot be made: {error.strerror}") from error
    made_on = {"path": str(store.path), "sha256": _fingerprint(config, store)}
    for name, text in ((_STORE_FILE, json.dumps(made_on) + "\n"), ("config.yaml", to_yaml(config))):
        temporary = folder / f".{name}.tmp"
        temporary.write_text(text)
        temporary.replace(folder / name)


def _identity(config: Config) -> dict[str, Any]:
    """What makes two configurations the same run, as dotted keys."""
    flat: dict[str, Any] = {}

    def visit(node: Any, prefix: str) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                visit(value, f"{prefix}.{key}" if prefix else key)
        else:
            flat[prefix] = node

    visit(OmegaConf.to_container(OmegaConf.structured(config), resolve=True), "")
    return {k: v for k, v in flat.items() if not any(k == f or k.startswith(f"{f}.") for f in _FREE)}


def _fingerprint(config: Config, store: TokenStore) -> str:
    """What this run uses of a store; scores of another scorer may be added to it."""
    manifest = store.manifest
    used = {key: manifest[key] for key in ("segmenter", "tokenizer", "store", "shards", "counts")}
    used["scores"] = manifest["annotations"].get(config.scorer.key)
    return hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()
