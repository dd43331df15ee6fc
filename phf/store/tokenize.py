"""Makes a token store from documents and their annotations: the verb `tokenize`."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from phf.annotation.annotated_documents import (
    AnnotatedDocument,
    read_annotated,
    read_scored,
    scores_of_rows,
    segments_check,
    usable_annotations,
)
from phf.annotation.annotations import Annotations
from phf.annotation.manifest import Manifest, ScorerRecord
from phf.base.errors import ConfigError, PhfError
from phf.base.files import replacing, write_json, writing
from phf.base.locks import lock
from phf.base.typed_json import from_json, to_json
from phf.base.version import __version__
from phf.config import Config
from phf.documents.fingerprints import outputs
from phf.documents.progress import ShardProgress
from phf.documents.shards import BadRow, Shard, bring_scores, list_shards
from phf.store.manifest import SplitCounts, StoreCounts, StoreManifest, published_scorer
from phf.store.store import MANIFEST, SPLITS, Split, TokenStore, describe_columns
from phf.store.tokenizer import SegmentEncoder, load_tokenizer, train_tokenizer, vocabulary_size
from phf.store.writer import COLUMN_KINDS, ColumnWriter, EncodedDocuments, SplitWriter

log = logging.getLogger("phf")

# Documents are tokenized in batches of this many segments or characters, which keep all cores at work.
_BATCH_SEGMENTS = 8192
_BATCH_CHARACTERS = 2_000_000

Read = Callable[[Shard], Iterator[AnnotatedDocument]]


def tokenize(config: Config) -> TokenStore:
    """Makes a token store from documents and their annotations.

    An existing store that still fits is kept. If it only lacks the scores of a scorer, these are added, and
    nothing is tokenized again.

    Args:
        config: `documents`, `annotations`, `tokenizer`, `store` and the name of `scorer` are used, and the
            options of `scorer` if the documents bring their scores.

    Raises:
        ConfigError: The folder holds another store, or the tokenizer does not exist.
        PhfError: The annotations are missing or do not fit the documents, no document is left to train on, or
            another process is making the same store.
    """
    shards = list_shards(config.documents, leave_out=outputs(config))
    annotations: dict[str, Manifest] = {}
    scorers = {config.scorer.key: published_scorer(config.scorer)}
    if not bring_scores(config.documents):
        annotations = usable_annotations(config.annotations.path, shards, wanted=config.scorer.key)
        scorers = {name: manifest.scorer for name, manifest in annotations.items()}
    wanted = StoreManifest.new(config, shards, annotations)
    path = Path(config.store.path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        busy = f"{path}: another process is making this store"
        with lock(path.with_name(f".{path.name}.lock"), busy):
            make = _complete if path.is_dir() and any(path.iterdir()) else _make
            return make(config, shards, scorers, wanted)


def _complete(
    config: Config, shards: Sequence[Shard], scorers: Mapping[str, ScorerRecord], wanted: StoreManifest
) -> TokenStore:
    """Adds the scores of missing scorers to the existing store.

    Raises:
        ConfigError: The store was made from something else.
        PhfError: A scorer annotated other segments.
    """
    path = Path(config.store.path)
    if not (path / MANIFEST).is_file():
        raise ConfigError(
            f"store.path: {path} holds something other than a token store: choose another folder"
        )
    store = TokenStore(path)
    wanted = from_json(StoreManifest, to_json(wanted), path, "")
    if differs := store.manifest.difference(wanted, config):
        raise ConfigError(f"{path} was made with {differs}: choose another store.path, or delete the folder")
    missing = [name for name in scorers if name not in store.scorers]
    if not missing:
        log.info("%s is there already: nothing to do", path)
    for name in missing:
        _add_column(store, shards, Annotations(Path(config.annotations.path) / name))
        store.manifest.annotations[name] = wanted.annotations[name]
        store.manifest.scores |= describe_columns(path, {name: scorers[name]})
        store.save_manifest()
        log.info("%s: scores of %s added", path, name)
    return store


def _make(
    config: Config, shards: Sequence[Shard], scorers: Mapping[str, ScorerRecord], manifest: StoreManifest
) -> TokenStore:
    path = Path(config.store.path)
    bad: list[BadRow] = []
    annotations = [Annotations(Path(config.annotations.path) / name) for name in scorers]
    brought = bring_scores(config.documents)

    def read(shard: Shard) -> Iterator[AnnotatedDocument]:
        if brought:
            return read_scored(shard, bad, config.documents.max_bad_rows)
        return read_annotated(shard, annotations)

    with replacing(path) as temporary:
        temporary.mkdir()
        tokenizer = _tokenizer(config, shards, read)
        tokenizer.save_pretrained(temporary / "tokenizer")
        bad.clear()  # training the tokenizer has listed the bad rows once already
        splits, num_empty = _write(
            temporary, config.store.heldout_fraction, shards, read, tokenizer, list(scorers)
        )
        manifest.counts = counts = StoreCounts(**splits, empty_documents=num_empty, bad_rows=len(bad))
        if not counts.train.documents:
            raise PhfError(_nothing(counts, bad))
        manifest.vocabulary = {"size": vocabulary_size(tokenizer), "eos_token": tokenizer.eos_token}
        manifest.scores = describe_columns(temporary, scorers)
        manifest.versions = {
            "phf": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("tokenizers", "transformers")},
        }
        if bad:
            lines = (json.dumps(asdict(row)) + "\n" for row in bad)
            (temporary / "bad.jsonl").write_text("".join(lines), encoding="utf-8")
        write_json(temporary / MANIFEST, to_json(manifest))
    log.info(
        "%s: %s tokens of %s documents to train on, %s of %s held out; %d are without tokens, %d bad rows",
        path, f"{counts.train.tokens:,}", f"{counts.train.documents:,}", f"{counts.heldout.tokens:,}",
        f"{counts.heldout.documents:,}", num_empty, len(bad),
    )  # fmt: skip
    return TokenStore(path)


def split_of(text: str, heldout_fraction: float) -> Split:
    """Returns the split of a document by a hash of its text, so that equal documents share a split."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return "heldout" if int.from_bytes(digest, "little") < heldout_fraction * 2**64 else "train"


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
) -> tuple[dict[Split, SplitCounts], int]:
    """Writes the arrays of both splits.

    Returns:
        The size of each split, and the number of documents without tokens.
    """
    encoder = SegmentEncoder(tokenizer)
    dtype = np.uint16 if vocabulary_size(tokenizer) <= 2**16 else np.uint32
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
        return {split: writer.counts for split, writer in writers.items()}, num_empty


def _batches(documents: Iterator[AnnotatedDocument]) -> Iterator[list[AnnotatedDocument]]:
    batch: list[AnnotatedDocument] = []
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


def _encode(
    encoder: SegmentEncoder, batch: Sequence[AnnotatedDocument], num_scorers: int
) -> EncodedDocuments:
    tokens, lengths = encoder.encode([s for document in batch for s in document.segments()])
    return EncodedDocuments(
        tokens,
        lengths,
        counts=np.array([len(document.ends) for document in batch]),
        scores=[np.concatenate([document.scores[i] for document in batch]) for i in range(num_scorers)],
        rows=np.array([document.row for document in batch]),
        checks=np.array([segments_check(document.ends) for document in batch], np.uint64),
    )


def _nothing(counts: StoreCounts, bad: Sequence[BadRow]) -> str:
    reasons = [
        f"{counts.heldout.documents} are held out",
        f"{counts.empty_documents} are without tokens",
    ]
    if bad:
        first = f"row {bad[0].row} of shard {bad[0].shard}: {bad[0].reason}"
        reasons.append(f"{len(bad)} rows cannot be read, the first is {first}")
    return f"documents.path: no document is left to train on ({', '.join(reasons)})"


def _add_column(store: TokenStore, shards: Sequence[Shard], annotations: Annotations) -> None:
    """Writes a scorer's scores of the segments that the store already has.

    Raises:
        PhfError: The scorer annotated other segments.
    """
    scorer = annotations.name
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
