"""Ties a run folder to one run: its options and its token store must not change."""

from __future__ import annotations

import json
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from phf.base.errors import ConfigError, PhfError
from phf.base.files import write_json, write_text
from phf.config import Config, load_run_config, to_yaml
from phf.config.identity import run_identity
from phf.store.store import TokenStore

_STORE_FILE = "store.json"


def check_same_run(config: Config, store: TokenStore, folder: Path) -> None:
    """Raises a `ConfigError` if a folder holds another run, or a run on another token store."""
    kept = load_run_config(folder)
    if kept is None:
        return
    old, new = run_identity(kept), run_identity(config)
    different = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if different:
        key = different[0]
        raise ConfigError(
            f"{folder} holds a run with {key}={old.get(key)}, not {new.get(key)}: "
            "choose another run.name, or delete the folder"
        )
    path = folder / _STORE_FILE
    if path.is_file() and json.loads(path.read_text())["sha256"] != store.manifest.fingerprint(
        config.scorer.key
    ):
        raise ConfigError(
            f"{folder} holds a run on another token store than the one now in {store.path}: "
            "choose another run.name, or delete the folder"
        )


@rank_zero_only
def claim(config: Config, store: TokenStore, folder: Path) -> None:
    """Creates the run folder, and records which run it belongs to.

    Raises:
        PhfError: The folder cannot be created.
    """
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PhfError(f"run.folder: {folder} cannot be created: {error.strerror}") from error
    fingerprint = store.manifest.fingerprint(config.scorer.key)
    write_json(folder / _STORE_FILE, {"path": str(store.path), "sha256": fingerprint})
    write_text(folder / "config.yaml", to_yaml(config))
