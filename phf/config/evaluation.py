"""Defines the section `evaluation`: scenarios, scorers and measures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from phf.config.checks import check, check_finite
from phf.config.data import ScorerConfig
from phf.config.fields import option
from phf.config.prompts import parse_prompts


@dataclass
class InjectedTagConfig:
    """A tag, or text that looks like one, inserted into a prompt by someone other than the operator."""

    tag: Literal["good", "bad"] = "bad"
    """Which of the model's tags is inserted: the best or the worst."""
    spelling: Literal["token", "text", "capitalized", "brackets", "spaced"] = "token"
    """`token`: the tag itself. The others are ordinary text: the tag's name (`text`), or a look-alike:
    `<|Aligned|>` (`capitalized`), `<aligned>` (`brackets`) or `< | aligned | >` (`spaced`)."""
    place: Literal["start", "after_first", "before_last", "end"] = "start"
    """Where the tag goes: before the prompt, after its first segment, before its last segment, or after the
    prompt."""


@dataclass
class DecoderConfig:
    """How the text of a scenario is chosen from the model's predictions."""

    name: str = option("sampling", path=True)
    """A decoder from `phf decoders`, `package.module:Class` or `file.py:Class`."""
    options: dict[str, Any] = option(factory=dict, belongs_to="name")
    """Options of the decoder; `phf decoders NAME` lists them."""


@dataclass
class ScenarioConfig:
    """One way of sampling text from the model."""

    prompts: Any = option(None, path=True)
    """What the model continues. Null: `<|endoftext|>` alone. Otherwise a list of texts; a file (jsonl with
    the field `prompt`, or text with one prompt on each line); a set that comes with this package
    (`phf:toxicity`, `phf:pii`, `phf:code`); `{dataset: NAME, field: prompt}`; or `{heldout: any}`. See the
    guide on evaluation."""
    samples: int = option(256, least=1)
    """Number of samples: for each prompt, or in total if there are no prompts."""
    max_prompts: int | None = option(None, least=1)
    """Use only the first prompts, at most this many; null uses all."""
    tag: Literal["good", "bad", "none"] = "good"
    """The tag before the text, for a model that has tags: the best tag, the worst tag or none."""
    inject: InjectedTagConfig | None = None
    """A tag inserted into the prompt, after the one that `tag` sets. Only for models that have tags."""
    emit_tags: Literal["follow", "force", "all", "good", "none"] = "follow"
    """What happens where the model would write a tag. `follow`: it writes the tag of `tag`, which has the
    probability of all tags together; with `tag: none` as `all`. `force`: the same, and nothing else is
    possible where tags have more than half of the probability. `all`: the model writes the tags that it
    wants. `good`: only the best tag is allowed; `none`: no tag is (both move probability to text without a
    tag, and to the end). Tags are removed before scoring."""
    max_new_tokens: int = option(128, least=1)
    """Maximum length of a continuation, in tokens, not counting tags."""
    min_new_tokens: int = option(10, least=0)
    """Minimum length of a continuation, in tokens, not counting tags."""
    temperature: float = option(0.7, least=0)
    """Divisor of the logits; 0 always takes the likeliest token."""
    top_p: float = option(0.9, above=0, most=1)
    """Sample among the likeliest tokens that together have this probability; 1 sets no limit."""
    top_k: int | None = option(None, least=1)
    """Sample among this many likeliest tokens; null sets no limit."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """How text is chosen from the model's predictions. By default, each token is sampled."""
    best_of: int = option(1, least=1)
    """Draw this many candidates for each sample, and keep the one with the lowest score."""
    best_by: ScorerConfig | None = None
    """The scorer that selects the candidate to keep. Null: the evaluation's own scorer. Its score of the kept
    samples is then biased low, because it selected them."""
    score: Literal["continuation", "full"] = "continuation"
    """What is scored: the continuation alone, or the prompt and the continuation together (for code, because
    a body without its signature does not parse)."""
    trim: bool = False
    """Whether to drop the unfinished last segment of a sample that was cut at `max_new_tokens`, and the blank
    segments before it."""

    def __post_init__(self) -> None:
        parse_prompts(self.prompts)
        check(
            self.min_new_tokens <= max(self.max_new_tokens, 0),
            f"a scenario's min_new_tokens must lie in [0, max_new_tokens], not {self.min_new_tokens}",
        )


def default_scenarios() -> dict[str, ScenarioConfig]:
    """The scenarios of a configuration that names none."""
    return {"unconditional": ScenarioConfig()}


@dataclass
class IndependentScorerConfig(ScorerConfig):
    """An additional scorer that a model is measured with."""

    threshold: float = 0.0
    """A sample whose score is above this counts as misaligned in this scorer's rate."""


@dataclass
class EvaluationConfig:
    """How misalignment is measured."""

    scenarios: dict[str, ScenarioConfig] = field(default_factory=default_scenarios)
    """The scenarios by name. Samples are drawn and scored for each. Null removes a scenario that a file or
    the run has. If none is given, there is one, `unconditional`, with default settings."""
    scorer: ScorerConfig | None = None
    """The scorer of the samples. Null: the scorer that the run was trained with."""
    scorers: list[IndependentScorerConfig] = field(default_factory=list)
    """Additional scorers, each configured like `scorer` but with its own threshold. Each one scores every
    sample."""
    threshold: float = 0.0
    """A sample whose score is above this counts as misaligned in the misalignment rate."""
    expected_max_of: int = option(25, least=1)
    """The number of samples over which the expected maximum score is taken."""
    confidence: float = option(0.95, above=0, below=1)
    """Coverage of the confidence intervals."""
    batch_size: int = option(64, least=1, free=True)
    """Rows generated at a time. A sample takes one row; with guidance it takes two, and with safe beams twice
    the number of beams."""
    backend: Literal["transformers", "vllm"] = "transformers"
    """The software that generates. `vllm` (`pip install 'phf[vllm]'`) is for large models and draws other
    samples. This backend follows the documentation of vLLM, but has not been run."""
    seed: int = option(0, least=0)
    """Decides every sample. Two runs evaluated with the same seed get the same random numbers for the same
    prompt."""
    measures: dict[str, Any] = field(default_factory=dict)
    """Additional measures: a mapping from a measure of `phf measures` (or `file.py:Class`) to its options.
    Null switches a measure off. `heldout` and `diversity` are on by default."""

    def __post_init__(self) -> None:
        check_finite(self.threshold, "evaluation.threshold")
        for scorer in self.scorers:
            check_finite(scorer.threshold, f"evaluation.scorers: the threshold of {scorer.key}")
        self.scenarios = self.scenarios or default_scenarios()
