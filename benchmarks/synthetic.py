"""A token store of made-up text, of any size: what is measured on it does not depend on what it says."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from phf.annotation.manifest import ScorerRecord
from phf.base.files import write_json
from phf.base.typed_json import to_json
from phf.store.manifest import ColumnRecord, SplitCounts, StoreCounts, StoreManifest
from phf.store.store import MANIFEST
from phf.store.tokenizer import EOS_TOKEN
from phf.store.writer import EncodedDocuments, SplitWriter

SCORER = "made-up"
PIECE_TOKENS = 1_000_000


def write_store(
    folder: Path,
    tokens: float,
    *,
    vocabulary: int = 50257,
    document_tokens: int = 1000,
    segment_tokens: int = 25,
) -> SplitCounts:
    """Writes a store with the project's own writer; nothing is held out.

    Lengths of documents and segments are geometric, tokens follow Zipf's law, scores lie in [0, 1), most of
    them near 0. A large store repeats the tokens of its first million.

    Args:
        folder: Must not exist.
        tokens: About so many.
        vocabulary: Size of the vocabulary; token 0 is `<|endoftext|>`.
        document_tokens: Mean length of a document.
        segment_tokens: Mean length of a segment.

    Returns:
        The number of documents, segments and tokens.
    """
    rng = np.random.default_rng(0)
    dtype = np.uint16 if vocabulary <= 2**16 else np.uint32
    num_documents = max(1, round(min(tokens, PIECE_TOKENS) / document_tokens))
    counts = rng.geometric(min(1, segment_tokens / document_tokens), num_documents)
    lengths = rng.geometric(1 / segment_tokens, counts.sum())
    text = (vocabulary ** rng.random(lengths.sum())).astype(np.int64)
    with ExitStack() as stack:
        train, heldout = (
            SplitWriter(stack, folder / split, dtype, [SCORER]) for split in ("train", "heldout")
        )
        for piece in range(max(1, round(tokens / PIECE_TOKENS))):
            rows = np.arange(num_documents) + piece * num_documents
            scores = rng.random(len(lengths), np.float32) ** 4
            train.add(0, EncodedDocuments(text, lengths, counts, [scores], rows, rows.astype(np.uint64)))
        size = StoreCounts(train.counts, heldout.counts, empty_documents=0)
    backend = Tokenizer(models.WordLevel({EOS_TOKEN: 0} | {f"w{i}": i for i in range(1, vocabulary)}))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=EOS_TOKEN, eos_token=EOS_TOKEN, unk_token=EOS_TOKEN
    )
    tokenizer.save_pretrained(folder / "tokenizer")
    manifest = StoreManifest(
        documents={"format": "jsonl"},
        segmenter={"name": "sentence"},
        tokenizer={},
        store={},
        shards={},
        annotations={},
        counts=size,
        scores={SCORER: ColumnRecord(ScorerRecord(SCORER, "nothing"))},
    )
    write_json(folder / MANIFEST, to_json(manifest))
    return size.train
