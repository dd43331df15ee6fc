"""A tokenizer and models that are small enough to be made anew for every test."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from objectives.view import BAD_TAG, GOOD_TAG
from phf.annotation.manifest import ScorerRecord
from phf.config import SegmenterConfig
from phf.inference.language_model import LanguageModel
from phf.inference.loaded_model import LoadedModel
from phf.model.control_tokens import ControlTokens
from phf.model.model_folder import ModelFacts, ModelFolder, TagFacts

EOS = "<|endoftext|>"


def byte_tokenizer(tags=True):
    """A token a byte, `<|endoftext|>` (256) and the two tags (257, 258)."""
    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    raw = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=EOS, bos_token=EOS)
    if tags:
        tokenizer.add_special_tokens({"extra_special_tokens": [GOOD_TAG, BAD_TAG]})
    return tokenizer


def tiny_gpt2(vocab_size=259, context_length=64, seed=0):
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocab_size,
        n_layer=2,
        n_embd=32,
        n_head=2,
        n_positions=context_length,
        bos_token_id=256,
        eos_token_id=256,
    )
    model = GPT2LMHeadModel(config).eval()
    model.transformer.ln_f.weight.data *= 8  # random weights alone give a flat distribution
    return model


def scripted_gpt2(logits, context_length=64):
    """A model whose next token has these logits, whatever came before."""
    config = GPT2Config(
        vocab_size=len(logits), n_layer=1, n_embd=8, n_head=1, n_positions=context_length,
        tie_word_embeddings=False, bos_token_id=256, eos_token_id=256,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    model.transformer.ln_f.weight.data.zero_()
    model.transformer.ln_f.bias.data.zero_()[0] = 1.0
    model.lm_head.weight.data.zero_()[:, 0] = torch.as_tensor(logits)
    return model


TAGS = TagFacts([GOOD_TAG, BAD_TAG], [[257], [258]], [0.0])
"""The tags of `byte_tokenizer`."""


def model_facts(**known):
    """What is known of a model that was made here, by default of one without tags."""
    usual = {
        "objective": "mle", "tags": None, "threshold": 0.0, "scorer": ScorerRecord("pep8"),
        "segmenter": SegmenterConfig("line"), "tokens": 1000, "eos_token": EOS, "context_length": 64,
    }  # fmt: skip
    return ModelFacts(**usual | known)


def loaded_model(network, tokenizer, control, segment=None, context_length=None, facts=None):
    """A model as if it had been read from a folder; without facts it was made elsewhere."""
    folder = ModelFolder(Path("run"), Path("run"), facts)
    return LoadedModel(network, tokenizer, control, segment, context_length, folder)


@pytest.fixture(scope="session")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="session")
def plain_tokenizer():
    return byte_tokenizer(tags=False)


@pytest.fixture(scope="session")
def control(tokenizer):
    good, bad = tokenizer.convert_tokens_to_ids([GOOD_TAG, BAD_TAG])
    return ControlTokens(tokenizer.eos_token_id, ((good,), (bad,)))


@pytest.fixture
def model():
    return tiny_gpt2()


@pytest.fixture
def language_model(model, tokenizer, control):
    """That model with what it takes to write and to read text."""
    return LanguageModel(model, tokenizer, control)


@pytest.fixture
def scripted():
    return scripted_gpt2
