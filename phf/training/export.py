"""Exports a checkpoint as a Hugging Face model folder: the verb `export`."""

from __future__ import annotations

import logging
import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

from objectives.engine import Objective
from phf.annotation.manifest import ScorerRecord
from phf.base.errors import PhfError
from phf.base.files import is_folder, write_json
from phf.base.typed_json import to_json
from phf.base.version import __version__
from phf.config import Config, load_run_config
from phf.model.build import tag_ids
from phf.model.model_folder import (
    RUN_FILE,
    ModelFacts,
    RunRecord,
    TagFacts,
    check_output,
    export_model,
)
from phf.store.store import TokenStore
from phf.training.build import build
from phf.training.checkpoints import checkpoint_name, checkpoint_step, latest_checkpoint
from phf.training.objective import corpus_segmenter

log = logging.getLogger("phf")


def export_checkpoint(run: Path, output: Path, step: int | None = None) -> Path:
    """Writes a checkpoint of a run as a model folder.

    Args:
        run: The run folder. The run may be unfinished.
        output: The folder to write.
        step: The step of the checkpoint; `None` for the latest checkpoint.

    Raises:
        PhfError: The folder is not a run, has no such checkpoint or no token store, or `output` holds
            something other than an exported model.
    """
    output = output.resolve()
    check_output(output)
    config = load_run_config(run)
    if config is None:
        raise PhfError(f"{run} is not a run folder: it has no config.yaml")
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
    if not is_folder(config.store.path):
        raise PhfError(
            f"the token store of {run}, {config.store.path}, is not here: run this in the folder in which "
            "the run was started"
        )
    store = TokenStore(config.store.path)
    objective, tokenizer = _load(config, store, path)
    facts = facts_of(config, store, objective, tokenizer, checkpoint_step(path))
    model: Any = objective.model
    return export_model(model, tokenizer, facts, output)


def _load(config: Config, store: TokenStore, checkpoint: Path) -> tuple[Objective, Any]:
    """Builds the objective, loads the weights of a checkpoint into it, and returns it with the tokenizer."""
    objective, tokenizer = build(config, store, optimization=None)
    objective.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
    return objective, tokenizer


def facts_of(
    config: Config, store: TokenStore, objective: Objective, tokenizer: Any, steps: int
) -> ModelFacts:
    """Collects the facts about a model that are exported with it."""
    tags, column = objective.view().tags, config.scorer.key
    known = store.manifest.scores.get(column)
    unknown = ScorerRecord(config.scorer.name, "no scores", dict(config.scorer.options))
    return ModelFacts(
        objective=config.objective.name,
        tags=None
        if tags is None
        else TagFacts(
            list(tags.names),
            [list(ids) for ids in tag_ids(tokenizer, tags)],
            list(tags.thresholds),
            tags.texts is not None,
        ),
        threshold=objective.threshold,
        scorer=replace(known.scorer if known else unknown, column=column),
        segmenter=corpus_segmenter(config, store),
        tokens=config.train.tokens_seen + steps * config.train.batch_size * config.model.context_length,
        eos_token=tokenizer.eos_token,
        context_length=config.model.context_length,
        document_mask=config.model.document_mask,
        store=str(Path(config.store.path).resolve()),
        uses_scores=objective.needs(objective.options).scores,
    )


def finish(
    config: Config,
    folder: Path,
    store: TokenStore,
    objective: Objective,
    tokenizer: Any,
    steps: int,
    seconds: float,
) -> None:
    """Exports the model of a finished run, and writes `run.json`, which marks the run as finished."""
    if isinstance(objective, FSDPModule):  # this process holds only a part of the weights
        objective, tokenizer = _load(config, store, folder / "checkpoints" / checkpoint_name(steps))
    facts = facts_of(config, store, objective, tokenizer, steps)
    model: Any = objective.model
    export_model(model, tokenizer, facts, folder / "model")
    record = RunRecord(
        config.run.name,
        config.objective.name,
        facts.tokens,
        steps,
        round(seconds, 1),
        model.num_parameters(),
        objective.threshold,
        facts.uses_scores,
        {
            "phf": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "lightning", "transformers")},
        },
        platform.platform(),
    )
    write_json(folder / RUN_FILE, to_json(record))
    log.info(
        "%s: %s tokens in %.0f s; the model is in %s",
        folder,
        f"{facts.tokens:,}",
        seconds,
        folder / "model",
    )
