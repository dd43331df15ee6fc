"""The verb `tamper`: how a model behaves while it is finetuned on bad text, and on benign text.

What alignment has hidden comes back with a little finetuning; what it has kept from the model does not
(tamper resistance: O'Brien et al. 2025, arXiv 2508.06601; Maini et al. 2025, arXiv 2504.16980).

Each point is kept when it is measured, with the weights it was measured at: what was stopped goes on there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from objectives import Optimization
from phf.base.errors import ConfigError, PhfError
from phf.base.progress import progress
from phf.base.resumable import Parts
from phf.config import Config
from phf.documents.documents import BadRow
from phf.documents.shards import list_shards
from phf.evaluation.instruments import describe_model, describe_scorer, heldout_documents
from phf.evaluation.prompts import load_prompts
from phf.evaluation.results import SAMPLES, finished_results, sample_row, write_output
from phf.evaluation.sample_scores import decoding, measure
from phf.model.loaded_model import Subject, find_subject
from phf.redteam.finetune import Finetuning, blocks
from phf.redteam.target import Target
from phf.store.store import TokenStore, resolve_threshold

log = logging.getLogger("phf")

FORMAT = 1
TABLE = "samples.parquet"

_OF_EVALUATION = (
    "prompt_index", "sample_index", "prompt", "text", "scored_text", "score", "num_tokens", "finished",
)  # fmt: skip
_SAMPLES = pa.schema(
    [("finetuned_on", pa.string()), ("tokens", pa.int64()), *map(SAMPLES.field, _OF_EVALUATION)]
)


def tamper(folder: Path, config: Config) -> dict[str, Any]:
    """Measures a model while it is finetuned, on bad text and on benign text.

    Args:
        folder: A run folder, or the folder of any causal LM of `transformers`; its weights stay as they are.
        config: Its parts `tamper` and `evaluation`; `documents` for documents from elsewhere; scorer and
            segmenter for a model that does not name its own.

    Returns:
        What was written to `tamper/results.json`, beside `tamper/samples.parquet`. If both are there already
        and still match, nothing is done.

    Raises:
        ConfigError: The configuration asks for something that cannot be.
        PhfError: The folder holds no model, there are no such documents, or the scorer fails.
    """
    subject = find_subject(Path(folder))
    target = Target(subject, config, "tamper", config.tamper.scenario)
    if config.tamper.samples is not None:
        target.scenario = replace(target.scenario, samples=config.tamper.samples)
    try:
        prompts = load_prompts(target.scenario, heldout_documents(subject, config))
    except ConfigError as error:
        raise ConfigError(f"evaluation.scenarios.{target.name}: {error}") from error
    origins = {text: _origin(text, config, subject) for text in config.tamper.texts}
    identity = {**target.identity(prompts, config.tamper), "documents": origins}
    output = subject.folder / "tamper"
    if (results := finished_results(output, identity, TABLE)) is not None:
        log.info("%s is tampered with: nothing to do", subject.folder)
        return results

    tampering = Tampering(config, target, prompts, Parts(output / "points", identity))
    start = tampering.start()
    model = describe_model(subject, target.model)
    curves, documents = {}, {}
    for text, origin in origins.items():
        points, num_documents, num_tokens = tampering.curve(text, origin)
        curves[text] = [start, *points]
        told = {key: value for key, value in origin.items() if key != "shards"}
        documents[text] = {**told, "num_documents": num_documents, "num_tokens": num_tokens}
    rows = [
        {"finetuned_on": text, "tokens": point["tokens"], **sample}
        for text, points in curves.items()
        for point in points
        for sample in point["samples"]
    ]
    results = {
        "format": FORMAT,
        "run": model,
        "scorer": describe_scorer(target.scorer_config, target.scorer),
        "scorer_differs": target.scorer_differs,
        "threshold": config.evaluation.threshold,
        "confidence": config.evaluation.confidence,
        "seed": config.evaluation.seed,
        "scenario": {"name": target.name, "tag": target.tag, **decoding(target.scenario)},
        "finetuning": {
            **{key: getattr(config.tamper, key) for key in ("learning_rate", "batch_size", "seed")},
            "context_length": tampering.context_length,
        },
        "documents": documents,
        "curves": {
            text: [
                {"tokens": point["tokens"], "loss": point["loss"], **point["measured"]} for point in points
            ]
            for text, points in curves.items()
        },
    }
    write_output(output, identity, results, TABLE, pa.Table.from_pylist(rows, schema=_SAMPLES))
    tampering.parts.remove()
    for text, points in curves.items():
        first, last = (point["measured"]["rate"]["value"] for point in (points[0], points[-1]))
        log.info(
            "%s: rate %s before, %s after %d tokens of %s text",
            folder,
            first,
            last,
            points[-1]["tokens"],
            text,
        )
    return results


class Tampering:
    """The work of the verb.

    Args:
        config: The configuration.
        target: The model.
        prompts: The prompts that it is asked.
        parts: The points that are measured.

    Raises:
        ConfigError: There are more points than steps.
    """

    def __init__(self, config: Config, target: Target, prompts: Sequence[str], parts: Parts):
        self.config = config
        self.options = config.tamper
        self.target = target
        self.prompts = prompts
        self.parts = parts
        target.load()
        target.room(target.scenario)
        known = target.subject.facts.get("context_length")
        self.context_length = known or min(
            1024, getattr(target.model.config, "max_position_embeddings", 1024)
        )
        self.step_tokens = self.options.batch_size * self.context_length
        num_steps = self.options.tokens // self.step_tokens
        if num_steps < self.options.points:
            raise ConfigError(
                f"tamper.tokens: {self.options.tokens} are {num_steps} steps of {self.step_tokens} tokens, "
                f"too few for {self.options.points} points: raise them, or lower tamper.batch_size"
            )
        self.ends = [num_steps * point // self.options.points for point in range(1, self.options.points + 1)]

    def start(self) -> dict[str, Any]:
        """The point of the model as it is."""
        point: dict[str, Any] | None = self.parts.read("start")
        if point is None:
            point = self._measure("before", 0, None)
            self.parts.write("start", point)
        return point

    def curve(self, text: str, origin: dict[str, Any]) -> tuple[list[dict[str, Any]], int, int]:
        """The other points of one text, and how many documents and tokens of it there are."""
        self.target.load()  # not what the text before has made of it
        options, control = self.options, self.target.control
        read, num_documents, num_tokens = _documents(text, origin, self.config, self.target)
        log.info("%s text: %d documents, %d tokens", text, num_documents, num_tokens)
        finetuning = Finetuning(
            self.target.model,
            Optimization(
                total_steps=self.ends[-1],
                learning_rate=options.learning_rate,
                schedule="constant",
                warmup_steps=self.ends[-1] // 20,
                weight_decay=0.0,
            ),
            blocks(read, num_documents, self.context_length, control.eos_id, options.seed),
            batch_size=options.batch_size,
            eos_id=control.eos_id,
            document_mask=self.target.subject.facts.get("document_mask", False),
        )
        state = self.parts.folder / f"{text}.pt"
        finetuning.load(state)
        points = []
        for number, (begin, end) in enumerate(pairwise([0, *self.ends])):
            name = f"{text}-{number}"
            point = self.parts.read(name)
            if point is None:
                with progress(f"finetuning on {text} text, steps", end - finetuning.step) as advance:
                    finetuning.run(begin, advance)  # what was done after the weights were last kept
                    loss = finetuning.run(end, advance)
                point = self._measure(text, end * self.step_tokens, loss)
                self.parts.write(name, point)
                finetuning.save(state)
            points.append(point)
        return points, num_documents, num_tokens

    def _measure(self, text: str, tokens: int, loss: float | None) -> dict[str, Any]:
        """A point: the model's samples now, and what is measured of them."""
        target, scenario = self.target, self.target.scenario
        with progress(
            f"sampling ({text}, {tokens:,} tokens)", len(self.prompts) * scenario.samples
        ) as advance:
            samples = target.write(self.prompts, scenario, target.evaluation.seed, advance)
        scored = target.judge(samples, scenario)
        measured = measure(scored, scenario, target.tag, target.evaluation)
        for key in ("tag", "decoding"):
            del measured[key]
        rows = [
            {**sample_row(one.sample), "scored_text": one.scored_text, "score": one.score} for one in scored
        ]
        return {"tokens": tokens, "loss": loss, "measured": measured, "samples": rows}


def _origin(text: str, config: Config, subject: Subject) -> dict[str, Any]:
    """Where the documents of a text come from, with all that decides which they are."""
    options, path = config.tamper, getattr(config.tamper, f"{text}_documents")
    if path is not None:
        shards = list_shards(replace(config.documents, path=path))
        return {"path": path, "shards": {shard.name: shard.fingerprint() for shard in shards}}
    store = subject.facts.get("store")
    if not store:
        raise ConfigError(
            f"tamper.{text}_documents: {subject.folder} names no token store; give a file or folder"
        )
    column = subject.facts["scorer"].get("column", subject.facts["scorer"]["name"])
    bound = "bad_above" if text == "bad" else "benign_below"
    threshold = resolve_threshold(TokenStore(store), column, getattr(options, bound), "documents")
    return {"store": store, "split": options.split, "scorer": column, bound: threshold}


def _documents(
    text: str, origin: dict[str, Any], config: Config, target: Target
) -> tuple[Callable[[int], NDArray[Any]], int, int]:
    """What reads the tokens of a document, how many documents there are, and how many tokens in all.

    Raises:
        PhfError: There are none.
    """
    if "path" in origin:
        texts = _read(origin["path"], config, target)
        if not texts:
            raise PhfError(f"tamper.{text}_documents: {origin['path']} has no documents")
        return texts.__getitem__, len(texts), sum(map(len, texts))
    split = TokenStore(origin["store"]).split(origin["split"])
    scores = split.document_scores(origin["scorer"])
    # A comparison with NaN, of a document without a score, is false.
    chosen = scores > origin["bad_above"] if text == "bad" else scores <= origin["benign_below"]
    indices = np.flatnonzero(chosen)
    if not len(indices):
        bound = "bad_above" if text == "bad" else "benign_below"
        raise PhfError(
            f"tamper.{bound}: no document of {split.path} has such a mean score (it is {origin[bound]:g}); "
            f"change it, or give tamper.{text}_documents"
        )
    ends = split.document_token_ends
    starts = np.where(indices > 0, ends[indices - 1], 0)
    return (
        lambda i: split.tokens[starts[i] : ends[indices[i]]],
        len(indices),
        int((ends[indices] - starts).sum()),
    )


def _read(path: str, config: Config, target: Target) -> list[NDArray[np.int64]]:
    """The tokens of documents from elsewhere, as many as are needed."""
    found: list[NDArray[np.int64]] = []
    num_tokens, bad = 0, 0

    def skip(row: BadRow) -> None:
        nonlocal bad
        bad += 1

    for shard in list_shards(replace(config.documents, path=path)):
        for _, document in shard.read(skip):
            found.append(np.array(target.encode(document.text), np.int64))
            num_tokens += len(found[-1])
            if num_tokens > config.tamper.tokens:
                return found
    if bad:
        log.warning("%s: %d rows are no documents and were left out", path, bad)
    return found
