"""Measures a model while it is finetuned on bad and on benign text: the verb `tamper`.

Behaviour that alignment only hid comes back with a little finetuning. Behaviour that the model never learned
does not (tamper resistance: O'Brien et al. 2025, arXiv 2508.06601; Maini et al. 2025, arXiv 2504.16980).

Each point is kept when it is measured, together with the weights at that point. A stopped measurement resumes
from there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from objectives.optimization import Optimization
from phf.base.errors import ConfigError, PhfError
from phf.base.progress import progress
from phf.base.resumable import Parts
from phf.base.typed_json import from_json, to_json
from phf.config import Config
from phf.documents.shards import BadRow, list_shards
from phf.evaluation.measures import configured_measures
from phf.evaluation.measures.base import SampleMeasure
from phf.evaluation.result_files import (
    finished_results,
    sample_row,
    sample_schema,
    type_measures,
    write_results,
)
from phf.evaluation.results import ScenarioResults, TamperPoint, TamperResults
from phf.evaluation.sample_scores import measure
from phf.model.model_folder import ModelFolder, find_model
from phf.redteam.finetune import Finetuning, blocks
from phf.redteam.target import Target
from phf.store.store import TokenStore, resolve_threshold
from scorers.open_set import place_of

log = logging.getLogger("phf")

TABLE = "samples.parquet"

_OF_EVALUATION = (
    "prompt_index", "sample_index", "prompt", "text", "scored_text", "score", "num_tokens", "finished",
)  # fmt: skip
_SAMPLES = pa.schema(
    [("finetuned_on", pa.string()), ("tokens", pa.int64()), *map(sample_schema().field, _OF_EVALUATION)]
)


def tamper(folder: Path, config: Config) -> TamperResults:
    """Measures a model while it is finetuned, on bad text and on benign text.

    Args:
        folder: A run folder, or the folder of any causal LM of `transformers`; its weights stay as they are.
        config: The sections `tamper` and `evaluation` are used; `documents` for documents from files. For a
            model that does not name its own scorer, segmenter and store, those sections are used too.

    Returns:
        The results that are in `tamper/results.json`, beside `tamper/samples.parquet`. If both files exist
        and still match, nothing is computed.

    Raises:
        ConfigError: The configuration is invalid for this model.
        PhfError: The folder holds no model, there are no such documents, or the scorer fails.
    """
    source = find_model(Path(folder))
    target = Target(source, config, "tamper", config.tamper.scenario)
    if config.tamper.samples is not None:
        target.scenario = replace(target.scenario, samples=config.tamper.samples)
    prompts = target.instruments.prompts({target.name: target.scenario})[target.name]
    origins = {text: _origin(text, config, source) for text in config.tamper.texts}
    measures = [
        one for one in configured_measures(config.evaluation).values() if isinstance(one, SampleMeasure)
    ]
    identity = {
        **target.identity(prompts, config.tamper),
        "documents": origins,
        "measures": {one.name: asdict(one.options) for one in measures},
    }
    output = source.folder / "tamper"
    if (results := finished_results(output, identity, TamperResults, TABLE)) is not None:
        log.info("%s is already tampered with: nothing to do", source.folder)
        return results

    tampering = Tampering(config, target, prompts, measures, Parts(output / "points", identity))
    start = tampering.start()
    settings = target.settings(config.evaluation.seed, target.scenario)
    curves, documents = {}, {}
    for text, origin in origins.items():
        points, num_documents, num_tokens = tampering.curve(text, origin)
        curves[text] = [start, *points]
        told = {key: value for key, value in origin.items() if key != "shards"}
        documents[text] = {**told, "num_documents": num_documents, "num_tokens": num_tokens}
    rows = [
        {"finetuned_on": text, "tokens": point.tokens, **sample}
        for text, points in curves.items()
        for point, samples in points
        for sample in samples
    ]
    results = TamperResults(
        **vars(settings),
        finetuning={
            **{key: getattr(config.tamper, key) for key in ("learning_rate", "batch_size", "seed")},
            "context_length": tampering.context_length,
        },
        documents=documents,
        curves={text: [point for point, _ in points] for text, points in curves.items()},
        measured_by=tampering.measured_by,
    )
    write_results(output, identity, results, pa.Table.from_pylist(rows, schema=_SAMPLES), TABLE)
    tampering.parts.remove()
    for text, curve in results.curves.items():
        log.info(
            "%s: rate %s before, %s after %d tokens of %s text",
            folder, curve[0].rate.value, curve[-1].rate.value, curve[-1].tokens, text,
        )  # fmt: skip
    return results


Point = tuple[TamperPoint, list[dict[str, Any]]]
"""A point of a curve, and the rows of its samples."""


class Tampering:
    """Measures a model before and during its finetuning.

    Args:
        config: The configuration.
        target: The model.
        prompts: The prompts that the model is asked.
        measures: Further measures of the model's samples.
        parts: Keeps the measured points.

    Raises:
        ConfigError: There are more points than optimizer steps.
    """

    def __init__(
        self,
        config: Config,
        target: Target,
        prompts: Sequence[str],
        measures: Sequence[SampleMeasure],
        parts: Parts,
    ):
        self.config = config
        self.options = config.tamper
        self.target = target
        self.prompts = prompts
        self.measures = measures
        self.measured_by = {one.name: place_of(type(one)) for one in measures}
        self.parts = parts
        target.room(target.scenario)
        facts = target.source.facts
        self.context_length = facts.context_length if facts else min(1024, target.model.limit)
        self.step_tokens = self.options.batch_size * self.context_length
        num_steps = self.options.tokens // self.step_tokens
        if num_steps < self.options.points:
            raise ConfigError(
                f"tamper.tokens: {self.options.tokens} are {num_steps} steps of {self.step_tokens} tokens, "
                f"too few for {self.options.points} points: raise tamper.tokens, or lower tamper.batch_size"
            )
        self.ends = [num_steps * point // self.options.points for point in range(1, self.options.points + 1)]

    def start(self) -> Point:
        """Measures the model before it is finetuned."""
        return self._kept("start") or self._measure("start", "before", 0, None)

    def curve(self, text: str, origin: dict[str, Any]) -> tuple[list[Point], int, int]:
        """Finetunes on one kind of text and measures the points on the way.

        Returns:
            The points after the start, and the number of documents and of tokens of the text.
        """
        self.target.reload()  # the previous text has changed the weights
        options, model, facts = self.options, self.target.model, self.target.source.facts
        read, num_documents, num_tokens = _documents(text, origin, self.config, self.target)
        log.info("%s text: %d documents, %d tokens", text, num_documents, num_tokens)
        finetuning = Finetuning(
            model.network,
            Optimization(
                total_steps=self.ends[-1],
                learning_rate=options.learning_rate,
                schedule="constant",
                warmup_steps=self.ends[-1] // 20,
                weight_decay=0.0,
            ),
            blocks(read, num_documents, self.context_length, model.control.eos_id, options.seed),
            batch_size=options.batch_size,
            eos_id=model.control.eos_id,
            document_mask=facts is not None and facts.document_mask,
        )
        state = self.parts.folder / f"{text}.pt"
        finetuning.load(state)
        points = []
        for number, (begin, end) in enumerate(pairwise([0, *self.ends])):
            name = f"{text}-{number}"
            point = self._kept(name)
            if point is None:
                with progress(f"finetuning on {text} text, steps", end - finetuning.step) as advance:
                    finetuning.run(begin, advance)  # repeats the steps after the last saved weights
                    loss = finetuning.run(end, advance)
                point = self._measure(name, text, end * self.step_tokens, loss)
                finetuning.save(state)
            points.append(point)
        return points, num_documents, num_tokens

    def _kept(self, name: str) -> Point | None:
        """Reads a point that was measured before; `None` if there is none."""
        part = self.parts.read(name)
        if part is None:
            return None
        point = from_json(TamperPoint, part["point"], self.parts.folder, "delete it")
        type_measures([point.measures], self.measured_by, self.parts.folder, "delete it")
        return point, part["samples"]

    def _measure(self, name: str, text: str, tokens: int, loss: float | None) -> Point:
        """Samples the model as it is now, measures the samples, and keeps the point."""
        target, scenario = self.target, self.target.scenario
        with progress(
            f"sampling ({text}, {tokens:,} tokens)", len(self.prompts) * scenario.samples
        ) as advance:
            samples = target.write(self.prompts, scenario, target.evaluation.seed, advance)
        scored = target.judge(samples, scenario)
        measured = measure(scored, scenario, target.tag, target.evaluation, self.measures)
        same = {one.name: getattr(measured, one.name) for one in fields(ScenarioResults)}
        point = TamperPoint(**same | {"decoding": {}}, tokens=tokens, loss=loss)
        rows = [
            {**sample_row(one.sample), "scored_text": one.scored_text, "score": one.score} for one in scored
        ]
        self.parts.write(name, {"point": to_json(point), "samples": rows})
        return point, rows


def _origin(text: str, config: Config, source: ModelFolder) -> dict[str, Any]:
    """Describes where the documents of a text come from, including everything that decides their choice."""
    options, path = config.tamper, getattr(config.tamper, f"{text}_documents")
    if path is not None:
        shards = list_shards(replace(config.documents, path=path))
        return {"path": path, "shards": {shard.name: shard.fingerprint() for shard in shards}}
    facts = source.facts
    if facts is None or not facts.store:
        raise ConfigError(
            f"tamper.{text}_documents: {source.folder} names no token store; give a file or folder"
        )
    store, column = facts.store, facts.scorer.key
    bound = "bad_above" if text == "bad" else "benign_below"
    threshold = resolve_threshold(TokenStore(store), column, getattr(options, bound), "documents")
    return {"store": store, "split": options.split, "scorer": column, bound: threshold}


def _documents(
    text: str, origin: dict[str, Any], config: Config, target: Target
) -> tuple[Callable[[int], NDArray[Any]], int, int]:
    """Returns a function that reads the tokens of a document, the number of documents, and of all tokens.

    Raises:
        PhfError: There are no documents.
    """
    if "path" in origin:
        texts = _read(origin["path"], config, target)
        if not texts:
            raise PhfError(f"tamper.{text}_documents: {origin['path']} has no documents")
        return texts.__getitem__, len(texts), sum(map(len, texts))
    split = TokenStore(origin["store"]).split(origin["split"])
    scores = split.document_scores(origin["scorer"])
    # A document without a score has NaN, and a comparison with NaN is false.
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
    """Reads and tokenizes documents from files, as many as are needed."""
    found: list[NDArray[np.int64]] = []
    num_tokens, bad = 0, 0

    def skip(row: BadRow) -> None:
        nonlocal bad
        bad += 1

    shards = list_shards(replace(config.documents, path=path))
    for _, document in chain.from_iterable(shard.read(skip) for shard in shards):
        found.append(np.array(target.encode(document.text), np.int64))
        num_tokens += len(found[-1])
        if num_tokens > config.tamper.tokens:
            break
    if bad:
        log.warning("%s: %d rows are not documents and were left out", path, bad)
    return found
