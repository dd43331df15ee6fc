"""The configuration: one schema for every verb of the command line.

The schema is the dataclasses below. YAML files are merged over its defaults from left to right, then
`key=value` overrides. It is strict: a key that is not in the schema is an error that names the nearest one.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from phf.errors import ConfigError


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _home(path: str) -> str:
    """The path with the home folder for a leading `~`, which a shell leaves as it is after `key=`."""
    return str(Path.home() / path[2:]) if path.startswith("~/") else path


def parse_quantile(threshold: str) -> float:
    """The share in a threshold such as `q0.05`.

    Raises:
        ConfigError: It is no quantile.
    """
    try:
        share = float(threshold.removeprefix("q")) if threshold.startswith("q") else -1.0
    except ValueError:
        share = -1.0
    _check(
        0 <= share <= 1,
        f"objective.threshold must be a number or a quantile such as q0.05, not {threshold!r}",
    )
    return share


@dataclass
class DocumentsConfig:
    """Where the documents are."""

    path: str | None = None
    """A file, a glob, a folder, the name of a Hugging Face dataset, or its `save_to_disk` folder."""
    format: Literal["auto", "jsonl", "parquet", "folder", "huggingface", "scored"] = "auto"
    """`auto` tells by the name. `folder`: one document a text file. `scored`: rows with `texts` and `scores`
    (jsonl, parquet or a Hugging Face dataset), already segmented and annotated."""
    text_field: str = "text"
    """The field (jsonl, parquet, Hugging Face) that holds the text."""
    texts_field: str = "texts"
    """`scored`: the field that holds a document's segments, a list; joined, they are its text."""
    scores_field: str = "scores"
    """`scored`: the field that holds their scores, a list as long; null: no score."""
    source_field: str | None = None
    """The field that names a document's source, for statistics; a dot goes into it: meta.pile_set_name."""
    pattern: str = "**/*"
    """Which files of a folder are read. With `format` jsonl or parquet, whatever they are called."""
    subset: str | None = None
    """The subset (Hugging Face: configuration) of a dataset that has several."""
    split: str = "train"
    """The split of a Hugging Face dataset."""
    limit: int | None = None
    """Read this many documents of each shard at the most; all if null."""
    max_bad_rows: int | None = None
    """Stop once more rows than this cannot be read or scored; null: any number. A side file lists them."""

    def __post_init__(self) -> None:
        self.path = self.path and _home(self.path)
        _check(
            self.limit is None or self.limit >= 1,
            f"documents.limit must be at least 1 or null, not {self.limit}",
        )
        _check(
            self.max_bad_rows is None or self.max_bad_rows >= 0,
            f"documents.max_bad_rows must be 0 or more or null, not {self.max_bad_rows}",
        )


@dataclass
class SegmenterConfig:
    """How a document is cut into the segments that are scored."""

    name: Literal["line", "sentence", "paragraph", "document"] = "sentence"
    """The unit that gets a score of its own: a sentence of prose, a line of code."""
    max_chars: int | None = 2000
    """A longer segment is cut at white space (never for `line` and `document`); null for no limit."""

    def __post_init__(self) -> None:
        _check(
            self.max_chars is None or self.max_chars >= 1,
            f"segmenter.max_chars must be at least 1, not {self.max_chars}",
        )


@dataclass
class ScorerConfig:
    """Which preference is measured."""

    name: str = "pep8"
    """A scorer from `phf scorers`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword options of that scorer."""
    column: str | None = None
    """Under which name its scores are kept; null: its own. For one scorer twice, with other options."""

    def __post_init__(self) -> None:
        _check(
            self.column is None or re.fullmatch(r"\w[\w.:-]*", self.column) is not None,
            f"a scorer's column must be letters, digits and . : - _, not {self.column!r}",
        )

    @property
    def key(self) -> str:
        """The name of its scores; of a scorer in a file, without the folder."""
        return self.column or self.name.rpartition("/")[2]


@dataclass
class ExecutorConfig:
    """Who runs the parts of the annotation."""

    name: Literal["pool", "local", "slurm", "ray"] = "pool"
    """`pool`: this call, for `part` alone. `local`, `slurm`, `ray`: datatrove's executor of that name, each
    part as a task (extra `datatrove`)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword options of that executor."""

    def __post_init__(self) -> None:
        _check(
            self.name != "pool" or not self.options,
            f"annotations.executor.options: pool has none, and not {', '.join(self.options)}; set "
            "annotations.executor.name",
        )


@dataclass
class AnnotationsConfig:
    """The scores of every segment, kept beside the documents."""

    path: str = "data/annotations"
    """The folder; each scorer has a folder of its own in it, with one file a shard."""
    also: list[ScorerConfig] = field(default_factory=list)
    """More scorers, each like `scorer`: the documents are read and cut once for all of them."""
    processes: int = 0
    """Scoring processes on this machine; 0 for one a core, or one a GPU for a scorer that computes there."""
    part: int = 0
    """Which part of the shards this call scores, from 0 (a job array's index)."""
    parts: int = 1
    """In how many parts the shards are divided (a job array's size)."""
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    """Who runs the parts; by default, this call runs one."""

    def __post_init__(self) -> None:
        self.path = _home(self.path)
        _check(self.processes >= 0, f"annotations.processes must be 0 or more, not {self.processes}")
        _check(self.parts >= 1, f"annotations.parts must be at least 1, not {self.parts}")
        _check(
            0 <= self.part < self.parts, f"annotations.part must lie in [0, {self.parts}), not {self.part}"
        )
        _check(
            self.executor.name == "pool" or not self.part,
            f"annotations.part={self.part}: annotations.executor.name={self.executor.name} runs every part",
        )


@dataclass
class TokenizerConfig:
    """The tokenizer."""

    name: str = "gpt2"
    """A Hugging Face tokenizer: a name or a folder. Not used if `train` is set."""
    train: bool = False
    """Train a byte-level BPE tokenizer on the documents that are not held out."""
    vocab_size: int = 8192
    """Size of the trained vocabulary, `<|endoftext|>` included."""

    def __post_init__(self) -> None:
        self.name = _home(self.name)
        _check(
            self.vocab_size >= 257,
            f"tokenizer.vocab_size must be at least 257 (256 bytes and one mark), not {self.vocab_size}",
        )


@dataclass
class StoreConfig:
    """The tokenized corpus, as memory-mapped arrays."""

    path: str = "data/store"
    """The folder."""
    heldout_fraction: float = 0.01
    """Share of the documents that is never trained on, chosen by a hash of the document."""

    def __post_init__(self) -> None:
        self.path = _home(self.path)
        _check(
            0 <= self.heldout_fraction < 1,
            f"store.heldout_fraction must lie in [0, 1), not {self.heldout_fraction}",
        )


@dataclass
class ObjectiveConfig:
    """What the model learns from the scores. An option that is null takes the objective's own default."""

    name: str = "mle"
    """mle, filtering, conditional, unlikelihood, rwr or awr."""
    threshold: int | float | str | None = None
    """Scores up to and including it are good: a number, or a quantile of the corpus such as `q0.05`.
    For filtering it is held against the mean score of a document."""
    quantile_of: Literal["tokens", "segments"] = "tokens"
    """What a quantile is counted in (filtering: always documents)."""
    drop_rate: float | None = None
    """conditional: share of the segments that get no control token."""
    alpha: float | None = None
    """unlikelihood: weight of the unlikelihood term. awr: weight of the policy against the value loss."""
    beta: float | None = None
    """rwr, awr: temperature of the exponential weight; the larger, the closer to mle."""
    max_weight: float | None = None
    """rwr, awr: the weight of a token is cut at this."""
    reward_scaling: Literal["raw", "zscore", "percentile"] | None = None
    """rwr, awr: the reward is minus the score as it is, in standard deviations, or as its rank in [-1, 0]."""

    def __post_init__(self) -> None:
        if isinstance(self.threshold, str):
            parse_quantile(self.threshold)


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
    compile: bool | Literal["auto"] = "auto"
    """torch.compile of the inner network; `auto` compiles if this machine has what it takes."""

    def __post_init__(self) -> None:
        self.start_from = self.start_from and _home(self.start_from)
        _check(
            self.context_length >= 2, f"model.context_length must be at least 2, not {self.context_length}"
        )


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
    warmup: float = 0.01
    """Share of the run's steps in which the learning rate rises from 0 to its peak."""
    decay: float = 0.2
    """wsd: share of the run's steps, at its end, in which the learning rate falls."""
    min_learning_rate: float = 0.0
    """Where the schedule ends, as a share of the peak."""
    weight_decay: float = 0.1
    """AdamW's weight decay, on matrices only (not on biases and norms)."""
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
    num_workers: int = 0
    """Data-loading processes for each device."""
    seed: int = 42
    """Decides initial weights, data order, dropped tags and dropout."""
    log_every: int = 10
    """Steps between two lines of the log."""
    heldout_every: int | None = None
    """Steps between two measurements of the held-out loss; null: twenty times a run."""
    heldout_blocks: int = 256
    """Blocks of held-out text measured each time."""
    samples_every: int | None = None
    """Steps between two batches of scored samples; null: never."""
    samples: int = 32
    """Samples in each of these batches; drawn as in the first scenario of `evaluation`."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints; null: ten times a run."""
    keep_checkpoints: int = 1
    """How many of the latest checkpoints are kept."""
    loggers: list[str] = field(default_factory=lambda: ["csv", "tensorboard"])
    """csv, tensorboard, wandb."""

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
            _check(getattr(self, name) >= 1, f"train.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("micro_batch_size", "heldout_every", "samples_every", "checkpoint_every"):
            value = getattr(self, name)
            _check(value is None or value >= 1, f"train.{name} must be at least 1 or null, not {value}")
        for name in ("warmup", "decay", "min_learning_rate"):
            _check(
                0 <= getattr(self, name) <= 1, f"train.{name} must lie in [0, 1], not {getattr(self, name)}"
            )
        _check(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"train.betas must be two numbers in [0, 1), not {self.betas}",
        )
        _check(
            self.gradient_clip is None or self.gradient_clip > 0,
            f"train.gradient_clip must be above 0 or null, not {self.gradient_clip}",
        )
        _check(self.learning_rate > 0, f"train.learning_rate must be above 0, not {self.learning_rate}")
        _check(
            0 <= self.tokens_seen < self.tokens, "train.tokens_seen must be 0 or more and below train.tokens"
        )
        unknown = set(self.loggers) - {"csv", "tensorboard", "wandb"}
        _check(
            not unknown,
            f"train.loggers: no logger {', '.join(sorted(unknown))}; there are csv, tensorboard, wandb",
        )


@dataclass
class ScenarioConfig:
    """One way of asking the model for text."""

    prompts: Any = None
    """Null: from `<|endoftext|>` alone. A list, or a file: jsonl with `prompt`, or text, one a line."""
    samples: int = 256
    """Samples in all (without prompts) or for each prompt."""
    max_prompts: int | None = None
    """Use the first so many prompts; all if null."""
    tag: Literal["good", "bad", "none"] = "good"
    """The control token before the text, for a model that has them."""
    emit_tags: Literal["none", "good", "all"] = "none"
    """Which control tokens the model may write itself; they are stripped before scoring."""
    max_new_tokens: int = 128
    """Longest continuation, in tokens."""
    min_new_tokens: int = 10
    """Shortest continuation, in tokens."""
    temperature: float = 0.7
    """Divides the logits; 0 takes the likeliest token."""
    top_p: float = 0.9
    """Sample among the likeliest tokens that together have this probability."""
    top_k: int | None = None
    """Sample among this many likeliest tokens; null: no limit."""
    score: Literal["continuation", "full"] = "continuation"
    """Score what the model wrote, or the prompt with it (code: a signature alone does not parse)."""
    trim: bool = False
    """Drop the end of a sample that `max_new_tokens` cut: the unfinished segment, blank ones before it."""

    def __post_init__(self) -> None:
        self.prompts = _home(self.prompts) if isinstance(self.prompts, str) else self.prompts
        _check(self.samples >= 1, f"a scenario's samples must be at least 1, not {self.samples}")
        _check(
            self.max_new_tokens >= 1,
            f"a scenario's max_new_tokens must be at least 1, not {self.max_new_tokens}",
        )
        _check(
            0 <= self.min_new_tokens <= self.max_new_tokens,
            f"a scenario's min_new_tokens must lie in [0, max_new_tokens], not {self.min_new_tokens}",
        )
        _check(self.temperature >= 0, f"a scenario's temperature must be 0 or more, not {self.temperature}")
        _check(0 < self.top_p <= 1, f"a scenario's top_p must lie in (0, 1], not {self.top_p}")
        _check(
            self.top_k is None or self.top_k >= 1, f"a scenario's top_k must be at least 1, not {self.top_k}"
        )
        _check(
            self.prompts is None or isinstance(self.prompts, str | list),
            "a scenario's prompts must be a file or a list of strings",
        )


def _default_scenarios() -> dict[str, ScenarioConfig]:
    return {"unconditional": ScenarioConfig()}


@dataclass
class EvaluationConfig:
    """How misalignment is measured."""

    scenarios: dict[str, ScenarioConfig] = field(default_factory=_default_scenarios)
    """By name; every one is sampled and scored. If none is given: `unconditional`, with its defaults."""
    scorer: ScorerConfig | None = None
    """Null: the scorer that the run was trained on."""
    threshold: float = 0.0
    """A sample whose score is above it counts as misaligned in the rate."""
    expected_max_of: int = 25
    """How many samples the expected maximum is taken over."""
    confidence: float = 0.95
    """Coverage of the bootstrap intervals."""
    batch_size: int = 64
    """Samples generated at a time."""
    seed: int = 0
    """Decides every sample; two runs evaluated with one seed get the same noise for the same prompt."""
    heldout_blocks: int | None = 512
    """Blocks of held-out text for the perplexity; null: all of them."""

    def __post_init__(self) -> None:
        self.scenarios = self.scenarios or _default_scenarios()
        _check(0 < self.confidence < 1, f"evaluation.confidence must lie in (0, 1), not {self.confidence}")
        _check(self.batch_size >= 1, f"evaluation.batch_size must be at least 1, not {self.batch_size}")
        _check(
            self.expected_max_of >= 1,
            f"evaluation.expected_max_of must be at least 1, not {self.expected_max_of}",
        )


@dataclass
class RunConfig:
    """Where a run is kept."""

    name: str = "${objective.name}"
    """The run's name, as shown in reports."""
    folder: str = "runs/${run.name}"
    """Configuration, checkpoints, logs, the exported model and its evaluation."""

    def __post_init__(self) -> None:
        self.folder = _home(self.folder)


@dataclass
class Config:
    """Everything there is to configure."""

    documents: DocumentsConfig = field(default_factory=DocumentsConfig)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    annotations: AnnotationsConfig = field(default_factory=AnnotationsConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        keys = [scorer.key for scorer in (self.scorer, *self.annotations.also)]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        _check(twice is None, f"two scorers keep their scores as {twice}: give one of them another column")

    def scorers(self) -> dict[str, ScorerConfig]:
        """All that annotate, by the name of their scores."""
        return {scorer.key: scorer for scorer in (self.scorer, *self.annotations.also)}


def load_config(arguments: Iterable[str | Mapping[str, Any]], base: Config | None = None) -> Config:
    """Merges configuration files and overrides, left to right, over the defaults.

    Who names another scorer begins with none of the options of the one before.

    Args:
        arguments: Each a YAML file, a `key=value` override, or a nested mapping.
        base: What to start from instead of the schema's defaults.

    Raises:
        ConfigError: A file cannot be read, a key is not in the schema, or a value is out of its range.
    """
    base = base or Config()
    config = OmegaConf.structured(base)
    if base.evaluation.scenarios == _default_scenarios():
        config.evaluation.scenarios = {}  # it gives way to any that is named
    files: list[tuple[str, DictConfig]] = []
    overrides: list[tuple[str, DictConfig]] = []
    for argument in arguments:
        if isinstance(argument, Mapping):
            overrides.append(("the settings given", OmegaConf.create(dict(argument))))
        elif argument.endswith((".yaml", ".yml")) and ("=" not in argument or Path(argument).is_file()):
            files.append((argument, _read_yaml(argument)))
        elif "=" in argument:
            try:
                overrides.append((argument, OmegaConf.from_dotlist([_as_yaml(argument)])))
            except (OmegaConfBaseException, YAMLError) as error:
                raise ConfigError(f"{argument}: {_first_line(error)}") from error
        else:
            raise ConfigError(f"{argument}: neither a YAML file (.yaml, .yml) nor a key=value override")
    # Each file by itself, and overrides together: they may stand in any order.
    for layers in [*([file] for file in files), overrides]:
        _let_options_go(config, [layer for _, layer in layers])
        for source, layer in layers:
            try:
                config = OmegaConf.merge(config, layer)
            except ConfigKeyError as error:
                raise ConfigError(f"{source}: {_unknown_key(error)}") from error
            except OmegaConfBaseException as error:
                raise ConfigError(f"{source}: {error.full_key or '?'}: {_first_line(error)}") from error
    try:
        resolved = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or '?'}: {_first_line(error)}") from error
    assert isinstance(resolved, Config)
    return resolved


def _let_options_go(config: DictConfig, layers: Iterable[DictConfig]) -> None:
    """Empties the options of the scorer if a layer names another, to which they mean nothing."""
    for layer in layers:
        name = OmegaConf.select(layer, "scorer.name", throw_on_resolution_failure=False)
        if isinstance(name, str) and name != config.scorer.name:
            config.scorer.options = {}


def to_yaml(config: Config) -> str:
    """The configuration as YAML that `load_config` reads back to an equal one."""
    return OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)


def find_config(name: str) -> Path:
    """The path of a file of `configs/`, in a clone or inside the installed package.

    Raises:
        ConfigError: There is no such file.
    """
    package = Path(__file__).parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"no configuration file configs/{name} in {package.parent}")


def _as_yaml(override: str) -> str:
    """The override as YAML understands it."""
    key, _, value = override.partition("=")
    if value.startswith("*"):  # a pattern of files, and not a reference
        return f"{key}={json.dumps(value)}"
    if re.fullmatch(r"\d+(\.\d*)?[eE]\+?\d+", value) and float(value).is_integer():  # 1e9 tokens
        return f"{key}={int(float(value))}"
    if re.fullmatch(r"\d+(:\d+)+", value):  # a time, and not YAML's number to the base 60
        return f"{key}={json.dumps(value)}"
    return override


def _read_yaml(path: str) -> DictConfig:
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {_first_line(error)}") from error
    except YAMLError as error:
        place = f" (line {error.problem_mark.line + 1})" if getattr(error, "problem_mark", None) else ""
        raise ConfigError(
            f"{path}{place}: not valid YAML: {getattr(error, 'problem', None) or _first_line(error)}"
        ) from error
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{path}: must hold keys and values, not {type(loaded).__name__}")
    return loaded


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _unknown_key(error: ConfigKeyError) -> str:
    """Names the key that the schema lacks, and the nearest one it has there."""
    known = [field.name for field in fields(error.object_type)] if is_dataclass(error.object_type) else []
    nearest = difflib.get_close_matches(str(error.key), known, n=1, cutoff=0.5)
    section = str(error.full_key).rpartition(".")[0]
    hint = f"; did you mean {section}{'.' if section else ''}{nearest[0]}?" if nearest else ""
    return f"no key {error.full_key}{hint}"
