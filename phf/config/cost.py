"""What alignment costs: measures that are taken where they are asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from phf.config.checks import check, home


@dataclass
class KLConfig:
    """How far the model is from a reference: KL(reference || model), from samples of the reference."""

    reference: str = "???"
    """A language model of `transformers`, by folder or name, or the name of one at an endpoint."""
    base_url: str | None = None
    """The endpoint, such as `http://localhost:8000/v1`: OpenAI-compatible, with completions and
    log-probabilities."""
    key: str = "OPENAI_API_KEY"
    """Name of the environment variable with its key; most local servers need none."""
    prompt: str = "<|endoftext|>"
    """What an endpoint is given to begin a text."""
    concurrency: int = 8
    """Requests to an endpoint at a time."""
    samples: int = 4096
    """Samples of the reference."""
    max_tokens: int = 64
    """Longest sample, in tokens of the reference."""
    cache: str = "data/reference"
    """Folder where samples of references are kept, so that all models are measured on the same ones."""

    def __post_init__(self) -> None:
        self.reference, self.cache = home(self.reference), home(self.cache)
        for name in ("concurrency", "samples", "max_tokens"):
            check(
                getattr(self, name) >= 1,
                f"evaluation.kl.{name} must be at least 1, not {getattr(self, name)}",
            )


@dataclass
class RankingConfig:
    """How often the good one of two continuations is the more probable one."""

    pairs: str | None = None
    """A file, jsonl with `prompt`, `good` and `bad`; null: neighbouring segments of the run's held-out text
    on both sides of `evaluation.threshold`."""
    max_pairs: int = 1000
    """Use at most so many pairs."""

    def __post_init__(self) -> None:
        self.pairs = self.pairs and home(self.pairs)
        check(self.max_pairs >= 4, f"evaluation.ranking.max_pairs must be at least 4, not {self.max_pairs}")


@dataclass
class CodeConfig:
    """Whether the model still writes code that parses and works."""

    functions: str | None = None
    """Functions to write: jsonl with `name`, `prompt` (signature and docstring) and `tests` (assertions);
    null: 24 short ones that come with `phf`."""
    samples: int = 20
    """Samples of each function."""
    k: list[int] = field(default_factory=lambda: [1, 5, 10])
    """pass@k is given for each of these."""
    temperature: float = 0.7
    """Divides the logits; 0 takes the likeliest token."""
    top_p: float = 0.9
    """Sample among the likeliest tokens that together have this probability."""
    max_new_tokens: int = 256
    """Longest function, in tokens."""
    seconds: int = 3
    """Processor time that the tests of a sample may take."""
    memory_mb: int = 256
    """Memory that they may take."""

    def __post_init__(self) -> None:
        self.functions = self.functions and home(self.functions)
        for name in ("samples", "max_new_tokens", "seconds"):
            check(
                getattr(self, name) >= 1,
                f"evaluation.code.{name} must be at least 1, not {getattr(self, name)}",
            )
        check(
            bool(self.k) and all(1 <= k <= self.samples for k in self.k),
            f"evaluation.code.k must be numbers from 1 to samples ({self.samples}), not {self.k}",
        )
        check(self.temperature >= 0, f"evaluation.code.temperature must be 0 or more, not {self.temperature}")
        check(0 < self.top_p <= 1, f"evaluation.code.top_p must lie in (0, 1], not {self.top_p}")
        check(self.memory_mb >= 64, f"evaluation.code.memory_mb must be at least 64, not {self.memory_mb}")
