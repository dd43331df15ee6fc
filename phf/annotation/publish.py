"""Publishes annotated documents as a Hugging Face dataset, in the format of the paper's corpora.

A row is a document: its `id`, its segments `texts` (they join to its text), their `scores` (null = no score),
`avg_score`, `num_sents` and `spans`. The results of further scorers are in columns of the same names with the
suffix `_` and the scorer's name.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from phf.annotation.annotated_documents import Scores, read_annotated, usable_annotations
from phf.annotation.annotations import SCHEMA, Annotations
from phf.base.errors import ConfigError, PhfError
from phf.config import Config
from phf.documents.fingerprints import outputs
from phf.documents.progress import ShardProgress
from phf.documents.shards import Shard, bring_scores, list_shards

log = logging.getLogger("phf")

# Limits of what is held in memory before it is written.
_BATCH_DOCUMENTS = 1000
_BATCH_CHARACTERS = 1_000_000


def publish(
    config: Config, output: Path | None = None, hub: str | None = None, private: bool = False
) -> dict[str, int]:
    """Writes finished annotations, with their documents, as a Hugging Face dataset.

    Args:
        config: `documents`, `annotations` and the name of `scorer` are used. The column `scores` has the
            scores of that scorer.
        output: The output: one Parquet file if it ends in `.parquet`, else a folder as of `save_to_disk`.
        hub: Name of a dataset on the Hugging Face hub to upload to.
        private: Whether only the owner may see the dataset on the hub.

    Returns:
        Numbers of `documents`, of `segments`, and of `bad_rows`, which are left out.

    Raises:
        ConfigError: The output exists already or lies among the documents, the documents bring their scores,
            there is no token of the hub, or a dataset that must be private is public.
        PhfError: The annotations are not complete or do not fit the documents, or the dataset cannot be
            written or uploaded.
    """
    if bring_scores(config.documents):
        raise ConfigError(
            f"documents.format={config.documents.format}: these documents bring their scores already"
        )
    shards = list_shards(config.documents, leave_out=outputs(config))
    if output is not None:
        _check_output(output, Path(str(config.documents.path)))
    first = config.scorer.key
    found = usable_annotations(config.annotations.path, shards, wanted=first)
    scorers = [first, *(name for name in found if name != first)]
    annotations = [Annotations(Path(config.annotations.path) / name) for name in scorers]
    if hub is not None:
        _create_repository(hub, private)
    try:
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".phf-export-", dir=output and output.parent) as temporary:
            counts = _write(Path(temporary) / "rows.arrow", shards, annotations)
            _publish(Path(temporary), output, hub)
    except OSError as error:
        raise PhfError(f"the export cannot be written: {error}") from error
    log.info(
        "%s: %d segments of %d documents, scored by %s; %d bad rows left out",
        output or hub, counts["segments"], counts["documents"], ", ".join(scorers), counts["bad_rows"],
    )  # fmt: skip
    return counts


def _check_output(output: Path, documents: Path) -> None:
    if output.exists():
        raise ConfigError(f"{output} is there already: choose another place, or delete it")
    if documents.resolve() in output.resolve().parents:
        raise ConfigError(f"{output} lies among the documents: choose a place outside {documents}")


def _create_repository(hub: str, private: bool) -> None:
    """Creates the repository of the dataset, so that an upload that must fail does so before the export.

    Raises:
        ConfigError: There is no token, or the dataset must be private and is public already.
        PhfError: The repository cannot be created.
    """
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise ConfigError("no token of the hub: run `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    try:
        api.create_repo(hub, repo_type="dataset", private=private or None, exist_ok=True)
        is_private = api.dataset_info(hub).private
    except Exception as error:  # an invalid name, a token without permission, no network, ...
        raise _refused(hub, error) from error
    if private and not is_private:
        raise ConfigError(f"--private: the dataset {hub} is public already: make it private on the hub first")


def _refused(hub: str, error: Exception) -> PhfError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return PhfError(f"cannot upload to {hub}: {reason:.300}")


def _publish(folder: Path, output: Path | None, hub: str | None) -> None:
    """Converts the rows in a folder to their final format, and moves or uploads the result."""
    import datasets
    from huggingface_hub.utils.tqdm import disable_progress_bars

    datasets.logging.set_verbosity_error()  # the library warns if there is only one file to upload
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
        disable_progress_bars()
    dataset = datasets.Dataset.from_file(str(folder / "rows.arrow"), split=datasets.Split.TRAIN)
    if output is not None:
        finished = folder / "finished"
        if output.suffix == ".parquet":
            dataset.to_parquet(finished)
        else:
            dataset.save_to_disk(finished)
        finished.rename(output)
    if hub is not None:
        try:
            dataset.push_to_hub(hub)
        except Exception as error:
            raise _refused(hub, error) from error


def _write(path: Path, shards: Sequence[Shard], scorers: Sequence[Annotations]) -> dict[str, int]:
    """Writes all rows as an Arrow stream, which `datasets` maps into memory; returns the counts."""
    counts = dict.fromkeys(("documents", "segments", "bad_rows"), 0)
    schema = _schema(scorers)
    with ShardProgress("export", shards) as progress, pa.ipc.new_stream(str(path), schema) as writer:
        for shard in shards:
            failed = [{row.row for row in scorer.bad_rows(shard.name)} for scorer in scorers]
            counts["bad_rows"] += len(set.intersection(*failed))
            for rows in _batches(_rows(shard, scorers, failed)):
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
                counts["documents"] += len(rows)
                counts["segments"] += sum(row["num_sents"] for row in rows)
                progress.update(shard, shard.position, len(rows), counts["bad_rows"])
            progress.finish(shard, counts["bad_rows"])
    return counts


def _columns(scorers: Sequence[Annotations]) -> list[str]:
    """Returns the suffix of the column names of each scorer; the first scorer has none."""
    return ["", *(f"_{scorer.name}" for scorer in scorers[1:])]


def _schema(scorers: Sequence[Annotations]) -> pa.Schema:
    fields = [("id", pa.string()), ("texts", pa.list_(pa.string())), ("num_sents", pa.int32())]
    for end in _columns(scorers):
        fields += [
            (f"scores{end}", pa.list_(pa.float32())),
            (f"avg_score{end}", pa.float32()),
            (f"spans{end}", SCHEMA.field("spans").type),
        ]
    return pa.schema(fields)


def _rows(
    shard: Shard, scorers: Sequence[Annotations], failed: Sequence[set[int]]
) -> Iterator[dict[str, Any]]:
    """Yields the rows of the documents of a shard; `failed` has the rows that each scorer lists as bad."""
    readers = [_spans(scorer, shard.name) for scorer in scorers]
    for document in read_annotated(shard, scorers):
        texts = document.segments()
        row = {
            "id": document.id.encode(errors="replace").decode(),
            "texts": texts,
            "num_sents": len(texts),
        }
        for end, scores, spans, bad in zip(_columns(scorers), document.scores, readers, failed, strict=True):
            row[f"scores{end}"] = [None if np.isnan(score) else score for score in scores.tolist()]
            row[f"avg_score{end}"] = _mean(scores)
            row[f"spans{end}"] = [] if document.row in bad else next(spans)
        yield row


def _mean(scores: Scores) -> float | None:
    """Returns the plain mean over the scored segments, as in the published corpora; `None` without any."""
    known = scores[~np.isnan(scores)]
    return float(known.mean(dtype=np.float64)) if len(known) else None


def _spans(annotations: Annotations, shard: str) -> Iterator[list[dict[str, Any]]]:
    """Yields the spans of each document in a scorer's sidecar."""
    for batch in annotations.batches(shard, spans=True, size=1024):
        yield from batch.spans


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += sum(map(len, row["texts"]))
        if len(batch) == _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
