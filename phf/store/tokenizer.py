"""Loads a tokenizer from Hugging Face, or trains a byte-level BPE on the documents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from objectives.view import BAD_TAG, GOOD_TAG
from phf.base.errors import ConfigError, PhfError

EOS_TOKEN = "<|endoftext|>"

# Segments encoded at a time. The backend's result for a segment takes far more memory than its tokens.
_SLICE = 8192

# Training takes time quadratic in the length of a word, or of a run of white space.
_LONG_RUN = re.compile(r"(\S{1000}|\s{1000})")


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerFast:
    """Loads a Hugging Face tokenizer, by the name of a repository or from a folder.

    Raises:
        ConfigError: There is no tokenizer of that name, it is not a fast one, or it has no eos token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(name))
    except Exception as error:  # the library raises many kinds for a missing or broken folder
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"tokenizer.name: {name} is neither a folder with a tokenizer nor the name of one that can be "
            f"loaded ({reason})"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ConfigError(f"tokenizer.name: {name} has no fast tokenizer (a tokenizer.json)")
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"tokenizer.name: {name} has no eos token, which goes before each document")
    return tokenizer


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """The largest id and one. The number of tokens, `len(tokenizer)`, is smaller if ids have gaps."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def train_tokenizer(texts: Iterable[Sequence[str]], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer that splits text into words as GPT-2's does.

    Args:
        texts: The corpus, in batches of texts. Pass the segments that will be tokenized, because a merge
            across two segments would never be used.
        vocab_size: Largest size of the vocabulary, including `<|endoftext|>` (id 0) and the 256 bytes.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[EOS_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    cut = ([piece for text in batch for piece in _LONG_RUN.split(text)] for batch in texts)
    backend.train_from_iterator(cut, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=EOS_TOKEN,
        eos_token=EOS_TOKEN,
        unk_token=EOS_TOKEN,
        clean_up_tokenization_spaces=False,
    )


class SegmentEncoder:
    """Tokenizes each segment on its own, as plain text.

    No special token is added. Text that looks like `<|endoftext|>` or a control token does not become that
    token, so a document can neither start another document nor tag itself.

    Args:
        tokenizer: The tokenizer; it is not modified.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_padding()
        backend.no_truncation()
        # Marks are the tokens that text must never become.
        marks = [tokenizer.eos_token, GOOD_TAG, BAD_TAG]
        ids = {mark: backend.token_to_id(mark) for mark in marks}
        self._marks = {i: mark for mark, i in ids.items() if i is not None}
        # The tokenizer would find a mark in text if the mark were an added token that is not special.
        added = {token.content for token in backend.get_added_tokens_decoder().values()}
        backend.add_special_tokens(
            [AddedToken(m, special=True, normalized=False) for m in self._marks.values() if m in added]
        )
        backend.encode_special_tokens = True
        self._backend = backend
        self._mark_ids = np.array(list(self._marks))

    def encode(self, segments: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokenizes segments.

        Returns:
            The tokens of all segments, int64 [tokens], and the number of tokens of each, int64
                [len(segments)].

        Raises:
            PhfError: The tokenizer cannot encode a segment without the eos token or a control token.
        """
        slices = (segments[i : i + _SLICE] for i in range(0, len(segments), _SLICE))
        pieces = [self._encode(piece) for piece in slices] or [(np.zeros(0, np.int64),) * 2]
        tokens, lengths = zip(*pieces, strict=True)
        return np.concatenate(tokens), np.concatenate(lengths)

    def _encode(self, segments: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        encoded = [e.ids for e in self._backend.encode_batch_fast(segments, add_special_tokens=False)]
        tokens, lengths = _flat(encoded)
        if np.isin(tokens, self._mark_ids).any():
            # Some tokenizers, such as Unigram ones, also use their marks as pieces of text.
            encoded = [self._without_marks(s, ids) for s, ids in zip(segments, encoded, strict=True)]
            tokens, lengths = _flat(encoded)
        return tokens, lengths

    def _without_marks(self, segment: str, ids: list[int]) -> list[int]:
        found = self._marks.keys() & set(ids)
        if not found:
            return ids
        # Cut every mark after its first character, so that the text no longer contains it whole.
        cut = "|".join(f"(?<={re.escape(m[0])})(?={re.escape(m[1:])})" for m in self._marks.values())
        pieces = self._backend.encode_batch_fast(re.split(cut, segment), add_special_tokens=False)
        ids = [i for piece in pieces for i in piece.ids]
        if found & set(ids):
            raise PhfError(
                f"the tokenizer encodes unknown text as its mark {self._marks[found.pop()]}: use a "
                f"byte-level one (text: {segment[:40]!r})"
            )
        return ids


def _flat(encoded: list[list[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    return np.fromiter(chain.from_iterable(encoded), np.int64, int(lengths.sum())), lengths
