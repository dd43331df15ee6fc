"""What alignment costs: how well a model still does what it was pretrained for."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from phf.config import EvaluationConfig
from phf.evaluation.capability.code import measure_functions, parse_rate, read_functions
from phf.evaluation.capability.heldout import measure_heldout
from phf.evaluation.capability.kl import measure_kl, read_reference
from phf.evaluation.capability.ranking import measure_ranking, read_pairs
from phf.evaluation.capability.references import reference_identity
from phf.evaluation.capability.sandbox import Limits, check_sandbox
from phf.evaluation.sample_scores import ScoredSample
from phf.inference.likelihood import Reader
from phf.model.loaded_model import Subject

log = logging.getLogger("phf")


def cost_inputs(evaluation: EvaluationConfig) -> dict[str, Any]:
    """What decides the measures besides the model and the configuration: files, and the reference.

    Raises:
        ConfigError: There is no such file or reference.
        PhfError: A file does not hold what it should.
    """
    inputs: dict[str, Any] = {}
    if evaluation.kl:
        inputs["kl"] = reference_identity(evaluation.kl)
    if evaluation.ranking and evaluation.ranking.pairs:
        inputs["ranking"] = _digest(list(read_pairs(evaluation.ranking.pairs)))
    if evaluation.code:
        inputs["code"] = _digest(read_functions(evaluation.code.functions))
    return inputs


def check_cost(subject: Subject, reader: Reader, evaluation: EvaluationConfig) -> None:
    """Finds what would else fail after sampling: no sandbox, a reference that cannot be read.

    Raises:
        ConfigError: The reference cannot be loaded, or its samples do not fit the model's context.
        PhfError: This machine cannot hold generated code, or an endpoint fails.
    """
    if evaluation.code:
        check_sandbox(Limits(evaluation.code.seconds, evaluation.code.memory_mb))
    if evaluation.kl:
        read_reference(reader, evaluation, evaluation.kl, segmented=bool(subject.facts))


def measure_cost(
    subject: Subject,
    reader: Reader,
    evaluation: EvaluationConfig,
    scored: Mapping[str, Sequence[ScoredSample]],
    output: Path,
) -> dict[str, Any]:
    """Everything of it that is asked for.

    Args:
        subject: The model's folder and what is known of it.
        reader: The model.
        evaluation: What to measure.
        scored: The samples of each scenario.
        output: Folder for files of its own.

    Returns:
        `heldout`, `kl`, `ranking` and `code`, as in `results.json`; `None` for what is not measured.
    """
    kl = (
        measure_kl(reader, evaluation, evaluation.kl, segmented=bool(subject.facts))
        if evaluation.kl
        else None
    )
    if kl:
        log.info("KL from %s: %.4g [%.4g, %.4g] nats a sequence", kl["reference"], *kl["kl"].values())
    return {
        "heldout": _heldout(subject, reader, evaluation),
        "kl": kl,
        "ranking": measure_ranking(reader, subject.facts, evaluation, evaluation.ranking)
        if evaluation.ranking
        else None,
        "code": {
            "parses": {
                name: parse_rate(samples, evaluation.confidence, evaluation.seed)
                for name, samples in scored.items()
            },
            **measure_functions(reader, evaluation, evaluation.code, output),
        }
        if evaluation.code
        else None,
    }


def _heldout(subject: Subject, reader: Reader, evaluation: EvaluationConfig) -> dict[str, Any] | None:
    facts = subject.facts
    if not facts.get("store"):
        log.info("no held-out loss: the model does not name its token store")
        return None
    return measure_heldout(
        reader.model,
        Path(facts["store"]),
        reader.control,
        scorer=facts["scorer"].get("column", facts["scorer"]["name"]),
        tag_thresholds=(facts.get("tags") or {}).get("thresholds", ()),
        threshold=evaluation.threshold,  # the same for all runs, or their losses could not be compared
        context_length=facts["context_length"],
        document_mask=facts.get("document_mask", False),
        num_blocks=evaluation.heldout_blocks,
        confidence=evaluation.confidence,
    )


def _digest(content: object) -> str:
    return hashlib.sha256(repr(content).encode("utf-8", "replace")).hexdigest()
