"""A token store of made-up text, of any size: what is measured on it does not depend on what it says."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

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
) -> dict[str, int]:
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
        train, _ = (SplitWriter(stack, folder / split, dtype, [SCORER]) for split in ("train", "heldout"))
        for piece in range(max(1, round(tokens / PIECE_TOKENS))):
            rows = np.arange(num_documents) + piece * num_documents
            scores = rng.random(len(lengths), np.float32) ** 4
            train.add(0, EncodedDocuments(text, lengths, counts, [scores], rows, rows.astype(np.uint64)))
        size = train.counts
    backend = Tokenizer(models.WordLevel({EOS_TOKEN: 0} | {f"w{i}": i for i in range(1, vocabulary)}))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=EOS_TOKEN, eos_token=EOS_TOKEN, unk_token=EOS_TOKEN
    )
    tokenizer.save_pretrained(folder / "tokenizer")
    manifest = {
        "documents": {"format": "jsonl"},
        "segmenter": {"name": "sentence"},
        "scores": {SCORER: {"scorer": {"name": SCORER, "options": {}, "measures": "nothing"}}},
        "counts": {"train": size},
        **{key: {} for key in ("tokenizer", "store", "shards", "annotations")},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return size
