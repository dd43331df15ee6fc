"""Exporting a trained model as a folder that `transformers` loads by itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig, PreTrainedModel

from phf.base.errors import PhfError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FACTS_FILE = "phf.json"
"""What the framework knows of a model: objective, control tokens, threshold, scorer, corpus."""

_CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [pretraining-with-human-feedback]
---
# {name}

A {architecture} language model of {parameters:,} parameters, trained on {tokens:,} tokens with the objective
`{objective}` of *Pretraining Language Models with Human Preferences* (Korbak et al. 2023, arXiv 2302.08582).
Preference: `{scorer}` ({measures}), lower is better{threshold}.

```python
from transformers import pipeline

generator = pipeline("text-generation", model="{folder}")
print(generator("{prompt}", max_new_tokens=64, do_sample=True)[0]["generated_text"])
```
{control}
Files: weights and configuration, tokenizer, `generation_config.json`, and `{facts_file}`, the settings above.
"""

_CONTROL = """
Ask for good text with `{good}`, as above; `{bad}` asks for the opposite, no tag for text as in the corpus.
{kept}
"""
_KEPT = "The generation settings keep the model from writing tags itself."
_TEXT = "Tags are ordinary text, which the model may write itself."


def export_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, facts: Mapping[str, Any], folder: Path
) -> Path:
    """Writes weights, tokenizer, generation settings, model card and `phf.json`.

    Control tokens are banned in the generation settings, so that a plain `generate` never emits one; tags
    that are ordinary text cannot be. The folder appears under its name only when it is complete.

    Args:
        model: The language model.
        tokenizer: Its tokenizer, with the control tokens if there are any.
        facts: Contents of `phf.json`.
        folder: Where to; an older export is replaced.

    Returns:
        The folder.

    Raises:
        PhfError: The folder holds something else.
    """
    check_output(folder)
    temporary, old = (folder.with_name(f".{folder.name}.{end}") for end in ("tmp", "old"))
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    tags = facts["tags"]
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        suppress_tokens=[i for ids in tags["ids"] for i in ids] if tags and not tags["text"] else None,
    )
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    (temporary / FACTS_FILE).write_text(json.dumps(facts, indent=2) + "\n")
    (temporary / "README.md").write_text(_card(model, facts, folder))
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def check_output(folder: Path) -> None:
    """Refuses a folder that an export would not replace but destroy."""
    if folder.is_dir() and (not any(folder.iterdir()) or (folder / FACTS_FILE).is_file()):
        return
    if folder.exists():
        raise PhfError(f"{folder} is there and is no exported model: choose another folder")


def _card(model: PreTrainedModel, facts: Mapping[str, Any], folder: Path) -> str:
    threshold = facts["threshold"]
    tags = facts["tags"]
    good, bad = (tags["names"][0], tags["names"][-1]) if tags else ("", "")
    return _CARD.format(
        name=folder.parent.name if folder.name == "model" else folder.name,
        architecture=model.config.model_type,
        parameters=model.num_parameters(),
        tokens=facts["tokens"],
        objective=facts["objective"],
        scorer=facts["scorer"]["name"],
        measures=facts["scorer"]["measures"],
        threshold="" if threshold is None else f"; good means at most {threshold:g}",
        folder=folder.name,
        prompt=facts["eos_token"] + good,
        control=_CONTROL.format(good=good, bad=bad, kept=_TEXT if tags["text"] else _KEPT) if tags else "",
        facts_file=FACTS_FILE,
    )
