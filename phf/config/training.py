"""Defines the sections `objective`, `model` and `train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from phf.base.errors import ConfigError
from phf.config.checks import check, check_threshold, parse_span
from phf.config.fields import option


@dataclass
class ObjectiveConfig:
    """The training objective: how the model learns from the scores."""

    name: str = option("mle", path=True)
    """An objective from `phf objectives`, `package.module:Class` or `file.py:Class`."""
    options: dict[str, Any] = option(factory=dict, belongs_to="name")
    """Options of the objective; `phf objectives NAME` lists them."""
    threshold: Any = None
    """Scores up to and including this value are good: a number, or a quantile of the corpus such as `q0.05`.
    Filtering and upsampling compare it with the mean score of a document. Conditional training also takes
    an ascending list of n thresholds, which makes n + 1 tags."""
    quantile_of: Literal["tokens", "segments"] = "tokens"
    """The unit in which quantiles are counted. Objectives that compare mean scores of documents always count
    documents."""
    start: float = option(0.0, least=0, below=1)
    """For objectives that change the text (tags, filters): the share of the token budget, at the beginning
    of the run, that is spent on plain text."""
    cooldown: float = option(0.0, least=0, below=1)
    """For the same objectives: the share of the token budget, at the end of the run, that is spent on plain
    text again."""

    @property
    def thresholds(self) -> list[float | str]:
        """The thresholds as a list; empty if there is none."""
        if self.threshold is None:
            return []
        return self.threshold if isinstance(self.threshold, list) else [self.threshold]

    def __post_init__(self) -> None:
        check(self.threshold != [], "objective.threshold must not be an empty list; leave it out")
        for threshold in self.thresholds:
            check_threshold(threshold, "objective.threshold")
        check(
            self.start + self.cooldown < 1 or max(self.start, self.cooldown) >= 1,
            f"objective.start and cooldown leave nothing of the budget: {self.start} and {self.cooldown}",
        )


@dataclass
class ModelConfig:
    """The language model."""

    start_from: str | None = option(None, path=True)
    """Weights to start from: a Hugging Face name, a model folder, or a run folder. Null: random weights."""
    architecture: str = "gpt2"
    """The `transformers` model type to build with random weights: gpt2, gpt_neox, llama, ..."""
    config: dict[str, Any] = option(factory=dict, belongs_to="architecture")
    """Fields of the architecture's configuration. The vocabulary size comes from the tokenizer."""
    context_length: int = option(1024, least=2)
    """Tokens in a block."""
    head: Literal["fused", "plain"] = "fused"
    """`fused` computes loss and gradient chunk by chunk, without the tokens x vocabulary matrix of logits.
    `plain` computes the whole matrix."""
    document_mask: bool = False
    """Keep attention within each document of a block, and restart positions at each document."""
    activation_checkpointing: bool = option(False, free=True)
    """Keep only the input of each transformer block, and recompute the rest in the backward pass. This takes
    much less memory and about a third more time."""
    compile: bool | Literal["auto"] = option("auto", free=True)
    """Compile the transformer blocks with `torch.compile`. `auto`: on a GPU, in runs of 200 steps or more."""


@dataclass
class TrainConfig:
    """The pretraining run. Token counts include control tokens and `<|endoftext|>`."""

    tokens: int = option(3_300_000_000, least=1)
    """The token budget. The run stops after the last whole optimizer step within the budget."""
    tokens_seen: int = option(0, least=0)
    """Tokens that the model has seen before the run starts (finetuning with feedback). They count towards
    the budget."""
    batch_size: int = option(64, least=1)
    """Blocks in an optimizer step, over all devices."""
    micro_batch_size: int | None = option(None, least=1, free=True)
    """Blocks in one forward pass on one device. Null: the device's whole share of an optimizer step."""
    learning_rate: float = option(5e-4, above=0)
    """Peak learning rate."""
    schedule: Literal["linear", "cosine", "wsd", "constant"] = "linear"
    """The learning rate after the warm-up. `linear` and `cosine` fall to the minimum over the rest of the
    run. `wsd` stays at the peak and falls at the end. `constant` stays at the peak."""
    warmup: int | float | str = 0.01
    """How long the learning rate rises to its peak: a share of the run, `500 steps` or `1e7 tokens`."""
    decay: int | float | str = 0.2
    """For `wsd`: how long the learning rate falls at the end of the run, written like `warmup`."""
    decay_shape: Literal["linear", "cosine", "sqrt", "square"] = "linear"
    """For `wsd`: the shape of the fall. After a share x of the fall, `linear` leaves 1 - x of its height,
    `sqrt` leaves 1 - sqrt(x) and `square` leaves (1 - x)^2."""
    min_learning_rate: float = option(0.0, least=0, most=1)
    """The learning rate at the end of the schedule, as a share of the peak."""
    weight_decay: float = option(0.1, least=0)
    """AdamW's weight decay. It applies to matrices only, not to biases and norms."""
    decay_embeddings: bool = True
    """Whether the weight decay also applies to embeddings."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    """AdamW's betas."""
    gradient_clip: float | None = option(1.0, above=0)
    """The gradient is scaled down to this norm if its norm is larger; null never clips."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "auto"] = "auto"
    """Numerical precision (Lightning's names). `auto`: bf16-mixed on a GPU or CPU with bfloat16 instructions,
    otherwise 32-true."""
    accelerator: str = option("auto", free=True)
    """`auto`, `cpu` or `gpu` (Lightning's names)."""
    devices: int | Literal["auto"] = option("auto", least=1, free=True)
    """Devices on each node (on CPU: processes). `auto`: every GPU, or one process on CPU."""
    nodes: int = option(1, least=1, free=True)
    """Number of nodes."""
    strategy: Literal["ddp", "fsdp"] = option("ddp", free=True)
    """How several devices share a model. `ddp` keeps the whole model on each device. `fsdp` (FSDP2) keeps a
    part of the weights and of the optimizer state on each device, and gathers the weights of a transformer
    block only while the block is computed."""
    num_workers: int = option(0, least=0, free=True)
    """Data-loading processes for each device."""
    seed: int = option(42, least=0)
    """Decides the initial weights, the data order, which tags are dropped, and dropout."""
    log_every: int = option(10, least=1, free=True)
    """Optimizer steps between two log lines."""
    heldout_every: int | float | str | None = option(None, free=True)
    """Interval between two measurements of the held-out loss: a number of steps, `1e7 tokens`, or a share of
    the run. Null: twenty measurements in a run."""
    heldout_blocks: int = option(256, least=1, free=True)
    """Blocks of held-out text in each measurement."""
    samples_every: int | float | str | None = option(None, free=True)
    """Interval between two batches of scored samples: a number of steps, `1e7 tokens`, or a share of the run.
    Null: no samples during training."""
    samples: int = option(32, least=1, free=True)
    """Samples in each of these batches. They are drawn as in the first scenario of `evaluation`."""
    checkpoint_every: int | float | str | None = option(None, free=True)
    """Interval between two checkpoints: a number of steps, `1e9 tokens`, or a share of the run. Null: ten
    checkpoints in a run."""
    keep_checkpoints: int = option(1, least=1, free=True)
    """How many of the latest checkpoints are kept."""
    loggers: list[str] = option(factory=lambda: ["csv", "tensorboard"], free=True)
    """Where metrics are logged: any of `csv`, `tensorboard` and `wandb`."""
    peak_flops: float | None = option(None, above=0, free=True)
    """Peak FLOP/s of a device in matrix products, for the model FLOPs utilization (MFU). Null: the value is
    known for common GPUs; other devices get no MFU."""
    overfit_steps: int | None = option(None, least=1)
    """For debugging: repeat the blocks of this many steps, the first ones of the run. The loss of a working
    setup then goes to 0."""
    profile_steps: int | None = option(None, least=1, free=True)
    """Record this many steps with torch's profiler, after 5 skipped ones, in `profile/` of the run folder."""

    def __post_init__(self) -> None:
        for name in ("warmup", "decay", "heldout_every", "samples_every", "checkpoint_every"):
            self._check_span(name, count_of_steps=name.endswith("_every"))
        check(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"train.betas must be two numbers in [0, 1), not {self.betas}",
        )
        if self.strategy == "fsdp":
            check(self.precision != "16-mixed", "train.precision: fsdp cannot do 16-mixed; use bf16-mixed")
            check(self.samples_every is None, "train.samples_every: fsdp draws no samples; leave it out")
        check(self.tokens_seen < max(1, self.tokens), "train.tokens_seen must be below train.tokens")
        unknown = set(self.loggers) - {"csv", "tensorboard", "wandb"}
        check(
            not unknown,
            f"train.loggers: no logger {', '.join(sorted(unknown))}; there are csv, tensorboard, wandb",
        )

    def _check_span(self, name: str, *, count_of_steps: bool) -> None:
        value = getattr(self, name)
        if count_of_steps and (value is None or (isinstance(value, int) and value >= 1)):
            return
        if count_of_steps and value == 0:
            raise ConfigError(f"train.{name} must be at least 1 or null, not {value}")
        try:
            parse_span(value)
        except ConfigError as error:
            raise ConfigError(f"train.{name} {error}") from None
