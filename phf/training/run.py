"""The verb `pretrain`: a token store in, a run folder with an exported model out."""

from __future__ import annotations

import json
import logging
import platform
import sys
import warnings
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import HalfPrecision as LightningHalfPrecision
from transformers.utils.logging import disable_progress_bar

import phf
from objectives import BAD_TAG, GOOD_TAG, Objective, Optimization, View
from objectives.view import Tags
from phf.config import Config, TrainConfig, load_config
from phf.data.module import Blocks
from phf.data.packed import PackedView
from phf.data.store import Split, TokenStore
from phf.errors import ConfigError, PhfError
from phf.model.build import add_control_tokens, build_model, can_compile
from phf.model.export import check_output, export_model
from phf.training.checkpoints import (
    Checkpoints,
    RequeueError,
    check_checkpoint,
    checkpoint_name,
    checkpoint_step,
    latest_checkpoint,
)
from phf.training.claim import check_same_run, claim
from phf.training.logs import Metrics, MetricsFile, loggers
from phf.training.objective import build_objective, corpus_segmenter, objective_class
from phf.training.samples import Samples

log = logging.getLogger("phf")


class HalfPrecision(LightningHalfPrecision):
    """All weights in bfloat16, and the scores as they are: a threshold needs their digits."""

    def convert_input(self, data: Any) -> Any:
        return data


def pretrain(config: Config) -> Path:
    """Trains a model, or goes on with a run that was stopped, and exports it.

    Args:
        config: The configuration; it is kept in the run folder.

    Returns:
        The run folder: `config.yaml`, `run.json`, `metrics.csv`, `checkpoints/`, `model/`.

    Raises:
        ConfigError: The configuration contradicts itself, the store, or the run in the folder.
        PhfError: Store or checkpoint cannot be used, or the loss is not finite.
        RequeueError: The run was asked to stop and has saved a checkpoint.
    """
    _quiet()
    folder = Path(config.run.folder)
    store = TokenStore(config.store.path)
    objective_class(config)
    check_same_run(config, store, folder)
    if (folder / "run.json").is_file():
        log.info("%s is finished: nothing to do", folder)
        return folder
    train = config.train
    devices, accelerator = _devices(train)
    micro_batch = _micro_batch(train, devices * train.nodes)
    tokens_per_step = train.batch_size * config.model.context_length
    total_steps = (train.tokens - train.tokens_seen) // tokens_per_step
    if total_steps < 1:
        raise ConfigError(
            f"train.tokens: {train.tokens - train.tokens_seen:,} tokens are less than one step "
            f"of {tokens_per_step:,}"
        )
    objective, tokenizer = _build(config, store, total_steps)
    data = _data(config, store, objective, tokenizer, micro_batch)
    claim(config, store, folder)

    metrics_file = MetricsFile(folder / "metrics.csv", tokens_per_step, train.tokens_seen)
    metrics = Metrics(train.log_every, train.heldout_every, tokens_per_step, total_steps)
    checkpoints = Checkpoints(folder / "checkpoints", train.checkpoint_every, train.keep_checkpoints, metrics)
    callbacks: list[Callback] = [metrics, checkpoints]
    if train.samples_every:
        callbacks.append(Samples(config, store, tokenizer, metrics))
    precision = _precision(train, accelerator)
    plugins: list[Any] = [HalfPrecision("bf16-true")] if precision == "bf16-true" else []
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # requeueing is ours: see Checkpoints
    accumulate = train.batch_size // (micro_batch * devices * train.nodes)
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=train.nodes,
        strategy="ddp" if devices * train.nodes > 1 else "auto",
        precision=None if precision == "bf16-true" else precision,
        plugins=plugins,
        max_steps=total_steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        num_sanity_val_steps=0,
        logger=loggers(train.loggers, folder, config.run.name, metrics_file),
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    checkpoint = latest_checkpoint(folder / "checkpoints")
    if checkpoint is not None:
        check_checkpoint(checkpoint)
        log.info("going on from %s", checkpoint)
    metrics_file.resume_from(0 if checkpoint is None else checkpoint_step(checkpoint))
    _compile(config, objective, total_steps)
    _fit(trainer, objective, data, checkpoint)
    if trainer.is_global_zero:
        _finish(config, folder, store, objective, tokenizer, total_steps, checkpoints.wall_seconds)
    trainer.strategy.barrier()
    return folder


def _quiet() -> None:
    """Of the libraries only what a user can act on; Lightning sets its own levels when it is imported."""
    disable_progress_bar()  # one for every file of weights
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers",
        ".*LeafSpec",
        ".*resuming from a checkpoint that ended",
        ".*`srun` command is available",  # one process is meant, on a node where SLURM is
    ):
        warnings.filterwarnings("ignore", message=message)


def _fit(trainer: L.Trainer, objective: Objective, data: Blocks, checkpoint: Path | None) -> None:
    try:
        trainer.fit(objective, data, ckpt_path=checkpoint, weights_only=True)
    except torch.OutOfMemoryError as error:
        raise PhfError(f"out of memory: set train.micro_batch_size below {data.micro_batch}") from error
    except RequeueError:
        # Lightning kills the process that started the others when one of them ends with another code.
        if trainer.local_rank > 0:
            sys.exit(0)
        raise
    except SystemExit as error:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from error


def _build(config: Config, store: TokenStore, total_steps: int) -> tuple[Objective, Any]:
    train = config.train
    tokenizer = store.tokenizer()
    model = build_model(config.model, tokenizer, train.seed)
    optimization = Optimization(
        total_steps=total_steps,
        learning_rate=train.learning_rate,
        schedule=train.schedule,
        warmup_steps=round(train.warmup * total_steps),
        decay_steps=round(train.decay * total_steps),
        minimum=train.min_learning_rate,
        weight_decay=train.weight_decay,
        betas=(train.betas[0], train.betas[1]),
        gradient_clip=train.gradient_clip,
    )
    objective = build_objective(config, store, model, optimization)
    if objective.view().tags is not None:
        add_control_tokens(model, tokenizer, (GOOD_TAG, BAD_TAG), train.seed, config.model.start_from)
    return objective, tokenizer


def _data(
    config: Config, store: TokenStore, objective: Objective, tokenizer: Any, micro_batch: int
) -> Blocks:
    view = objective.view()
    scorer = config.scorer.key if config.scorer.key in store.scorers else None
    if scorer is None and config.objective.name != "mle":
        raise PhfError(
            f"{store.path} has no scores of {config.scorer.key}, only {', '.join(store.scorers) or 'none'}: "
            "annotate the documents with it and tokenize again"
        )
    tags = (
        [tokenizer.convert_tokens_to_ids(tag) for tag in (GOOD_TAG, BAD_TAG)] if view.tags else [None, None]
    )

    def packed(split: Split, view: View, shuffle: bool) -> PackedView:
        return PackedView(
            store.split(split),
            view,
            scorer=scorer,
            context_length=config.model.context_length,
            seed=config.train.seed,
            eos_id=tokenizer.eos_token_id,
            good_id=tags[0],
            bad_id=tags[1],
            shuffle=shuffle,
        )

    # Held-out text is never filtered, and every segment of it has its tag.
    heldout = View(tags=Tags(view.tags.threshold) if view.tags else None)
    return Blocks(
        packed("train", view, shuffle=True),
        packed("heldout", heldout, shuffle=False) if store.split("heldout").num_documents else None,
        batch=config.train.batch_size,
        micro_batch=micro_batch,
        first_block=config.train.tokens_seen // config.model.context_length,
        heldout_blocks=config.train.heldout_blocks,
        num_workers=config.train.num_workers,
    )


def _compile(config: Config, objective: Objective, total_steps: int) -> None:
    """Compiles the inner network (not the Lightning module, whose logging cannot be compiled)."""
    wanted = config.model.compile
    # Compiling takes about a minute: not worth it for a short run.
    if not wanted or (wanted == "auto" and (total_steps < 200 or not can_compile())):
        return
    objective.model.base_model.compile()


def _devices(train: TrainConfig) -> tuple[int, str]:
    accelerator = train.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("train.accelerator is gpu, and torch finds no GPU on this machine")
    if accelerator not in ("cpu", "gpu"):
        raise ConfigError(f"train.accelerator must be auto, cpu or gpu, not {accelerator!r}")
    if train.devices == "auto":
        return (torch.cuda.device_count() if accelerator == "gpu" else 1), accelerator
    if train.devices < 1:
        raise ConfigError(f"train.devices must be at least 1, not {train.devices}")
    return train.devices, accelerator


def _micro_batch(train: TrainConfig, processes: int) -> int:
    if train.batch_size % processes:
        raise ConfigError(
            f"train.batch_size: {train.batch_size} blocks cannot be shared by {processes} processes"
        )
    share = train.batch_size // processes
    if share % (train.micro_batch_size or share):
        raise ConfigError(
            f"train.micro_batch_size: {train.micro_batch_size} does not divide the {share} of a process"
        )
    return train.micro_batch_size or share


def _precision(train: TrainConfig, accelerator: str) -> Any:
    if train.precision != "auto":
        return train.precision
    if accelerator == "gpu":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    # Twice as fast on a CPU with bfloat16 instructions, slower than float32 on one without.
    native = {"avx512_bf16", "amx_bf16", "sve_bf16"} & {
        k for k, v in torch.cpu.get_capabilities().items() if v
    }
    return "bf16-mixed" if native else "32-true"


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
    objective, tokenizer = _build(config, store, total_steps=1)
    objective.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
    facts = _facts(config, store, objective, tokenizer, checkpoint_step(path))
    model: Any = objective.model
    return export_model(model, tokenizer, facts, output)


def _facts(
    config: Config, store: TokenStore, objective: Objective, tokenizer: Any, steps: int
) -> dict[str, Any]:
    """What an exported model says of itself, see `phf.model.export`."""
    tagged = objective.view().tags is not None
    unknown = {"name": config.scorer.name, "options": config.scorer.options, "measures": "no scores"}
    scorer = store.manifest["scores"].get(config.scorer.key, {}).get("scorer", unknown)
    return {
        "objective": config.objective.name,
        "good_tag": GOOD_TAG if tagged else None,
        "bad_tag": BAD_TAG if tagged else None,
        "threshold": objective.threshold,
        "scorer": {"column": config.scorer.key, **scorer},
        "segmenter": asdict(corpus_segmenter(config, store)),
        "tokens": config.train.tokens_seen + steps * config.train.batch_size * config.model.context_length,
        "eos_token": tokenizer.eos_token,
        "context_length": config.model.context_length,
        "store": str(Path(config.store.path).resolve()),
    }


def _finish(
    config: Config,
    folder: Path,
    store: TokenStore,
    objective: Objective,
    tokenizer: Any,
    steps: int,
    seconds: float,
) -> None:
    facts = _facts(config, store, objective, tokenizer, steps)
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
