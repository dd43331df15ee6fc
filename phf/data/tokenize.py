"""The verb `tokenize`: documents and their annotations in, a token store out."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

import phf
from phf.config import Config
from phf.data.alignment import ScoredDocument, find_annotations, read_annotated, read_scored
from phf.data.arrays import ArrayWriter
from phf.data.documents import BadRow, Shard, list_shards
from phf.data.store import SPLITS, Split, TokenStore, describe_scores
from phf.data.tokenizer import SegmentEncoder, load_tokenizer, train_tokenizer
from phf.errors import ConfigError, PhfError

log = logging.getLogger("phf")

_BATCH_SEGMENTS = 20_000


def tokenize(config: Config) -> TokenStore:
    """Makes a token store of documents and their annotations; one that is there and still fits is kept.

    If only columns of scores are missing in it, only these are added.

    Raises:
        ConfigError: The folder holds another store, or there is no such tokenizer.
        PhfError: The annotations are missing or do not fit the documents.
    """
    shards = list_shards(config.documents)
    scored = config.documents.format == "scored"
    annotations = {} if scored else find_annotations(config.annotations.path, shards)
    scorers = [config.scorer.name] if scored else list(annotations)
    identity = _identity(config, shards, annotations)
    path = Path(config.store.path)
    folders = [Path(config.annotations.path) / name for name in scorers]
    bad: list[BadRow] = []

    def read(shard: Shard) -> Iterator[ScoredDocument]:
        if scored:
            return read_scored(shard, bad, config.documents.max_bad_rows)
        return read_annotated(shard, folders)

    if path.is_dir():
        store = TokenStore(path)
        missing = _missing_columns(store, identity, scorers)
        if not missing:
            log.info("%s is there already: nothing to do", path)
            return store
        folders = [Path(config.annotations.path) / name for name in missing]
        _add_columns(store, missing, _each(shards, read), config.store.heldout_fraction)
        store.manifest["annotations"] |= identity["annotations"]
        store.manifest["scores"] |= describe_scores(path, config, annotations, missing)
        _write_manifest(path, store.manifest)
        log.info("%s: scores of %s added", path, ", ".join(missing))
        return store

    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    for split in SPLITS:
        (temporary / split).mkdir(parents=True)
    documents = _each(shards, read)
    if config.tokenizer.train:
        training = _training_texts(_each(shards, read), config.store.heldout_fraction)
        tokenizer = train_tokenizer(training, config.tokenizer.vocab_size)
        bad.clear()
    else:
        tokenizer = load_tokenizer(config.tokenizer.name)
    tokenizer.save_pretrained(temporary / "tokenizer")
    counts = _write(documents, tokenizer, scorers, config.store.heldout_fraction, temporary)
    if not counts["train"]["documents"]:
        raise PhfError("no document is left to train on: there are none, or all are empty or held out")
    manifest = {
        "format": 1,
        "phf": phf.__version__,
        **identity,
        "counts": counts,
        "bad_rows": len(bad),
        "scores": describe_scores(temporary, config, annotations, scorers),
    }
    if bad:
        lines = (json.dumps(asdict(row)) + "\n" for row in bad)
        (temporary / "bad.jsonl").write_text("".join(lines), encoding="utf-8")
    _write_manifest(temporary, manifest)
    temporary.rename(path)
    log.info(
        "%s: %s tokens of %d documents to train on, %s of %d held out; %d rows bad",
        path, f"{counts['train']['tokens']:,}", counts["train"]["documents"],
        f"{counts['heldout']['tokens']:,}", counts["heldout"]["documents"], len(bad),
    )  # fmt: skip
    return TokenStore(path)


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    temporary = folder / ".manifest.tmp"
    temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / "manifest.json")


def split_of(text: str, heldout_fraction: float) -> Split:
    """The split of a document, by a hash of its text: equal documents fall on one side."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return "heldout" if int.from_bytes(digest, "little") < heldout_fraction * 2**64 else "train"


def _each(
    shards: Sequence[Shard], read: Callable[[Shard], Iterator[ScoredDocument]]
) -> Iterator[ScoredDocument]:
    for shard in shards:
        yield from read(shard)
        log.info("read %s", shard.name)


def _training_texts(documents: Iterator[ScoredDocument], fraction: float) -> Iterator[list[str]]:
    for document in documents:
        if split_of(document.text, fraction) == "train":
            yield document.segments()


class _SplitWriter:
    """Writes the arrays of one split."""

    def __init__(self, stack: ExitStack, folder: Path, dtype: type, scorers: Sequence[str]):
        array = _arrays(stack, folder)
        self.tokens = array("tokens", dtype)
        self.segment_ends = array("segment_ends", np.int64)
        self.document_ends = array("document_ends", np.int64)
        self.document_token_ends = array("document_token_ends", np.int64)
        self.columns = [_ColumnWriter(array, scorer) for scorer in scorers]

    def add(
        self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], scores: Sequence[NDArray[np.float32]]
    ) -> None:
        self.segment_ends.append(self.tokens.size + np.cumsum(lengths))
        self.tokens.append(tokens)
        self.document_ends.append([self.segment_ends.size])
        self.document_token_ends.append([self.tokens.size])
        for column, values in zip(self.columns, scores, strict=True):
            column.add(values)

    @property
    def counts(self) -> dict[str, int]:
        return {
            "documents": self.document_ends.size,
            "segments": self.segment_ends.size,
            "tokens": self.tokens.size,
        }


def _arrays(stack: ExitStack, folder: Path) -> Callable[[str, Any], ArrayWriter]:
    """Opens arrays of a split by name and type; the stack closes them."""

    def array(name: str, dtype: Any) -> ArrayWriter:
        path = folder / f"{name}.npy"
        path.parent.mkdir(exist_ok=True)
        return stack.enter_context(ArrayWriter(path, dtype))

    return array


class _ColumnWriter:
    """Writes a scorer's scores of segments and documents."""

    def __init__(self, array: Callable[[str, Any], ArrayWriter], scorer: str):
        self.scores = array(f"scores/{scorer}", np.float32)
        self.means = array(f"document_scores/{scorer}", np.float32)
        self.num_scored = array(f"document_num_scored/{scorer}", np.int32)

    def add(self, scores: NDArray[np.float32]) -> None:
        known = scores[~np.isnan(scores)]
        self.scores.append(scores)
        self.means.append([known.mean(dtype=np.float64) if len(known) else np.nan])
        self.num_scored.append([len(known)])


def _write(
    documents: Iterator[ScoredDocument],
    tokenizer: PreTrainedTokenizerFast,
    scorers: Sequence[str],
    fraction: float,
    folder: Path,
) -> dict[str, Any]:
    encoder = SegmentEncoder(tokenizer)
    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    empty = 0
    with ExitStack() as stack:
        writers = {split: _SplitWriter(stack, folder / split, dtype, scorers) for split in SPLITS}
        for batch in _batches(documents):
            segments = [document.segments() for document in batch]
            tokens, lengths = encoder.encode([s for document in segments for s in document])
            ends = np.cumsum(lengths)
            first = 0
            for document, pieces in zip(batch, segments, strict=True):
                last = first + len(pieces)
                start = int(ends[first - 1]) if first else 0
                stop = int(ends[last - 1]) if last else 0
                if stop == start:
                    empty += 1
                else:
                    split = split_of(document.text, fraction)
                    writers[split].add(tokens[start:stop], lengths[first:last], document.scores)
                first = last
        return {**{split: writer.counts for split, writer in writers.items()}, "empty_documents": empty}


def _batches(documents: Iterator[ScoredDocument]) -> Iterator[list[ScoredDocument]]:
    """Documents of about `_BATCH_SEGMENTS` segments at a time: the tokenizer works on them in parallel."""
    batch: list[ScoredDocument] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.ends)
        if size >= _BATCH_SEGMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _identity(config: Config, shards: Sequence[Shard], annotations: dict[str, Any]) -> dict[str, Any]:
    """What a store is made from; `annotations` by scorer, as columns can be added."""
    documents = asdict(config.documents)
    del documents["max_bad_rows"]
    tokenizer = config.tokenizer
    return {
        "documents": documents,
        "shards": {shard.name: shard.fingerprint() for shard in shards},
        "segmenter": next((m["segmenter"] for m in annotations.values()), asdict(config.segmenter)),
        "tokenizer": {"trained": tokenizer.vocab_size} if tokenizer.train else {"name": tokenizer.name},
        "heldout_fraction": config.store.heldout_fraction,
        "annotations": {name: manifest["scorer"]["fingerprint"] for name, manifest in annotations.items()},
    }


def _missing_columns(store: TokenStore, identity: dict[str, Any], scorers: Sequence[str]) -> list[str]:
    """Scorers whose column the store lacks.

    Raises:
        ConfigError: It is another store.
    """
    for key, value in json.loads(json.dumps(identity)).items():
        there = store.manifest[key]
        if key == "annotations":
            there = {**value, **{k: v for k, v in there.items() if k in value}}
        if there != value:
            raise ConfigError(
                f"{store.path} was made with other {key}: choose another store.path, or delete the folder"
            )
    return [scorer for scorer in scorers if scorer not in store.scorers]


def _add_columns(
    store: TokenStore, missing: Sequence[str], documents: Iterator[ScoredDocument], fraction: float
) -> None:
    """Writes the columns of scorers that annotated the same segments; nothing is tokenized again.

    Raises:
        PhfError: The documents do not have the segments of the store.
    """
    encoder = SegmentEncoder(store.tokenizer())
    with ExitStack() as stack:
        writers = {
            split: [_ColumnWriter(_arrays(stack, store.path / split), f".{name}.tmp") for name in missing]
            for split in SPLITS
        }
        for document in documents:
            # A document without a token is not in the store; only white space can be one.
            if not document.text.strip() and not encoder.encode(document.segments())[1].sum():
                continue
            split = split_of(document.text, fraction)
            for column, values in zip(writers[split], document.scores, strict=True):
                column.add(values)
        for split in SPLITS:
            for column in writers[split]:
                if column.scores.size != store.split(split).num_segments:
                    raise PhfError(
                        f"{store.path} has other segments than the annotations of {missing[0]}: "
                        "choose another store.path"
                    )
    for split, kind, name in product(SPLITS, ("scores", "document_scores", "document_num_scored"), missing):
        folder = store.path / split / kind
        (folder / f".{name}.tmp.npy").replace(folder / f"{name}.npy")
