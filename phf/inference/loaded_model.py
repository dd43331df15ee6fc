"""Loads a model from disk, with its tokenizer, its tags and what is known of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from phf.base.errors import PhfError
from phf.config import ScenarioConfig, SegmenterConfig
from phf.documents.segments import segmenter
from phf.inference.generate import Sample, generate_all
from phf.inference.language_model import LanguageModel
from phf.model.model_folder import ModelFacts, ModelFolder, find_model


@dataclass(frozen=True)
class LoadedModel(LanguageModel):
    """A model from a run folder, or from any folder of a causal LM of `transformers`.

    Attributes:
        source: The model's folder on disk, and what is known of the model.
    """

    source: ModelFolder = None  # type: ignore[assignment]  # fields after a default need a default

    @property
    def facts(self) -> ModelFacts | None:
        """What the framework recorded about the model; `None` for a model made elsewhere."""
        return self.source.facts

    def generate(
        self,
        scenarios: Mapping[str, tuple[Sequence[str], ScenarioConfig]],
        *,
        vllm: bool = False,
        **options: Any,
    ) -> dict[str, list[Sample]]:
        """Draws the samples of scenarios; see `phf.inference.generate.generate_all`.

        Args:
            scenarios: For each name, the prompts and the scenario.
            vllm: Whether vLLM generates.
            **options: Further arguments of `generate_all`.
        """
        return generate_all(self, scenarios, vllm_folder=self.source.weights if vllm else None, **options)


def load_model(source: ModelFolder | Path | str, segments: SegmenterConfig | None = None) -> LoadedModel:
    """Loads a model, onto a GPU if there is one.

    Args:
        source: A run folder, any folder of a causal LM of `transformers`, or the result of `find_model`.
        segments: How to cut text, for a model that does not record how its corpus was cut; by default into
            sentences.

    Raises:
        PhfError: The folder holds no causal LM with a tokenizer, or the two do not fit each other.
    """
    if not isinstance(source, ModelFolder):
        source = find_model(Path(source))
    try:
        disable_progress_bar()  # otherwise `transformers` shows one for reading the weights
        tokenizer = AutoTokenizer.from_pretrained(source.weights, local_files_only=True)
        network = AutoModelForCausalLM.from_pretrained(source.weights, dtype="auto", local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise PhfError(
            f"{source.weights}: not a causal language model with its tokenizer: {reason}"
        ) from error
    return LoadedModel(
        network.eval().to("cuda" if torch.cuda.is_available() else "cpu"),
        tokenizer,
        source.control(tokenizer),
        segmenter(source.facts.segmenter if source.facts else segments or SegmenterConfig()),
        source.facts.context_length if source.facts else None,
        source,
    )
