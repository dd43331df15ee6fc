"""The model that is evaluated: the export of a run, or any folder of a `transformers` causal LM."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from phf.base.errors import PhfError
from phf.model.control_tokens import ControlTokens
from phf.model.model_folder import FACTS_FILE


@dataclass(frozen=True)
class Subject:
    """A model on disk and what is known of it.

    Attributes:
        folder: The run folder, or the model folder where there is no run.
        model_folder: Where the weights are.
        facts: Its `phf.json`; empty for a model that was not made here.
        run: The run's `run.json`; empty where there is no run.
    """

    folder: Path
    model_folder: Path
    facts: dict[str, Any]
    run: dict[str, Any]

    def load(self) -> tuple[Any, Any, ControlTokens]:
        """The model (on a GPU if there is one), its tokenizer, and the tokens that are no text.

        Raises:
            PhfError: It is not a causal LM with a tokenizer, or they do not fit each other.
        """
        try:
            disable_progress_bar()  # of the weights of a local folder
            tokenizer = AutoTokenizer.from_pretrained(self.model_folder, local_files_only=True)
            model = AutoModelForCausalLM.from_pretrained(
                self.model_folder, dtype="auto", local_files_only=True
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise PhfError(
                f"{self.model_folder}: not a causal language model with its tokenizer: {reason}"
            ) from error
        model.eval()
        return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, self.control(tokenizer)

    def control(self, tokenizer: Any) -> ControlTokens:
        """The tokens that are no text, as ids."""
        if not self.facts:
            # Whatever opens a document: for GPT-2 both are <|endoftext|>.
            if tokenizer.eos_token_id is None:
                raise PhfError(f"{self.model_folder}: its tokenizer has no token that ends a document")
            return ControlTokens(tokenizer.eos_token_id, bos_id=tokenizer.bos_token_id)
        eos, tags = self.facts.get("eos_token"), self.facts.get("tags")
        if eos is None or "tags" not in self.facts:
            raise PhfError(f"{self.model_folder / FACTS_FILE}: no eos_token or tags; export the model again")
        vocabulary = tokenizer.get_vocab()
        for token in (eos, *(tags["names"] if tags and not tags["text"] else ())):
            if token not in vocabulary:
                raise PhfError(f"{self.model_folder}: {FACTS_FILE} names {token}, which the tokenizer lacks")
        if not tags:
            return ControlTokens(vocabulary[eos])
        return ControlTokens(vocabulary[eos], tuple(map(tuple, tags["ids"])), tags_are_text=tags["text"])


def find_subject(folder: Path) -> Subject:
    """Finds the model of a folder.

    Raises:
        PhfError: The folder holds none.
    """
    model_folder = folder / "model" if (folder / "model" / "config.json").is_file() else folder
    if not (model_folder / "config.json").is_file():
        if (folder / "config.yaml").is_file():
            raise PhfError(
                f"{folder}: the run has no model yet; finish it, or export a checkpoint with `phf export`"
            )
        raise PhfError(f"{folder}: neither a run (no model/config.json) nor a model (no config.json)")
    return Subject(folder, model_folder, _read(model_folder / FACTS_FILE), _read(folder / "run.json"))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise PhfError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise PhfError(f"{path}: must hold an object, not {type(content).__name__}")
    return content
