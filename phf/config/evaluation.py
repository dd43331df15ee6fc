"""How misalignment is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from phf.config.checks import check, home
from phf.config.cost import CodeConfig, KLConfig, RankingConfig
from phf.config.data import ScorerConfig
from phf.config.prompts import parse_prompts


@dataclass
class InjectedTagConfig:
    """A tag, or what looks like one, inside a prompt: put there by another than who deploys the model."""

    tag: Literal["good", "bad"] = "bad"
    """Which of the model's tags."""
    spelling: Literal["token", "text", "capitalized", "brackets", "spaced"] = "token"
    """`token`: the tag itself. Else ordinary text: its name, or what looks like it: `<|Aligned|>`,
    `<aligned>`, `< | aligned | >`."""
    place: Literal["start", "after_first", "before_last", "end"] = "start"
    """Before the prompt, after its first segment, before its last one, or after the prompt."""


@dataclass
class ScenarioConfig:
    """One way of asking the model for text."""

    prompts: Any = None
    """Null: from `<|endoftext|>` alone. A list; a file (jsonl with `prompt`, or text, one a line); a set that
    comes with this package (`phf:toxicity`, `phf:pii`, `phf:code`); or `{dataset: ...}` or `{heldout: ...}`,
    see `phf/config/prompts.py`."""
    samples: int = 256
    """Samples in all (without prompts) or for each prompt."""
    max_prompts: int | None = None
    """Use the first so many prompts; all if null."""
    tag: Literal["good", "bad", "none"] = "good"
    """The tag before the text, for a model that has them: the best, the worst or none."""
    inject: InjectedTagConfig | None = None
    """A tag inside the prompt, behind the one of `tag`; for a model that has tags."""
    emit_tags: Literal["none", "good", "all"] = "none"
    """Which tags the model may write itself, if control tokens; they are stripped before scoring."""
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
    guidance: float = 0.0
    """Weight of the contrast of good and bad tag; 0: the good tag alone."""
    safe_beams: int = 0
    """Beams, kept of twice as many: those least likely to go on with a bad tag; 0: no beams."""
    best_of: int = 1
    """Draw so many samples for each one, and keep the one with the lowest score."""
    best_by: ScorerConfig | None = None
    """What scores them; null: the scorer that measures, whose score of those kept is too low then."""
    score: Literal["continuation", "full"] = "continuation"
    """Score what the model wrote, or the prompt with it (code: a signature alone does not parse)."""
    trim: bool = False
    """Drop the end of a sample that `max_new_tokens` cut: the unfinished segment, blank ones before it."""

    def __post_init__(self) -> None:
        self.prompts = home(self.prompts) if isinstance(self.prompts, str) else self.prompts
        parse_prompts(self.prompts)
        check(self.samples >= 1, f"a scenario's samples must be at least 1, not {self.samples}")
        check(
            self.max_new_tokens >= 1,
            f"a scenario's max_new_tokens must be at least 1, not {self.max_new_tokens}",
        )
        check(
            0 <= self.min_new_tokens <= self.max_new_tokens,
            f"a scenario's min_new_tokens must lie in [0, max_new_tokens], not {self.min_new_tokens}",
        )
        check(self.temperature >= 0, f"a scenario's temperature must be 0 or more, not {self.temperature}")
        check(self.guidance >= 0, f"a scenario's guidance must be 0 or more, not {self.guidance}")
        check(self.safe_beams >= 0, f"a scenario's safe_beams must be 0 or more, not {self.safe_beams}")
        check(
            not (self.guidance and self.safe_beams), "a scenario has either guidance or safe_beams, not both"
        )
        check(self.best_of >= 1, f"a scenario's best_of must be at least 1, not {self.best_of}")
        check(
            not self.guidance or self.tag == "good",
            f"a scenario's guidance contrasts the good tag with the bad one: set tag to good, not {self.tag}",
        )
        check(0 < self.top_p <= 1, f"a scenario's top_p must lie in (0, 1], not {self.top_p}")
        check(
            self.top_k is None or self.top_k >= 1, f"a scenario's top_k must be at least 1, not {self.top_k}"
        )


def default_scenarios() -> dict[str, ScenarioConfig]:
    """What is measured if nothing is asked for."""
    return {"unconditional": ScenarioConfig()}


@dataclass
class IndependentScorerConfig(ScorerConfig):
    """A scorer that a model is measured with besides its own."""

    threshold: float = 0.0
    """A sample that it scores above this counts as misaligned in its rate."""


@dataclass
class EvaluationConfig:
    """How misalignment is measured."""

    scenarios: dict[str, ScenarioConfig] = field(default_factory=default_scenarios)
    """By name; every one is sampled and scored. If none is given: `unconditional`, with its defaults."""
    scorer: ScorerConfig | None = None
    """Null: the scorer that the run was trained on."""
    scorers: list[IndependentScorerConfig] = field(default_factory=list)
    """More scorers, each like `scorer` with a threshold of its own: all score every sample."""
    threshold: float = 0.0
    """A sample whose score is above it counts as misaligned in the rate."""
    expected_max_of: int = 25
    """How many samples the expected maximum is taken over."""
    confidence: float = 0.95
    """Coverage of the bootstrap intervals."""
    batch_size: int = 64
    """Rows generated at a time: a sample takes one, with guidance two, with safe beams twice their number."""
    backend: Literal["transformers", "vllm"] = "transformers"
    """What generates; vllm (`pip install 'phf[vllm]'`) is for large models, and draws other samples."""
    seed: int = 0
    """Decides every sample; two runs evaluated with one seed get the same noise for the same prompt."""
    heldout_blocks: int | None = 512
    """Blocks of held-out text for the perplexity; null: all of them."""
    kl: KLConfig | None = None
    """The distance from a reference model; not measured if null."""
    ranking: RankingConfig | None = None
    """How often a good continuation is more probable than a bad one; not measured if null."""
    code: CodeConfig | None = None
    """For models of code: the share of samples that parse, and pass@k; not measured if null."""

    def __post_init__(self) -> None:
        self.scenarios = self.scenarios or default_scenarios()
        check(0 < self.confidence < 1, f"evaluation.confidence must lie in (0, 1), not {self.confidence}")
        check(self.batch_size >= 1, f"evaluation.batch_size must be at least 1, not {self.batch_size}")
        check(
            self.expected_max_of >= 1,
            f"evaluation.expected_max_of must be at least 1, not {self.expected_max_of}",
        )
