"""The verb `tokenize`: documents and their annotations in, a token store out."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

import phf
from phf.annotation.annotated_documents import (
    ScoredDocument,
    find_annotations,
    read_annotated,
    read_scored,
    scores_of_rows,
    segments_check,
)
from phf.base.errors import ConfigError, PhfError, writing
from phf.base.locks import lock
from phf.config import Config
from phf.documents.documents import BadRow, Shard
from phf.documents.fingerprints import difference, outputs, store_identity
from phf.documents.progress import ShardProgress
from phf.documents.shards import list_shards
from phf.store.store import SPLITS, Split, TokenStore, describe_scores
from phf.store.tokenizer import SegmentEncoder, load_tokenizer, train_tokenizer
from phf.store.writer import COLUMN_KINDS, ColumnWriter, EncodedDocuments, SplitWriter

log = logging.getLogger("phf")

# Documents are tokenized so many segments or characters at a time: enough to keep all cores at work.
_BATCH_SEGMENTS = 8192
_BATCH_CHARACTERS = 2_000_000

Read = Callable[[Shard], Iterator[ScoredDocument]]


def tokenize(config: Config) -> TokenStore:
    """Makes a token store of documents and their annotations; one that is there and still fits is kept.

    If it only lacks the scores of a scorer, these are added, and nothing is tokenized again.

    Args:
        config: `documents`, `annotations`, `tokenizer` and `store` are used; of `scorer` the name, if the
            documents bring their scores.

    Raises:
        ConfigError: The folder holds another store, or there is no such tokenizer.
        PhfError: The annotations are missing or do not fit the documents, nothing is left to train on, or
            another process makes the same store.
    """
    shards = list_shards(config.documents, leave_out=outputs(config))
    scored = config.documents.format == "scored"
    annotations = (
        {} if scored else find_annotations(config.annotations.path, shards, wanted=config.scorer.key)
    )
    scorers = _scorers(config, annotations)
    identity = store_identity(config, shards, annotations)
    path = Path(config.store.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path.with_name(f".{path.name}.lock"), f"{path}: another process is making this store"):
        make = _complete if path.is_dir() and any(path.iterdir()) else _make
        with writing(path):
            return make(config, shards, scorers, identity)


def _complete(
    config: Config, shards: Sequence[Shard], scorers: Mapping[str, Any], identity: Mapping[str, Any]
) -> TokenStore:
    """The store that is there, with the scores of all scorers."""
    path = Path(config.store.path)
    if not (path / "manifest.json").is_file():
        raise ConfigError(
            f"store.path: {path} holds something else than a token store: choose another folder"
        )
    store = TokenStore(path)
    missing = _missing_columns(store, identity, scorers)
    if not missing:
        log.info("%s is there already: nothing to do", path)
    for name in missing:
        _add_column(store, shards, name, Path(config.annotations.path) / name)
        store.manifest["annotations"][name] = identity["annotations"][name]
        store.manifest["scores"] |= describe_scores(path, {name: scorers[name]})
        _write_manifest(path, store.manifest)
        log.info("%s: scores of %s added", path, name)
    return store


def _make(
    config: Config, shards: Sequence[Shard], scorers: Mapping[str, Any], identity: Mapping[str, Any]
) -> TokenStore:
    path = Path(config.store.path)
    bad: list[BadRow] = []
    folders = [Path(config.annotations.path) / name for name in scorers]

    def read(shard: Shard) -> Iterator[ScoredDocument]:
        if config.documents.format == "scored":
            return read_scored(shard, bad, config.documents.max_bad_rows)
        return read_annotated(shard, folders)

    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    tokenizer = _tokenizer(config, shards, read)
    tokenizer.save_pretrained(temporary / "tokenizer")
    bad.clear()  # training has read the documents once already
    counts = _write(temporary, config.store.heldout_fraction, shards, read, tokenizer, list(scorers))
    if not counts["train"]["documents"]:
        raise PhfError(_nothing(counts, bad))
    manifest = {
        "format": 1,
        **identity,
        "vocabulary": {"size": len(tokenizer), "eos_token": tokenizer.eos_token},
        "counts": counts | {"bad_rows": len(bad)},
        "scores": describe_scores(temporary, scorers),
        "versions": {
            "phf": phf.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("tokenizers", "transformers")},
        },
    }
    if bad:
        lines = (json.dumps(asdict(row)) + "\n" for row in bad)
        (temporary / "bad.jsonl").write_text("".join(lines), encoding="utf-8")
    _write_manifest(temporary, manifest)
    temporary.replace(path)
    train, heldout = counts["train"], counts["heldout"]
    log.info(
        "%s: %s tokens of %s documents to train on, %s of %s held out; %d are without a token, %d bad rows",
        path, f"{train['tokens']:,}", f"{train['documents']:,}", f"{heldout['tokens']:,}",
        f"{heldout['documents']:,}", counts["empty_documents"], len(bad),
    )  # fmt: skip
    return TokenStore(path)


def split_of(text: str, heldout_fraction: float) -> Split:
    """The split of a document, by a hash of its text: equal documents fall on one side."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return "heldout" if int.from_bytes(digest, "little") < heldout_fraction * 2**64 else "train"


def _scorers(config: Config, annotations: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of scores, and what is known of each scorer."""
    if config.documents.format != "scored":
        return {name: manifest["scorer"] for name, manifest in annotations.items()}
    scorer = config.scorer
    known = {"name": scorer.name, "options": scorer.options, "measures": "as published with the documents"}
    return {scorer.key: known}


def _tokenizer(config: Config, shards: Sequence[Shard], read: Read) -> PreTrainedTokenizerFast:
    if not config.tokenizer.train:
        return load_tokenizer(config.tokenizer.name)

    def texts() -> Iterator[list[str]]:
        with ShardProgress("train tokenizer", shards) as progress:
            for shard in shards:
                for document in read(shard):
                    if split_of(document.text, config.store.heldout_fraction) == "train":
                        yield document.segments()
                    progress.update(shard, shard.position, 1, 0)
                progress.finish(shard, 0)

    return train_tokenizer(texts(), config.tokenizer.vocab_size)


def _write(
    folder: Path,
    heldout_fraction: float,
    shards: Sequence[Shard],
    read: Read,
    tokenizer: PreTrainedTokenizerFast,
    scorers: Sequence[str],
) -> dict[str, Any]:
    """Writes the arrays of both splits; says how much there is of what."""
    encoder = SegmentEncoder(tokenizer)
    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    num_empty = 0
    with ExitStack() as stack, ShardProgress("tokenize", shards) as progress:
        writers = {split: SplitWriter(stack, folder / split, dtype, scorers) for split in SPLITS}
        for number, shard in enumerate(shards):
            for batch in _batches(read(shard)):
                encoded = _encode(encoder, batch, len(scorers))
                has_tokens = encoded.num_tokens() > 0
                num_empty += int((~has_tokens).sum())
                splits = np.array([split_of(document.text, heldout_fraction) for document in batch])
                for split, writer in writers.items():
                    writer.add(number, encoded.select(has_tokens & (splits == split)))
                progress.update(shard, shard.position, len(batch), 0)
            progress.finish(shard, 0)
        return {**{split: writer.counts for split, writer in writers.items()}, "empty_documents": num_empty}


def _batches(documents: Iterator[ScoredDocument]) -> Iterator[list[ScoredDocument]]:
    batch: list[ScoredDocument] = []
    segments = characters = 0
    for document in documents:
        batch.append(document)
        segments += len(document.ends)
        characters += len(document.text)
        if segments >= _BATCH_SEGMENTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, segments, characters = [], 0, 0
    if batch:
        yield batch


def _encode(encoder: SegmentEncoder, batch: Sequence[ScoredDocument], num_scorers: int) -> EncodedDocuments:
    tokens, lengths = encoder.encode([s for document in batch for s in document.segments()])
    return EncodedDocuments(
        tokens,
        lengths,
        counts=np.array([len(document.ends) for document in batch]),
        scores=[np.concatenate([document.scores[i] for document in batch]) for i in range(num_scorers)],
        rows=np.array([document.row for document in batch]),
        checks=np.array([segments_check(document.ends) for document in batch], np.uint64),
    )


def _nothing(counts: Mapping[str, Any], bad: Sequence[BadRow]) -> str:
    reasons = [
        f"{counts['heldout']['documents']} are held out",
        f"{counts['empty_documents']} are without a token",
    ]
    if bad:
        first = f"row {bad[0].row} of shard {bad[0].shard}: {bad[0].reason}"
        reasons.append(f"{len(bad)} rows cannot be read, the first is {first}")
    return f"documents.path: no document is left to train on ({', '.join(reasons)})"


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    temporary = folder / ".manifest.tmp"
    temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / "manifest.json")


def _missing_columns(store: TokenStore, identity: Mapping[str, Any], scorers: Iterable[str]) -> list[str]:
    """Scorers whose column the store lacks.

    Raises:
        ConfigError: The store is made from something else.
    """
    try:
        differs = difference(store.manifest, json.loads(json.dumps(identity)))
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{store.path}/manifest.json is not that of a token store: delete the folder"
        ) from error
    if differs:
        raise ConfigError(
            f"{store.path} was made with {differs}: choose another store.path, or delete the folder"
        )
    return [scorer for scorer in scorers if scorer not in store.scorers]


def _add_column(store: TokenStore, shards: Sequence[Shard], scorer: str, annotations: Path) -> None:
    """Writes the scores of a scorer of the segments that the store already has.

    Raises:
        PhfError: The scorer annotated other segments.
    """
    temporary = store.path / f".{scorer}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    for name in SPLITS:
        split = store.split(name)
        bounds = np.searchsorted(split.document_shards, np.arange(len(shards) + 1))
        counts = np.diff(split.document_ends, prepend=0)
        lengths = np.diff(split.segment_ends, prepend=0)
        ends = np.concatenate(([0], split.document_ends))
        with ExitStack() as stack:
            column = ColumnWriter(stack, temporary / name, scorer)
            for number, shard in enumerate(shards):
                mine = slice(bounds[number], bounds[number + 1])
                scores = scores_of_rows(
                    annotations,
                    shard.name,
                    split.document_rows[mine],
                    counts[mine],
                    split.document_checks[mine],
                )
                column.add(scores, lengths[ends[mine.start] : ends[mine.stop]], counts[mine])
    for name in SPLITS:
        for kind in COLUMN_KINDS:
            (temporary / name / kind / f"{scorer}.npy").replace(store.path / name / kind / f"{scorer}.npy")
    shutil.rmtree(temporary)
