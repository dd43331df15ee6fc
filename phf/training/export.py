"""The model of a run, written as a folder that other programs load."""

from __future__ import annotations

import json
import logging
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

import phf
from objectives import Objective
from phf.base.errors import PhfError
from phf.config import Config, load_config
from phf.model.build import tag_ids
from phf.model.model_folder import check_output, export_model
from phf.store.store import TokenStore
from phf.training.build import build
from phf.training.checkpoints import checkpoint_name, checkpoint_step, latest_checkpoint
from phf.training.objective import corpus_segmenter

log = logging.getLogger("phf")


def export_checkpoint(run: Path, output: Path, step: int | None = None) -> Path:
    """Writes a checkpoint of a run as a model folder.

    Args:
        run: The run folder; the run may still be going on.
        output: The folder to write.
        step: Which checkpoint; the latest if `None`.

    Raises:
        PhfError: The folder is not a run, or has no such checkpoint, or `output` holds something else.
    """
    output = output.resolve()
    check_output(output)
    if not (run / "config.yaml").is_file():
        raise PhfError(f"{run} is not a run folder: it has no config.yaml")
    config = load_config([str(run / "config.yaml")])
    path = (
        latest_checkpoint(run / "checkpoints")
        if step is None
        else run / "checkpoints" / checkpoint_name(step)
    )
    if path is None or not path.is_file():
        there = ", ".join(sorted(p.name for p in (run / "checkpoints").glob("step-*.ckpt"))) or "none"
        raise PhfError(
            f"{run} has no checkpoint{'' if step is None else f' of step {step}'} (there: {there})"
        )
    store = TokenStore(config.store.path)
    objective, tokenizer = _load(config, store, path)
    facts = facts_of(config, store, objective, tokenizer, checkpoint_step(path))
    model: Any = objective.model
    return export_model(model, tokenizer, facts, output)


def _load(config: Config, store: TokenStore, checkpoint: Path) -> tuple[Objective, Any]:
    """The objective with the weights of a checkpoint, and the tokenizer."""
    objective, tokenizer = build(config, store, optimization=None)
    objective.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
    return objective, tokenizer


def facts_of(
    config: Config, store: TokenStore, objective: Objective, tokenizer: Any, steps: int
) -> dict[str, Any]:
    """What an exported model says of itself, see `phf.model.model_folder`."""
    tags = objective.view().tags
    unknown = {"name": config.scorer.name, "options": config.scorer.options, "measures": "no scores"}
    scorer = store.manifest["scores"].get(config.scorer.key, {}).get("scorer", unknown)
    return {
        "objective": config.objective.name,
        "tags": None
        if tags is None
        else {
            "names": tags.names,  # from the best to the worst
            "ids": tag_ids(tokenizer, tags),
            "thresholds": tags.thresholds,
            "text": tags.texts is not None,
        },
        "threshold": objective.threshold,
        "scorer": {"column": config.scorer.key, **scorer},
        "segmenter": asdict(corpus_segmenter(config, store)),
        "tokens": config.train.tokens_seen + steps * config.train.batch_size * config.model.context_length,
        "eos_token": tokenizer.eos_token,
        "context_length": config.model.context_length,
        "document_mask": config.model.document_mask,
        "store": str(Path(config.store.path).resolve()),
    }


def finish(
    config: Config,
    folder: Path,
    store: TokenStore,
    objective: Objective,
    tokenizer: Any,
    steps: int,
    seconds: float,
) -> None:
    """Exports the model of a run that has come to its end, and writes `run.json`, which says so."""
    if isinstance(objective, FSDPModule):  # of its weights there is only a part in this process
        objective, tokenizer = _load(config, store, folder / "checkpoints" / checkpoint_name(steps))
    facts = facts_of(config, store, objective, tokenizer, steps)
    model: Any = objective.model
    export_model(model, tokenizer, facts, folder / "model")
    record = {
        "name": config.run.name,
        "objective": config.objective.name,
        "tokens": facts["tokens"],
        "steps": steps,
        "wall_seconds": round(seconds, 1),
        "parameters": model.num_parameters(),
        "threshold": objective.threshold,
        "versions": {
            "phf": phf.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "lightning", "transformers")},
        },
        "machine": platform.platform(),
    }
    temporary = folder / ".run.json.tmp"
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    temporary.replace(folder / "run.json")
    log.info(
        "%s: %s tokens in %.0f s; the model is in %s",
        folder,
        f"{facts['tokens']:,}",
        seconds,
        folder / "model",
    )
