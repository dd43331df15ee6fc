"""Three ways to pretrain the same model on the same blocks with the same optimizer.

`ours` is `phf pretrain` itself. The others compute an objective from the whole matrix of logits:
`hf_trainer` with the Trainer of `transformers` and a `compute_loss`, as the authors of the paper do it,
`plain_loop` with a compiled model and a loop, as nanoGPT does it. Both have `mle` and `awr`.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from synthetic import SCORER
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from turns import Pace

from objectives.optimization import Optimization
from objectives.view import View
from phf.blocks.datamodule import StepBlocks, TrainingBlocks
from phf.blocks.packed import PackedView
from phf.config import Config, load_config
from phf.model.build import build_model
from phf.store.store import TokenStore
from phf.training.objective import OBJECTIVES
from phf.training.run import pretrain

# Layers, width, heads.
MODELS = {"tiny": (2, 32, 2), "4x256": (4, 256, 4), "8x512": (8, 512, 8), "gpt2-small": (12, 768, 12)}

# Scores are the fourth power of uniform numbers: thresholds are the mean, the 5 % quantile and the median.
OBJECTIVE_OPTIONS = {
    "mle": [],
    "filtering": ["objective.threshold=0.2"],
    "upsampling": ["objective.threshold=0.2"],
    "conditional": ["objective.threshold=6e-6", "objective.options.drop_rate=0.01"],
    "masking": ["objective.threshold=0.06"],
    "unlikelihood": ["objective.threshold=0.06", "objective.options.alpha=1"],
    "rwr": ["objective.options.beta=1"],
    "awr": ["objective.options.beta=1", "objective.options.alpha=0.5"],
}


def run_config(arguments: argparse.Namespace, folder: Path, objective: str) -> Config:
    """The configuration of a run over the synthetic store in `folder / "store"`.

    Args:
        arguments: Those of `add_options`.
        folder: Of the store, and of the runs.
        objective: One of `OBJECTIVE_OPTIONS`.
    """
    layers, width, heads = MODELS[arguments.model]
    dropout = "resid_pdrop: 0.0, embd_pdrop: 0.0, attn_pdrop: 0.0"
    steps = (
        arguments.turns + 1
    ) * arguments.steps + 1  # the end of a run, where it is saved, is not measured
    return load_config(
        [
            f"store.path={folder / 'store'}",
            f"run.folder={folder / objective}",
            f"scorer.column={SCORER}",
            f"objective.name={objective}",
            *OBJECTIVE_OPTIONS[objective],
            f"model.config={{n_layer: {layers}, n_embd: {width}, n_head: {heads}, {dropout}}}",
            f"model.context_length={arguments.context}",
            f"model.compile={not arguments.no_compile}",
            f"train.batch_size={arguments.batch}",
            f"train.tokens={steps * arguments.batch * arguments.context}",
            f"train.precision={arguments.precision}",
            f"train.accelerator={arguments.accelerator}",
            "train.devices=1",
            f"train.checkpoint_every={steps}",
            "train.loggers=[csv]",
        ]
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of every benchmark that trains."""
    parser.add_argument("--model", choices=MODELS, default="4x256", help="layers x width (default: 4x256)")
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--context", type=int, default=256, help="tokens of a block (default: 256)")
    parser.add_argument("--batch", type=int, default=8, help="blocks of a step (default: 8)")
    parser.add_argument("--steps", type=int, default=2, help="of a turn (default: 2)")
    parser.add_argument("--turns", type=int, default=9, help="that count (default: 9)")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--no-compile", action="store_true", help="compile none of them")
    parser.add_argument("--output", type=Path, help="a folder for the figures")


def save(folder: Path | None, name: str, results: object) -> None:
    """Writes what was found as JSON into a folder, if one was asked for."""
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def describe(arguments: argparse.Namespace) -> str:
    """When, on what, and what is trained, in a line."""
    machine = torch.cuda.get_device_name() if arguments.accelerator == "gpu" else platform.machine()
    return (
        f"{date.today()}, torch {torch.__version__}, {machine}, {torch.get_num_threads()} threads; "
        f"{arguments.model}, vocabulary {arguments.vocabulary}, "
        f"{arguments.batch} x {arguments.context} tokens a step, {arguments.precision}"
    )


def ours(config: Config, pace: Pace) -> None:
    """`phf pretrain`."""

    def on_train_batch_end(self: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pace(outputs["loss"])

    # A contender has its process for itself.
    OBJECTIVES.find(config.objective.name).on_train_batch_end = on_train_batch_end  # type: ignore[method-assign]
    pretrain(config)


class WithLoss(nn.Module):
    """A language model, a value head, and the loss of an objective on the logits.

    Args:
        model: The language model.
        config: Its objective: mle, or awr with raw rewards.
    """

    def __init__(self, model: Any, config: Config):
        super().__init__()
        self.model = model
        self.objective = config.objective
        if self.objective.name not in ("mle", "awr"):
            raise ValueError(f"the peers have mle and awr, not {self.objective.name}")
        if self.objective.name == "awr":
            self.value_head = nn.Linear(model.config.hidden_size, 1, bias=False)
            nn.init.zeros_(self.value_head.weight)

    def forward(self, tokens: Tensor, scores: Tensor) -> Tensor:
        """Mean loss of blocks, each a token longer than the context: [B, T + 1] twice -> []."""
        labels, awr = tokens[:, 1:].flatten(), self.objective.name == "awr"
        output = self.model(tokens[:, :-1].contiguous(), output_hidden_states=awr, use_cache=False)
        nll = F.cross_entropy(output.logits.flatten(0, 1).float(), labels, reduction="none")
        if not awr:
            return nll.mean()
        value = -self.value_head(output.hidden_states[-1]).float().sigmoid().flatten()
        advantage = -scores[:, 1:].flatten() - value
        alpha, beta = (self.objective.options[name] for name in ("alpha", "beta"))
        weight = (advantage.detach() / beta).exp().clamp(max=1000)
        return (alpha * weight * nll + (1 - alpha) * advantage**2).mean()


def plain_loop(config: Config, pace: Pace) -> None:
    """A loop around a compiled model."""
    device = torch.device("cuda" if config.train.accelerator == "gpu" else "cpu")
    model, optimizer, schedule = _peer(config, device)
    compute = torch.compile(model) if config.model.compile else model
    for batch in _batches(config):
        tokens, scores = (batch[key].to(device, non_blocking=True) for key in ("tokens", "scores"))
        with torch.autocast(device.type, torch.bfloat16, enabled=config.train.precision == "bf16-mixed"):
            loss = compute(tokens, scores)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.train.gradient_clip or float("inf"))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        pace(loss)


def hf_trainer(config: Config, pace: Pace) -> None:
    """The Trainer of `transformers`."""
    on_gpu = config.train.accelerator == "gpu"
    model, optimizer, schedule = _peer(config, torch.device("cuda" if on_gpu else "cpu"))

    class Authors(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Tensor:
            self.loss = model(**inputs)
            return self.loss

    class Paced(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            pace(trainer.loss)

    arguments = TrainingArguments(
        output_dir=str(Path(config.run.folder)),
        max_steps=schedule_steps(config),
        per_device_train_batch_size=config.train.batch_size,
        max_grad_norm=config.train.gradient_clip or 0.0,
        bf16=config.train.precision == "bf16-mixed",
        use_cpu=not on_gpu,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    trainer = Authors(
        model, arguments, train_dataset=_Blocks(config), optimizers=(optimizer, schedule), callbacks=[Paced()]
    )
    trainer.train()


def schedule_steps(config: Config) -> int:
    """Optimizer steps of a run."""
    return config.train.tokens // (config.train.batch_size * config.model.context_length)


def _peer(config: Config, device: torch.device) -> tuple[WithLoss, torch.optim.Optimizer, LambdaLR]:
    """Model, optimizer and schedule, as `phf pretrain` makes them."""
    tokenizer = TokenStore(config.store.path).tokenizer()
    model = WithLoss(build_model(config.model, tokenizer, config.train.seed), config).to(device)
    steps = schedule_steps(config)
    optimization = Optimization(
        total_steps=steps,
        learning_rate=config.train.learning_rate,
        schedule=config.train.schedule,
        warmup_steps=round(config.train.warmup * steps),
        weight_decay=config.train.weight_decay,
        betas=(config.train.betas[0], config.train.betas[1]),
    )
    optimizer = optimization.build(model, fused=True)
    return model, optimizer, LambdaLR(optimizer, optimization.factor)


def _dataset(config: Config) -> TrainingBlocks:
    store = TokenStore(config.store.path)
    view = PackedView(
        store.split("train"),
        View(),
        scorer=config.scorer.key,
        context_length=config.model.context_length,
        seed=config.train.seed,
        eos_id=store.tokenizer().eos_token_id,
    )
    return TrainingBlocks(view, 0, config.train.batch_size)


def _batches(config: Config) -> DataLoader:
    size = config.train.batch_size
    return DataLoader(
        _dataset(config),
        batch_sampler=StepBlocks(0, size, size, 0, 1),
        collate_fn=_as_is,
        pin_memory=config.train.accelerator == "gpu",
    )


def _as_is(batch: Any) -> Any:
    return batch


class _Blocks(IterableDataset):
    """The same blocks in the same order, one at a time."""

    def __init__(self, config: Config):
        self.config = config

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in _batches(self.config):
            for tokens, scores in zip(batch["tokens"], batch["scores"], strict=True):
                yield {"tokens": tokens, "scores": scores}


CONTENDERS: dict[str, Callable[[Config, Pace], None]] = {
    "ours": ours,
    "Trainer": hf_trainer,
    "plain loop": plain_loop,
}
