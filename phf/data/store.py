"""The token store: a tokenized corpus and its scores as memory-mapped arrays, and the verb `tokenize`.

Layout, with `{split}` one of `train` and `heldout`:

    manifest.json                           counts, quantiles, fingerprints
    tokenizer/                              as `transformers` saves it
    {split}/tokens.npy                      uint16 or uint32 [tokens]
    {split}/segment_ends.npy                int64 [segments], in tokens
    {split}/document_ends.npy               int64 [documents], in segments
    {split}/document_token_ends.npy         int64 [documents], in tokens
    {split}/scores/{scorer}.npy             float32 [segments], NaN = could not be scored
    {split}/document_scores/{scorer}.npy    float32 [documents], mean of its segments that have a score
    {split}/document_num_scored/{scorer}.npy  int32 [documents], how many these are
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

import phf
from phf.config import Config
from phf.data.alignment import ScoredDocument, find_annotations, read_annotated, read_scored
from phf.data.arrays import ArrayWriter, open_array
from phf.data.documents import BadRow, Shard, list_shards
from phf.data.tokenizer import SegmentEncoder, load_tokenizer, train_tokenizer
from phf.errors import ConfigError, PhfError

log = logging.getLogger("phf")

SPLITS = ("train", "heldout")
_BATCH_SEGMENTS = 20_000
_GRID = [i / 1000 for i in range(1001)]
_UNITS = ("segments", "tokens", "documents")

Split = Literal["train", "heldout"]


class StoreSplit:
    """The arrays of one split, opened on first use and mapped into memory; see the module's docstring."""

    def __init__(self, path: Path):
        self.path = path

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}  # another process maps the files itself

    @cached_property
    def tokens(self) -> NDArray[Any]:
        """uint16 or uint32 [tokens]."""
        return open_array(self.path / "tokens.npy")

    @cached_property
    def segment_ends(self) -> NDArray[np.int64]:
        """int64 [segments], in tokens."""
        return open_array(self.path / "segment_ends.npy")

    @cached_property
    def document_ends(self) -> NDArray[np.int64]:
        """int64 [documents], in segments."""
        return open_array(self.path / "document_ends.npy")

    @cached_property
    def document_token_ends(self) -> NDArray[np.int64]:
        """int64 [documents], in tokens."""
        return open_array(self.path / "document_token_ends.npy")

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_segments(self) -> int:
        return len(self.segment_ends)

    @property
    def num_documents(self) -> int:
        return len(self.document_ends)

    def scores(self, scorer: str) -> NDArray[np.float32]:
        """float32 [segments], NaN = could not be scored."""
        return self._column("scores", scorer)

    def document_scores(self, scorer: str) -> NDArray[np.float32]:
        """float32 [documents], mean over the segments with a score; NaN if there is none."""
        return self._column("document_scores", scorer)

    def document_num_scored(self, scorer: str) -> NDArray[np.int32]:
        """int32 [documents], number of segments with a score."""
        return self._column("document_num_scored", scorer)

    def _column(self, kind: str, scorer: str) -> NDArray[Any]:
        path = self.path / kind / f"{scorer}.npy"
        if not path.is_file():
            there = ", ".join(sorted(p.stem for p in path.parent.glob("*.npy"))) or "none"
            raise PhfError(f"{self.path.parent} has no scores of {scorer}, only: {there}")
        return open_array(path)


class TokenStore:
    """A tokenized corpus.

    Args:
        path: Its folder.

    Raises:
        PhfError: There is no store.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        manifest = self.path / "manifest.json"
        if not manifest.is_file():
            raise PhfError(f"no token store in {self.path}; run `phf tokenize` first, or set store.path")
        self.manifest: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))

    @property
    def scorers(self) -> list[str]:
        """Names of the columns of scores."""
        return list(self.manifest["scores"])

    def split(self, name: Split) -> StoreSplit:
        """The arrays of a split."""
        return StoreSplit(self.path / name)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer of the corpus, without control tokens unless it came with them."""
        return load_tokenizer(self.path / "tokenizer")


def resolve_threshold(
    store: TokenStore,
    scorer: str,
    threshold: float | str,
    quantile_of: Literal["tokens", "segments", "documents"],
) -> float:
    """A threshold as a number.

    Args:
        store: The corpus.
        scorer: The column of scores.
        threshold: A number, or a quantile such as `q0.05`: the smallest score that this share of the training
            text does not exceed. Text without a score does not count.
        quantile_of: What the share is counted in; documents have their mean score.

    Raises:
        PhfError: There is no such column, or no score in it.
    """
    if not isinstance(threshold, str):
        return float(threshold)
    return float(
        _quantiles(store.split("train"), scorer, quantile_of, [float(threshold.removeprefix("q"))])[0]
    )


def _quantiles(
    split: StoreSplit, scorer: str, quantile_of: str, grid: Sequence[float]
) -> NDArray[np.float64]:
    scores = split.document_scores(scorer) if quantile_of == "documents" else split.scores(scorer)
    weights = np.ones(len(scores), np.int64)
    if quantile_of == "tokens":
        weights = np.diff(split.segment_ends, prepend=0)
    known = ~np.isnan(scores)
    if not (known & (weights > 0)).any():
        raise PhfError(f"{split.path}: no text has a score of {scorer}, so it has no quantiles")
    order = np.argsort(scores[known], kind="stable")
    sorted_scores, reached = scores[known][order], np.cumsum(weights[known][order])
    place = np.searchsorted(reached, np.ceil(np.asarray(grid) * reached[-1]).clip(1))
    return sorted_scores[place].astype(np.float64)


def _grid(split: StoreSplit, scorer: str, unit: str) -> dict[str, float]:
    return dict(zip(map(str, _GRID), _quantiles(split, scorer, unit, _GRID).tolist(), strict=True))


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

    def read(shard: Shard, folders: Sequence[Path] = folders) -> Iterator[ScoredDocument]:
        if scored:
            return read_scored(shard, bad, config.documents.max_bad_rows)
        return read_annotated(shard, folders)

    if path.is_dir():
        store = TokenStore(path)
        missing = _missing_columns(store, identity, scorers)
        if missing:
            _add_columns(store, missing, identity, shards, lambda shard: read(shard, folders))
        else:
            log.info("%s is there already: nothing to do", path)
        return TokenStore(path)

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
        "scores": _describe_scores(temporary, config, annotations, scorers),
    }
    if bad:
        lines = (json.dumps(asdict(row)) + "\n" for row in bad)
        (temporary / "bad.jsonl").write_text("".join(lines), encoding="utf-8")
    (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    temporary.rename(path)
    log.info(
        "%s: %s tokens of %d documents to train on, %s of %d held out; %d rows bad",
        path, f"{counts['train']['tokens']:,}", counts["train"]["documents"],
        f"{counts['heldout']['tokens']:,}", counts["heldout"]["documents"], len(bad),
    )  # fmt: skip
    return TokenStore(path)


def is_heldout(text: str, fraction: float) -> bool:
    """Whether a document is held out: by a hash of its text, so that equal documents fall on one side."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


def _each(
    shards: Sequence[Shard], read: Callable[[Shard], Iterator[ScoredDocument]]
) -> Iterator[ScoredDocument]:
    for shard in shards:
        yield from read(shard)
        log.info("read %s", shard.name)


def _training_texts(documents: Iterator[ScoredDocument], fraction: float) -> Iterator[list[str]]:
    for document in documents:
        if not is_heldout(document.text, fraction):
            yield document.segments()


class _SplitWriter:
    """Writes the arrays of one split."""

    def __init__(self, stack: ExitStack, folder: Path, dtype: type, scorers: Sequence[str]):
        def array(name: str, dtype: Any) -> ArrayWriter:
            path = folder / f"{name}.npy"
            path.parent.mkdir(exist_ok=True)
            return stack.enter_context(ArrayWriter(path, dtype))

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
                    split = "heldout" if is_heldout(document.text, fraction) else "train"
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
    store: TokenStore,
    missing: Sequence[str],
    identity: dict[str, Any],
    shards: Sequence[Shard],
    read: Callable[[Shard], Iterator[ScoredDocument]],
) -> None:
    raise NotImplementedError


def _describe_scores(
    folder: Path, config: Config, annotations: dict[str, Any], scorers: Sequence[str]
) -> dict[str, Any]:
    """For each scorer who it is, and how its scores of the training text are spread."""
    split = StoreSplit(folder / "train")
    described = {}
    for name in scorers:
        scores = split.scores(name).astype(np.float64)
        known = scores[~np.isnan(scores)]
        scorer = annotations[name]["scorer"] if name in annotations else {
            "name": name, "options": config.scorer.options, "measures": "as published with the documents",
        }  # fmt: skip
        described[name] = {
            "scorer": scorer,
            "mean": float(known.mean()) if len(known) else None,
            "std": float(known.std()) if len(known) else None,
            "num_unscored": len(scores) - len(known),
            "quantiles": {unit: _grid(split, name, unit) for unit in _UNITS} if len(known) else {},
        }  # fmt: skip
    return described
