"""KL(reference || model), the distance that training moved a model from a reference language model.

It is the mean over samples x of the reference of log p_ref(x) - log p_model(x), in nats a sequence, as in
Korbak et al. 2023 (arXiv 2302.08582, section 4). A model with tags gets the good one before each segment, as
in training, and tags do not count. Where segments end is so told to it, which its reference had to foresee.
"""

from __future__ import annotations

from typing import Any

from phf.base.errors import ConfigError, PhfError
from phf.base.estimates import mean_by_cluster
from phf.base.progress import progress
from phf.config import EvaluationConfig, KLConfig, ScenarioConfig
from phf.evaluation.capability.references import ReferenceSample, reference_samples, reference_tokenizer
from phf.inference.likelihood import Reader


def measure_kl(
    reader: Reader, evaluation: EvaluationConfig, config: KLConfig, *, segmented: bool
) -> dict[str, Any]:
    """The KL divergence from a reference, with its interval.

    Args:
        reader: The model.
        evaluation: Confidence and seed.
        config: The reference.
        segmented: Whether the model was trained on segments that were tokenized each on its own, as all that
            are made here. With tags or without, it reads samples so too: else runs could not be compared.

    Returns:
        `kl` (`value`, `low`, `high`) in nats a sequence; the mean log-probabilities `reference_logp` and
        `model_logp`; the number of `samples`; `by`: `tokens` if the model gets those of the
        reference, else `text`: it reads the text as its corpus, and the probability of that one way to write
        it counts; `left_out`: samples that are no whole characters and so no text, where it is by text.

    Raises:
        ConfigError: The reference cannot be loaded, or its samples do not fit the model's context.
        PhfError: An endpoint fails, or no sample is left.
    """
    used, segments, left_out, by = read_reference(reader, evaluation, config, segmented=segmented)
    rows = [
        # An endpoint does not say how probable the end was: it counts for neither, or for both.
        reader.row("good", [], asked, end=by == "text" and sample.finished and sample.ids is not None)
        for sample, asked in zip(used, segments, strict=True)
    ]
    with progress("KL from the reference", len(rows)) as advance:
        logp = reader.log_probabilities(rows, advance).tolist()
    gaps = [sample.logp - value for sample, value in zip(used, logp, strict=True)]
    return {
        "kl": mean_by_cluster(gaps, None, evaluation.confidence, evaluation.seed),
        "reference_logp": sum(sample.logp for sample in used) / len(used),
        "model_logp": sum(logp) / len(used),
        "samples": len(used),
        "left_out": left_out,
        "by": by,
        "reference": config.reference,
        "max_tokens": config.max_tokens,
    }


def read_reference(
    reader: Reader, evaluation: EvaluationConfig, config: KLConfig, *, segmented: bool
) -> tuple[list[ReferenceSample], list[list[list[int]]], int, str]:
    """The samples of the reference as the model reads them; those that are not there yet are drawn.

    Args:
        reader: The model.
        evaluation: The seed.
        config: The reference.
        segmented: As for `measure_kl`.

    Returns:
        The samples that count, the tokens of each one's segments, how many samples are left out, and `by`.

    Raises:
        ConfigError: The reference cannot be loaded, or its samples do not fit the model's context.
        PhfError: An endpoint fails, or no sample is left.
    """
    theirs = reference_tokenizer(config)
    tags = set(reader.tokenizer.convert_ids_to_tokens(reader.control.banned(ScenarioConfig())))
    if theirs is not None and tags & theirs.get_vocab().keys():
        raise ConfigError(f"evaluation.kl.reference: {config.reference} has tags; a reference must have none")
    samples = reference_samples(config, evaluation.seed)
    by = "tokens" if theirs is not None and not segmented and _same_tokens(theirs, reader) else "text"
    # By tokens nothing is lost: the model gets what the reference wrote, cut characters included.
    used = [sample for sample in samples if by == "tokens" or "\ufffd" not in sample.text]
    if not used:
        raise PhfError(f"evaluation.kl: none of {len(samples)} samples of {config.reference} is whole text")
    segments = [[s.ids] if s.ids and by == "tokens" else reader.encode(s.text) for s in used]
    longest = max(map(reader.size, segments))
    if longest > reader.limit:
        raise ConfigError(
            f"evaluation.kl.max_tokens: a sample of {config.max_tokens} tokens is {longest} of the model's, "
            f"and its context has room for {reader.limit}: make it smaller"
        )
    return used, segments, len(samples) - len(used), by


def _same_tokens(theirs: Any, reader: Reader) -> bool:
    """Whether what the reference writes means the same to the model."""
    ours = reader.tokenizer.get_vocab().items()
    return theirs.get_vocab().items() <= ours and theirs.eos_token_id == reader.control.eos_id
