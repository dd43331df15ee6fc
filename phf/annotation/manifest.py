"""The manifest of annotations: what was scored by what, and how it came out.

Whoever comes first to a folder writes it, and so fixes the list of shards; all others have to agree with it.
Its counts are filled in when all shards are there.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import phf
from phf.annotation.sidecars import count_bad, first_bad, has_begun, read_scores, sidecar_path
from phf.base.errors import ConfigError, PhfError
from phf.base.quantiles import smallest_reaching
from phf.config import Config, ScorerConfig
from phf.documents.documents import Shard
from phf.documents.fingerprints import DECISIVE, shards_difference
from phf.documents.segments import segmenter_identity
from scorers import Scorer

log = logging.getLogger("phf")

_QUANTILES = tuple(percent / 100 for percent in range(1, 100))

# What is filled in when all shards are there.
_SUMMARY = ("counts", "mean", "quantiles")


def identity(
    config: Config, scorer_config: ScorerConfig, scorer: Scorer, shards: Sequence[Shard]
) -> dict[str, Any]:
    """What annotations by a scorer are made of, as it goes into their manifest."""
    documents = asdict(config.documents)
    del documents["max_bad_rows"]
    return {
        "documents": documents,
        "segmenter": segmenter_identity(config.segmenter),
        "scorer": {
            "name": scorer_config.name,
            "options": scorer_config.options,
            "version": scorer.version,
            "fingerprint": scorer.fingerprint,
            "settings": dict(scorer.settings()),
            "measures": scorer.measures,
            # JSON has no infinity.
            "range": [bound if math.isfinite(bound) else None for bound in scorer.range],
        },
        "shards": [{"name": shard.name, "fingerprint": shard.fingerprint()} for shard in shards],
    }


def claim(folder: Path, made_of: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a folder, written now if there is none yet.

    Args:
        folder: Where the annotations are kept.
        made_of: Its `identity`.

    Raises:
        ConfigError: The folder has annotations that are made of something else.
        PhfError: The folder cannot be used.
    """
    path = folder / "manifest.json"
    manifest = {
        "format": 1,
        **made_of,
        "versions": {"phf": phf.__version__, "python": platform.python_version()},
        "counts": None,
    }
    wanted = json.loads(json.dumps(made_of, default=str))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _write(path, manifest, first=True)
        there: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        renewed = _renew(folder, there["shards"], wanted["shards"])
        recount = there["counts"] is not None and not is_complete(folder, there)  # a sidecar was deleted
        if recount:
            there = {key: value for key, value in there.items() if key not in _SUMMARY} | {"counts": None}
        if renewed or recount:
            _write(path, there)
        difference = _difference(there, wanted)
    except OSError as error:
        raise PhfError(f"annotations.path: {error.filename or folder}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PhfError(f"{path} is not the manifest of annotations: delete the folder") from error
    if difference:
        raise ConfigError(
            f"{folder} was annotated with {difference}: choose another annotations.path, or delete the folder"
        )
    return there


def is_complete(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether all shards of a manifest are annotated to their end."""
    return all(sidecar_path(folder, shard["name"]).is_file() for shard in manifest["shards"])


def _renew(folder: Path, old: Sequence[dict[str, str]], new: Sequence[Mapping[str, str]]) -> bool:
    """Takes over what shards are now (a damaged file was replaced) of which nothing is annotated yet."""
    now = {shard["name"]: shard["fingerprint"] for shard in new}
    renewed = False
    for shard in old:
        fingerprint = now.get(shard["name"], shard["fingerprint"])
        if shard["fingerprint"] != fingerprint and not has_begun(folder, shard["name"]):
            shard["fingerprint"], renewed = fingerprint, True
    return renewed


def _write(path: Path, manifest: Mapping[str, Any], *, first: bool = False) -> None:
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(manifest, indent=2, default=str) + "\n", encoding="utf-8")
        if not first:
            temporary.replace(path)
            return
        try:
            os.link(temporary, path)  # unlike a rename, this fails if another process was faster
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """What differs, in words; `None` if annotations made of the one can go on with the other."""
    for key in DECISIVE:
        if old["documents"][key] != new["documents"][key]:
            return f"documents.{key}={old['documents'][key]}, not {new['documents'][key]}"
    if old["segmenter"] != new["segmenter"]:
        return "another segmenter: " + _changed(old["segmenter"], new["segmenter"])
    if old["scorer"]["fingerprint"] != new["scorer"]["fingerprint"]:
        versions = {"version": old["scorer"]["version"]}, {"version": new["scorer"]["version"]}
        settings = old["scorer"]["settings"], new["scorer"]["settings"]
        return "another scorer: " + _changed(versions[0] | settings[0], versions[1] | settings[1])
    shards, now = ({shard["name"]: shard["fingerprint"] for shard in one["shards"]} for one in (old, new))
    return shards_difference(shards, now)


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return ", ".join(f"{key}={old.get(key)}, not {new.get(key)}" for key in keys) or "of the same settings"


def summarize(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Fills in counts and quantiles, once all shards are there.

    Raises:
        PhfError: There is no document among them that could be scored.
    """
    if manifest["counts"] is None:
        manifest = manifest | _summary(folder, [shard["name"] for shard in manifest["shards"]])
        _write(folder / "manifest.json", manifest)
    counts = manifest["counts"]
    if not counts["segments"] and (counts["bad_rows"] or not counts["documents"]):
        raise PhfError(_nothing(folder, [shard["name"] for shard in manifest["shards"]], counts["bad_rows"]))
    log.info(
        "%s: %d segments of %d documents, %s; %d segments without a score, %d bad rows",
        folder, counts["segments"], counts["documents"],
        "no scores" if manifest["mean"] is None else f"mean score {manifest['mean']:.4g}",
        counts["unscored"], counts["bad_rows"],
    )  # fmt: skip
    return manifest


def _summary(folder: Path, shards: Sequence[str]) -> dict[str, Any]:
    batches = [batch for shard in shards for batch in read_scores(folder, shard)]
    every = np.concatenate([scores for scores, _ in batches] or [np.zeros(0, np.float32)])
    known = every[~np.isnan(every)].astype(np.float64)
    quantiles = smallest_reaching(known, _QUANTILES).tolist() if len(known) else []
    return {
        "counts": {
            "documents": sum(documents for _, documents in batches),
            "segments": len(every),
            "unscored": len(every) - len(known),
            "bad_rows": sum(count_bad(folder, shard) for shard in shards),
        },
        "mean": float(known.mean()) if len(known) else None,
        "quantiles": dict(zip(map(str, _QUANTILES), quantiles, strict=False)),
    }


def _nothing(folder: Path, shards: Sequence[str], num_bad: int) -> str:
    for shard in shards:
        first = first_bad(folder, shard)
        if first is not None:
            return (
                f"none of {num_bad} rows can be read and scored; the first is row {first.row} of shard "
                f"{shard}: {first.reason} (set right, delete {folder} and start again)"
            )
    return "documents.path: there is no document in it"
