"""The model, the objective and the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from phf.base.errors import ConfigError
from phf.config.checks import check, home, parse_quantile, parse_span


@dataclass
class ObjectiveConfig:
    """What the model learns from the scores. An option that is null takes the objective's own default."""

    name: str = "mle"
    """mle, filtering, upsampling, conditional, masking, unlikelihood, rwr or awr."""
    threshold: Any = None
    """Scores up to and including it are good: a number, or a quantile of the corpus such as `q0.05`.
    For filtering and upsampling it is held against the mean score of a document. conditional: also a list,
    ascending, with a tag more for each."""
    quantile_of: Literal["tokens", "segments"] = "tokens"
    """What a quantile is counted in (filtering, upsampling: always documents)."""
    start: float = 0.0
    """conditional, filtering, upsampling: share of the budget, at its beginning, in which text is plain."""
    cooldown: float = 0.0
    """conditional, filtering, upsampling: share of the budget, at its end, in which text is plain again."""
    drop_rate: float | None = None
    """conditional: share of the segments that get no control token."""
    tag_loss: bool | None = None
    """conditional: whether the model learns to predict tags, or only reads them."""
    tag_texts: list[str] | None = None
    """conditional: ordinary text instead of control tokens, one for each tag from the best to the worst; as
    many tokens each."""
    times: int | None = None
    """upsampling: how often a good document comes in each epoch."""
    alpha: float | None = None
    """unlikelihood: weight of the unlikelihood term. awr: weight of the policy against the value loss."""
    beta: float | None = None
    """rwr, awr: temperature of the exponential weight; the larger, the closer to mle."""
    max_weight: float | None = None
    """rwr, awr: the weight of a token is cut at this."""
    reward_scaling: Literal["raw", "zscore", "percentile"] | None = None
    """rwr, awr: the reward is minus the score as it is, in standard deviations, or as its rank in [-1, 0]."""

    @property
    def thresholds(self) -> list[float | str]:
        """As a list, whatever it was given as."""
        if self.threshold is None:
            return []
        return self.threshold if isinstance(self.threshold, list) else [self.threshold]

    def __post_init__(self) -> None:
        check(self.threshold != [], "objective.threshold must not be an empty list; leave it out")
        for threshold in self.thresholds:
            if not isinstance(threshold, int | float) or isinstance(threshold, bool):
                parse_quantile(threshold)
        for name in ("start", "cooldown"):
            check(
                0 <= getattr(self, name) < 1,
                f"objective.{name} must lie in [0, 1), not {getattr(self, name)}",
            )
        check(
            self.start + self.cooldown < 1,
            f"objective.start and cooldown leave nothing of the budget: {self.start} and {self.cooldown}",
        )


@dataclass
class ModelConfig:
    """The language model."""

    start_from: str | None = None
    """Weights to start from: a Hugging Face name, a model folder, or a run folder. Null: random weights."""
    architecture: str = "gpt2"
    """The `transformers` model type to build with random weights: gpt2, gpt_neox, llama, ..."""
    config: dict[str, Any] = field(default_factory=dict)
    """Fields of that architecture's configuration; the size of the vocabulary comes from the tokenizer."""
    context_length: int = 1024
    """Tokens in a block."""
    head: Literal["fused", "plain"] = "fused"
    """`fused`: loss and gradient chunk by chunk, without the tokens x vocabulary matrix. `plain`: with it."""
    document_mask: bool = False
    """Attention does not cross documents in a block, and positions start again with each."""
    activation_checkpointing: bool = False
    """Keep only the input of each transformer block and compute the rest again in the backward pass: much
    less memory, about a third more time."""
    compile: bool | Literal["auto"] = "auto"
    """torch.compile of the transformer blocks; `auto`: on a GPU, in runs of 200 steps or more."""

    def __post_init__(self) -> None:
        self.start_from = self.start_from and home(self.start_from)
        check(self.context_length >= 2, f"model.context_length must be at least 2, not {self.context_length}")


@dataclass
class TrainConfig:
    """The pretraining run. Counts of tokens include control tokens and `<|endoftext|>`."""

    tokens: int = 3_300_000_000
    """The budget: the run stops after the last whole optimizer step within it."""
    tokens_seen: int = 0
    """Tokens the model has seen when the run starts (finetuning with feedback); part of the budget."""
    batch_size: int = 64
    """Blocks in an optimizer step, over all devices."""
    micro_batch_size: int | None = None
    """Blocks in one forward pass on one device; null: the whole share of a device at once."""
    learning_rate: float = 5e-4
    """Peak learning rate."""
    schedule: Literal["linear", "cosine", "wsd", "constant"] = "linear"
    """After the warm-up: to the minimum along a line, along a cosine, or level and then down (wsd)."""
    warmup: int | float | str = 0.01
    """How long the learning rate rises to its peak: a share of the run, `500 steps` or `1e7 tokens`."""
    decay: int | float | str = 0.2
    """wsd: how long the learning rate falls at the end of the run; as `warmup`."""
    decay_shape: Literal["linear", "cosine", "sqrt", "square"] = "linear"
    """wsd: along which curve; sqrt is 1 - sqrt(x), square (1 - x)^2 of the part x that is done."""
    min_learning_rate: float = 0.0
    """Where the schedule ends, as a share of the peak."""
    weight_decay: float = 0.1
    """AdamW's weight decay, on matrices only (not on biases and norms)."""
    decay_embeddings: bool = True
    """Whether the weight decay is on embeddings too."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    """AdamW's betas."""
    gradient_clip: float | None = 1.0
    """Largest norm of the gradient; null: never clipped."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "auto"] = "auto"
    """`auto`: bf16-mixed on a GPU or CPU that has instructions for it, else 32-true."""
    accelerator: str = "auto"
    """auto, cpu or gpu (Lightning's names)."""
    devices: int | Literal["auto"] = "auto"
    """Devices (on CPU: processes) on each node; `auto`: every GPU, or one process on CPU."""
    nodes: int = 1
    """Nodes."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """Several devices: `ddp`, each has the whole model; `fsdp`, each keeps a part of weights and optimizer
    and has a block whole while it computes it (FSDP2)."""
    num_workers: int = 0
    """Data-loading processes for each device."""
    seed: int = 42
    """Decides initial weights, data order, dropped tags and dropout."""
    log_every: int = 10
    """Steps between two lines of the log."""
    heldout_every: int | float | str | None = None
    """Steps (or `1e7 tokens`, or a share of the run) between two measurements of the held-out loss;
    null: twenty times a run."""
    heldout_blocks: int = 256
    """Blocks of held-out text measured each time."""
    samples_every: int | float | str | None = None
    """Steps (or `1e7 tokens`, or a share of the run) between two batches of scored samples; null: never."""
    samples: int = 32
    """Samples in each of these batches; drawn as in the first scenario of `evaluation`."""
    checkpoint_every: int | float | str | None = None
    """Steps (or `1e9 tokens`, or a share of the run) between two checkpoints; null: ten times a run."""
    keep_checkpoints: int = 1
    """How many of the latest checkpoints are kept."""
    loggers: list[str] = field(default_factory=lambda: ["csv", "tensorboard"])
    """csv, tensorboard, wandb."""
    peak_flops: float | None = None
    """FLOP/s of a device in matrix products, for the MFU; null: known for common GPUs, no MFU for others."""
    overfit_steps: int | None = None
    """Train on the blocks of the first so many steps again and again: the loss of a sound model goes to 0."""
    profile_steps: int | None = None
    """Record so many steps, after 5 others, with torch's profiler, in the run folder's `profile/`."""

    def __post_init__(self) -> None:
        for name in (
            "tokens",
            "batch_size",
            "nodes",
            "log_every",
            "keep_checkpoints",
            "heldout_blocks",
            "samples",
        ):
            check(getattr(self, name) >= 1, f"train.{name} must be at least 1, not {getattr(self, name)}")
        for name in (
            "micro_batch_size",
            "heldout_every",
            "samples_every",
            "checkpoint_every",
            "overfit_steps",
            "profile_steps",
        ):
            value = getattr(self, name)
            if isinstance(value, float | str) and value != 0:
                self._check_span(name)
            else:
                check(value is None or value >= 1, f"train.{name} must be at least 1 or null, not {value}")
        self._check_span("warmup")
        self._check_span("decay")
        check(
            0 <= self.min_learning_rate <= 1,
            f"train.min_learning_rate must lie in [0, 1], not {self.min_learning_rate}",
        )
        check(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"train.betas must be two numbers in [0, 1), not {self.betas}",
        )
        check(
            self.gradient_clip is None or self.gradient_clip > 0,
            f"train.gradient_clip must be above 0 or null, not {self.gradient_clip}",
        )
        if self.strategy == "fsdp":
            check(self.precision != "16-mixed", "train.precision: fsdp cannot do 16-mixed; take bf16-mixed")
            check(self.samples_every is None, "train.samples_every: fsdp draws no samples; leave it out")
        check(self.learning_rate > 0, f"train.learning_rate must be above 0, not {self.learning_rate}")
        check(
            0 <= self.tokens_seen < self.tokens, "train.tokens_seen must be 0 or more and below train.tokens"
        )
        unknown = set(self.loggers) - {"csv", "tensorboard", "wandb"}
        check(
            not unknown,
            f"train.loggers: no logger {', '.join(sorted(unknown))}; there are csv, tensorboard, wandb",
        )

    def _check_span(self, name: str) -> None:
        try:
            parse_span(getattr(self, name))
        except ConfigError as error:
            raise ConfigError(f"train.{name} {error}") from None
