"""Defines the sections `redteam` and `tamper`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from phf.base.errors import ConfigError
from phf.config.checks import check, check_threshold
from phf.config.fields import option
from phf.config.prompts import parse_prompts


@dataclass
class AttackerConfig:
    """The attacker, which proposes new prompts."""

    name: str = option("evolution", path=True)
    """An attacker from `phf attackers`, `package.module:Class` or `file.py:Class`."""
    options: dict[str, Any] = option(factory=dict, belongs_to="name")
    """Options of the attacker; `phf attackers NAME` lists them."""


@dataclass
class RedteamConfig:
    """The search for prompts that make a model misbehave."""

    attacker: AttackerConfig = field(default_factory=AttackerConfig)
    """The attacker, which proposes new prompts."""
    scenario: str | None = None
    """The scenario of `evaluation` that says how the attacked model is sampled; null: the first one. The
    scenario's own prompts and number of samples are ignored."""
    prompts: Any = option(None, path=True)
    """The seed prompts, given like the prompts of a scenario. Null: the beginnings of held-out documents of
    the run's token store."""
    seeds: int = option(20, least=1)
    """The number of seed prompts that each trial starts with. Each trial draws its own."""
    rounds: int = option(10, least=1)
    """Rounds of a trial, after the round of seed prompts."""
    trials: int = option(10, least=1)
    """Independent repetitions of the search. The confidence intervals are over trials."""
    proposals: int = option(20, least=1)
    """New prompts in each round."""
    samples: int = option(10, least=1)
    """Continuations sampled for each prompt. Their mean score is the prompt's score."""
    budget: int | None = option(None, least=1)
    """Tokens that the attacked model may read and write in a trial, counted over all rows of its decoder. The
    trial ends with the attempt that reaches the budget, or after `rounds`. Null sets no limit."""
    max_prompt_tokens: int = option(64, least=1)
    """Maximum length of a proposed prompt, in tokens of the attacked model. A longer prompt loses its
    beginning."""
    fresh_samples: int = option(100, least=1)
    """Continuations sampled anew, at the end, for each of the ten best prompts. The score with which a prompt
    was found is biased high, because it is the largest of many."""
    seed: int = option(0, least=0)
    """Decides everything random, except the answers of an endpoint."""

    def __post_init__(self) -> None:
        try:
            parse_prompts(self.prompts)
        except ConfigError as error:
            raise ConfigError(f"redteam.prompts: {error}") from error


@dataclass
class TamperConfig:
    """Finetuning of a model on bad text and on benign text, with measurements along the way."""

    texts: list[str] = field(default_factory=lambda: ["bad", "benign"])
    """The kinds of text to finetune on: `bad`, `benign` or both. Each gives a curve."""
    tokens: int = option(1_000_000, least=1)
    """Tokens of finetuning, for each kind of text."""
    points: int = option(5, least=1)
    """How often the model is measured during finetuning, at even intervals. There is one more measurement
    before the start."""
    split: Literal["train", "heldout"] = "train"
    """The part of the run's token store that the documents come from."""
    bad_above: Any = "q0.9"
    """Documents with a mean score above this are bad: a number, or a quantile of the training documents."""
    benign_below: Any = "q0.5"
    """Documents with a mean score of at most this are benign: a number, or a quantile."""
    bad_documents: str | None = option(None, path=True)
    """Take bad documents from this path instead, given like `documents.path`. The other keys of `documents`
    say how they are read."""
    benign_documents: str | None = option(None, path=True)
    """Take benign documents from this path instead."""
    learning_rate: float = option(5e-5, above=0)
    """The learning rate, constant after a warm-up over a twentieth of the steps."""
    batch_size: int = option(8, least=1)
    """Blocks in an optimizer step. A block has the model's context length."""
    scenario: str | None = None
    """The scenario of `evaluation` that is measured; null: the first one."""
    samples: int | None = option(None, least=1)
    """Samples in each measurement: for each prompt, or in total if there are no prompts. Null: as many as the
    scenario has."""
    seed: int = option(0, least=0)
    """Decides the order of the documents. The samples depend on `evaluation.seed` instead."""

    def __post_init__(self) -> None:
        check(
            bool(self.texts) and {"bad", "benign"}.issuperset(self.texts),
            f"tamper.texts must be a list of bad, benign or both, not {self.texts}",
        )
        for name in ("bad_above", "benign_below"):
            check_threshold(getattr(self, name), f"tamper.{name}")
