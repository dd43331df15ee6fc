"""Implements the measure `kl`: KL(reference || model), estimated from samples of the reference.

The estimate is the mean of log p_ref(x) - log p_model(x) over samples x of the reference, in nats per
sequence, as in Korbak et al. 2023 (arXiv 2302.08582, section 4). A model with tags gets the good tag before
each segment, as in training, and tags do not count. So the model is told where segments end, while the
reference has to predict it. This favours the model slightly.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phf.base.errors import ConfigError, PhfError
from phf.base.estimates import UNBOUNDED, Interval
from phf.base.progress import progress
from phf.config import option
from phf.evaluation.measures.base import Axis, Column, Condition, Evaluated, ModelMeasure, estimate

if TYPE_CHECKING:
    from phf.evaluation.measures.references import ReferenceSample
    from phf.inference.loaded_model import LoadedModel

log = logging.getLogger("phf")


@dataclass
class KLOptions:
    """Options of `KL`."""

    reference: str = option(path=True)
    """The reference: a language model of `transformers` (folder or name), or the name of one at an
    endpoint."""
    base_url: str | None = None
    """Address of an OpenAI-compatible endpoint that gives log-probabilities of completions, such as
    `http://localhost:8000/v1`; null: `transformers` runs the reference."""
    key: str = "OPENAI_API_KEY"
    """Name of the environment variable with the endpoint's key; most local servers need none."""
    prompt: str = "<|endoftext|>"
    """The prompt that makes an endpoint begin a text."""
    concurrency: int = option(8, least=1)
    """Requests to an endpoint at a time."""
    samples: int = option(4096, least=1)
    """Samples of the reference."""
    max_tokens: int = option(64, least=1)
    """Longest sample, in tokens of the reference."""
    cache: str = option("data/reference", path=True)
    """Folder where samples of references are kept, so that all models are measured on the same ones."""


@dataclass(frozen=True)
class KLResults:
    """The KL divergence from a reference.

    Attributes:
        samples: Number of samples that count.
        by: `tokens` if the model gets the tokens of the reference. `text` if it gets the text, which it
            tokenizes as it did its corpus. Only the probability of this one tokenization then counts.
        reference: The reference.
        max_tokens: Longest sample, in tokens of the reference.
        kl: The KL divergence, in nats per sequence.
        reference_logp: Mean log-probability of a sample under the reference.
        model_logp: Mean log-probability of a sample under the model.
        left_out: Number of samples left out because they contain incomplete characters.
    """

    samples: int
    by: str
    reference: str
    max_tokens: int
    kl: Interval = estimate(UNBOUNDED)
    reference_logp: float | None = None
    model_logp: float | None = None
    left_out: int = 0


class KL(ModelMeasure):
    """KL divergence from a reference language model, from samples of the reference."""

    name = "kl"
    title = "KL from a reference"
    Options = KLOptions
    options: KLOptions
    Results = KLResults
    columns = (Column("KL", lambda found: found.kl),)
    axis = Axis("kl", "KL from the reference", lambda found: found.kl, "nats a sequence")

    @classmethod
    def legend(cls, found: Sequence[KLResults]) -> str:
        ways = sorted({one.by for one in found})
        said = f"KL: nats a sequence from the reference model, by {' or '.join(ways)}; 0 is the reference"
        if "text" in ways:  # only one tokenization of the text counts
            said += ", but by text even the reference itself gets a little more than 0"
        return f"{said}."

    @classmethod
    def conditions(cls, found: KLResults) -> Sequence[Condition]:
        return (
            Condition("reference", found.reference),
            Condition("number of samples", found.samples),
            Condition("max_tokens", found.max_tokens),
            Condition("reading (by)", found.by),
        )

    def inputs(self) -> Any:
        from phf.evaluation.measures.references import reference_identity

        return reference_identity(self.options)

    def check(self, evaluated: Evaluated) -> None:
        """Draws the samples of the reference that the cache lacks.

        Raises:
            ConfigError: The reference cannot be loaded, or its samples do not fit the model's context.
            PhfError: An endpoint fails, or no sample is left.
        """
        self.read_reference(evaluated)

    def measure(self, evaluated: Evaluated) -> KLResults:
        model, config = evaluated.model, self.options
        used, segments, left_out, by = self.read_reference(evaluated)
        rows = [
            # An endpoint does not say how probable the end was. Then the end counts for neither model.
            model.row("good", [], asked, end=by == "text" and sample.finished and sample.ids is not None)
            for sample, asked in zip(used, segments, strict=True)
        ]
        with progress("KL from the reference", len(rows)) as advance:
            logp = model.log_probabilities(rows, advance).tolist()
        gaps = [sample.logp - value for sample, value in zip(used, logp, strict=True)]
        kl = evaluated.bootstrap.mean(gaps)
        log.info("KL from %s: %s nats a sequence", config.reference, kl)
        return KLResults(
            len(used),
            by,
            config.reference,
            config.max_tokens,
            kl=kl,
            reference_logp=sum(sample.logp for sample in used) / len(used),
            model_logp=sum(logp) / len(used),
            left_out=left_out,
        )

    def read_reference(
        self, evaluated: Evaluated
    ) -> tuple[list[ReferenceSample], list[list[list[int]]], int, str]:
        """Returns the samples of the reference as the model reads them, and draws those that the cache lacks.

        A model that was made here was trained on segments, each tokenized on its own. It reads samples in the
        same way, with or without tags, so that runs can be compared.

        Returns:
            The samples that count, the tokens of each sample's segments, the number of samples left out, and
            `by` as in `KLResults`.

        Raises:
            ConfigError: The reference cannot be loaded, or its samples do not fit the model's context.
            PhfError: An endpoint fails, or no sample is left.
        """
        from phf.evaluation.measures.references import reference_samples, reference_tokenizer

        model, config = evaluated.model, self.options
        theirs = reference_tokenizer(config)
        tags = set(model.tokenizer.convert_ids_to_tokens(model.control.tag_tokens))
        if theirs is not None and tags & theirs.get_vocab().keys():
            raise ConfigError(
                f"evaluation.measures.kl.reference: {config.reference} has tags; a reference must have none"
            )
        samples = reference_samples(config, evaluated.evaluation.seed)
        by = (
            "tokens" if theirs is not None and model.facts is None and _same_tokens(theirs, model) else "text"
        )
        # By tokens, no sample is left out: the model gets the same tokens, incomplete characters included.
        used = [sample for sample in samples if by == "tokens" or "\ufffd" not in sample.text]
        if not used:
            raise PhfError(
                f"evaluation.measures.kl: none of {len(samples)} samples of {config.reference} is whole text"
            )
        segments = [[s.ids] if s.ids and by == "tokens" else model.encode(s.text) for s in used]
        longest = max(map(model.size, segments))
        if longest > model.limit:
            raise ConfigError(
                f"evaluation.measures.kl.max_tokens: a sample of {config.max_tokens} tokens takes "
                f"{longest} of the model's, and its context has room for {model.limit}: lower max_tokens"
            )
        return used, segments, len(samples) - len(used), by


def _same_tokens(theirs: Any, model: LoadedModel) -> bool:
    """Returns whether the reference's tokens have the same meaning for the model."""
    ours = model.tokenizer.get_vocab().items()
    return theirs.get_vocab().items() <= ours and theirs.eos_token_id == model.control.eos_id
