"""Writes and reads the folder of an exported model.

An exported model is a folder that `transformers` loads by itself: weights, tokenizer, generation settings and
a model card. The file `phf.json` in it stores what the framework knows about the model (`ModelFacts`). A run
folder contains such a folder `model`, and `run.json` (`RunRecord`) once the run is finished.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from phf.annotation.manifest import ScorerRecord
from phf.base.errors import PhfError
from phf.base.files import write_json
from phf.base.typed_json import read_json, to_json
from phf.config import SegmenterConfig
from phf.model.control_tokens import ControlTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FACTS_FILE = "phf.json"
RUN_FILE = "run.json"

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
Files: weights and configuration, tokenizer, `generation_config.json`, `{facts_file}` (the settings above).
"""

_CONTROL = """
The tag `{good}` asks for good text, as above. `{bad}` asks for the opposite. Without a tag, the model writes
text as in the corpus.
{kept}
"""
_KEPT = """The generation settings ban every tag but the best. With `phf` installed,
`model.generate(..., **phf.follow_tags(FOLDER))` writes the good tag wherever the model would write any."""
_TEXT = "Tags are ordinary text, which the model may write itself."


@dataclass(frozen=True)
class TagFacts:
    """The tags of a model, from the best to the worst.

    Attributes:
        names: The text of each tag.
        ids: The tokens of each tag.
        thresholds: Ascending thresholds, one fewer than there are tags.
        text: Whether the tags are ordinary text instead of control tokens.
    """

    names: list[str]
    ids: list[list[int]]
    thresholds: list[float] = field(default_factory=list)
    text: bool = False


@dataclass(frozen=True)
class ModelFacts:
    """What the framework knows about a model that it trained.

    Attributes:
        objective: Name of the objective.
        tags: The model's tags; `None` if it has none.
        threshold: Scores up to this value are good; `None` if there is no threshold.
        scorer: The scorer of the corpus.
        segmenter: How the corpus was segmented.
        tokens: Number of tokens that the model was trained on.
        eos_token: The token before each document, which also ends a text.
        context_length: Tokens in a block.
        document_mask: Whether attention stayed within documents.
        store: The path of the token store; `None` if it is unknown.
        uses_scores: Whether the objective used scores; `None` in files of earlier versions.
    """

    objective: str
    tags: TagFacts | None
    threshold: float | None
    scorer: ScorerRecord
    segmenter: SegmenterConfig
    tokens: int
    eos_token: str
    context_length: int
    document_mask: bool = False
    store: str | None = None
    uses_scores: bool | None = None


@dataclass(frozen=True)
class RunRecord:
    """The record of a finished run.

    Attributes:
        name: Name of the run.
        objective: Name of the objective.
        tokens: Number of tokens that the model was trained on, in this run and before.
        steps: Optimizer steps of the run.
        wall_seconds: Time spent training.
        parameters: Number of parameters of the model.
        threshold: Scores up to this value are good; `None` if there is no threshold.
        uses_scores: Whether the objective used scores; `None` in files of earlier versions.
        versions: Versions of the software packages.
        machine: The operating system and the processor.
    """

    name: str
    objective: str
    tokens: int
    steps: int
    wall_seconds: float
    parameters: int
    threshold: float | None = None
    uses_scores: bool | None = None
    versions: dict[str, str] = field(default_factory=dict)
    machine: str = ""


@dataclass(frozen=True)
class ModelFolder:
    """A model on disk, and what the framework knows about it.

    Attributes:
        folder: The run folder, or the model folder if there is no run.
        weights: The folder of the weights and the tokenizer.
        facts: The model's facts; `None` for a model that this framework did not train.
        run: The record of the run that made the model; `None` if there is no run or it is not finished.
    """

    folder: Path
    weights: Path
    facts: ModelFacts | None = None
    run: RunRecord | None = None

    def control(self, tokenizer: Any) -> ControlTokens:
        """Returns the control tokens of the model, as ids.

        Raises:
            PhfError: The tokenizer lacks one of the tokens.
        """
        if self.facts is None:
            # For GPT-2, <|endoftext|> is both the eos and the bos token.
            if tokenizer.eos_token_id is None:
                raise PhfError(f"{self.weights}: the tokenizer has no token that ends a document (eos_token)")
            return ControlTokens(tokenizer.eos_token_id, bos_id=tokenizer.bos_token_id)
        eos, tags = self.facts.eos_token, self.facts.tags
        vocabulary = tokenizer.get_vocab()
        for token in (eos, *(tags.names if tags and not tags.text else ())):
            if token not in vocabulary:
                raise PhfError(f"{self.weights}: {FACTS_FILE} names {token}, which the tokenizer lacks")
        if not tags:
            return ControlTokens(vocabulary[eos])
        return ControlTokens(vocabulary[eos], tuple(map(tuple, tags.ids)), tags_are_text=tags.text)


def find_model(folder: Path) -> ModelFolder:
    """Finds the model of a run folder, or of a model folder of `transformers`.

    Raises:
        PhfError: The folder holds no model, or its `phf.json` or `run.json` cannot be read.
    """
    weights = folder / "model" if (folder / "model" / "config.json").is_file() else folder
    if not (weights / "config.json").is_file():
        if (folder / "config.yaml").is_file():
            raise PhfError(
                f"{folder}: the run has no model yet; finish it, or export a checkpoint with `phf export`"
            )
        raise PhfError(f"{folder}: neither a run (no model/config.json) nor a model (no config.json)")
    facts, run = weights / FACTS_FILE, folder / RUN_FILE
    return ModelFolder(
        folder,
        weights,
        read_json(facts, ModelFacts, "export the model again") if facts.is_file() else None,
        read_json(run, RunRecord, "delete it, and run `phf pretrain` again") if run.is_file() else None,
    )


def export_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, facts: ModelFacts, folder: Path
) -> Path:
    """Writes weights, tokenizer, generation settings, model card and `phf.json`.

    The generation settings ban every tag but the best, so that a plain `generate` goes on with good text, as
    far as settings alone can say it (`follow_tags` does it exactly). Tags that are ordinary text cannot be
    banned. The folder appears under its name only when it is complete.

    Args:
        model: The language model.
        tokenizer: The model's tokenizer, with the control tokens if there are any.
        facts: The facts to write to `phf.json`.
        folder: The folder to write. An older export in it is replaced.

    Returns:
        The folder.

    Raises:
        PhfError: The folder holds something other than an exported model.
    """
    check_output(folder)
    temporary, old = (folder.with_name(f".{folder.name}.{end}") for end in ("tmp", "old"))
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    tags = facts.tags
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        suppress_tokens=[i for ids in tags.ids[1:] for i in ids] if tags and not tags.text else None,
    )
    disable_progress_bar()  # otherwise `transformers` shows one for writing the weights
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    write_json(temporary / FACTS_FILE, to_json(facts))
    (temporary / "README.md").write_text(_card(model, facts, folder), encoding="utf-8")
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def check_output(folder: Path) -> None:
    """Raises a `PhfError` if a folder holds something other than an exported model, which would be lost."""
    if folder.is_dir() and (not any(folder.iterdir()) or (folder / FACTS_FILE).is_file()):
        return
    if folder.exists():
        raise PhfError(f"{folder} exists and is not an exported model: choose another folder")


def _card(model: PreTrainedModel, facts: ModelFacts, folder: Path) -> str:
    tags = facts.tags
    good, bad = (tags.names[0], tags.names[-1]) if tags else ("", "")
    return _CARD.format(
        name=folder.parent.name if folder.name == "model" else folder.name,
        architecture=model.config.model_type,
        parameters=model.num_parameters(),
        tokens=facts.tokens,
        objective=facts.objective,
        scorer=facts.scorer.name,
        measures=facts.scorer.measures,
        threshold="" if facts.threshold is None else f"; good means at most {facts.threshold:g}",
        folder=folder.name,
        prompt=facts.eos_token + good,
        control=_CONTROL.format(good=good, bad=bad, kept=_TEXT if tags.text else _KEPT) if tags else "",
        facts_file=FACTS_FILE,
    )
