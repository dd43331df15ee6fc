"""Builds the model of a run, from random weights or a checkpoint, and adds control tokens."""

from __future__ import annotations

import difflib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.activations import NewGELUActivation

from objectives.view import Tags
from phf.base.errors import ConfigError, PhfError
from phf.config import ModelConfig
from phf.store.tokenizer import vocabulary_size

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger("phf")

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def build_model(config: ModelConfig, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """Builds or loads the model of a run, in float32.

    Args:
        config: The architecture to build, or the weights to start from.
        tokenizer: The store's tokenizer, without control tokens.
        seed: Decides random weights.

    Raises:
        ConfigError: The architecture or a field of its configuration does not exist.
        PhfError: The checkpoint cannot be loaded, or does not fit the tokenizer or the context.
    """
    torch.manual_seed(seed)
    model = _from_checkpoint(config.start_from) if config.start_from else _from_random(config, tokenizer)
    _fuse_gelu(model)
    _learn_every_token(model)
    vocabulary, needed = model.get_input_embeddings().weight.shape[0], vocabulary_size(tokenizer)
    if vocabulary < needed:
        raise PhfError(
            f"{config.start_from} has {vocabulary} tokens, but the store's tokenizer has {needed}: "
            "tokenize the documents with the model's own tokenizer"
        )
    if config.start_from:
        _check_tokenizer(config.start_from, tokenizer)
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and positions < config.context_length:
        raise ConfigError(
            f"model.context_length is {config.context_length}, and the model has {positions} positions"
        )
    if config.document_mask and not keeps_documents_apart(model):
        raise ConfigError(
            f"model.document_mask: attention of {type(model).__name__} crosses documents even if positions "
            "restart; leave it out, or choose another model.architecture"
        )
    if config.activation_checkpointing:
        checkpoint_activations(model)
    return model.train()  # a loaded model is in evaluation mode, without dropout


def _fuse_gelu(model: PreTrainedModel) -> None:
    """Replaces GPT-2's GELU, eight operations with a tensor each, by one operation for the same function."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


@torch.no_grad()
def _learn_every_token(model: PreTrainedModel) -> None:
    """Makes the embedding of the padding token trainable.

    A model that pads with `<|endoftext|>` also reads this token in the text.
    """
    embedding = model.get_input_embeddings()
    padding = getattr(embedding, "padding_idx", None)
    if padding is not None:
        embedding.padding_idx = None
        if not embedding.weight[padding].any():  # random initialization leaves zeros here
            embedding.weight[padding].normal_(std=getattr(model.config, "initializer_range", 0.02))


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Keeps only the input of each transformer block for the backward pass.

    Raises:
        ConfigError: The architecture does not support it.
    """
    if not model.supports_gradient_checkpointing:
        raise ConfigError(
            f"model.activation_checkpointing: {type(model).__name__} does not support it; leave it out"
        )
    # Later versions of transformers have another name for this method.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})


@torch.no_grad()
def keeps_documents_apart(model: PreTrainedModel) -> bool:
    """Whether the model's attention does not cross a place where positions restart."""
    training = model.training
    inputs = torch.arange(6, device=model.device)[None] % model.config.get_text_config().vocab_size
    positions = torch.arange(3, device=model.device)[None]
    try:
        network = model.eval().base_model
        packed = network(inputs, position_ids=positions.repeat(1, 2), use_cache=False).last_hidden_state
        alone = network(inputs[:, 3:], position_ids=positions, use_cache=False).last_hidden_state
    except TypeError:  # it has no positions
        return False
    finally:
        model.train(training)
    return bool((packed[:, 3:] - alone).abs().max() <= 1e-4 * alone.abs().max())


@torch.no_grad()
def add_control_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tokens: tuple[str, ...],
    seed: int,
    start_from: str | None = None,
) -> list[int]:
    """Adds control tokens to a tokenizer and a model.

    The input and output embeddings of a new token are the mean of the old embeddings plus 0.01 N(0, 1), as in
    the paper. Tokens that the model has already learned keep their embeddings.

    Args:
        model: The model.
        tokenizer: The store's tokenizer.
        tokens: The control tokens.
        seed: Decides the noise.
        start_from: Where the model's weights come from, as in `ModelConfig`.

    Returns:
        The id of each token.

    Raises:
        PhfError: The tokenizer gives a control token the id of another token.
    """
    num_old = vocabulary_size(tokenizer)
    known = {i: token for token, i in tokenizer.get_vocab().items()}
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    if vocabulary_size(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        # `mean_resizing` would draw the new rows from the covariance of the old ones.
        model.resize_token_embeddings(vocabulary_size(tokenizer), mean_resizing=False)
    ids = list(tokenizer.convert_tokens_to_ids(list(tokens)))
    for token, i in zip(tokens, ids, strict=True):
        if known.get(i, token) != token:
            raise PhfError(
                f"the ids of the store's tokenizer have gaps, and {token} would get that of {known[i]!r}: "
                "use tags that are ordinary text (objective.options.tag_texts)"
            )
    learned = _added_tokens(start_from)
    new = [i for token, i in zip(tokens, ids, strict=True) if i >= num_old and learned.get(token) != i]
    generator = torch.Generator().manual_seed(seed)
    weights = [model.get_input_embeddings().weight]
    if (output := model.get_output_embeddings().weight) is not weights[0]:
        weights.append(output)
    for weight in weights:
        noise = torch.randn((len(new), weight.shape[1]), generator=generator).to(weight)
        weight[new] = weight[:num_old].mean(0) + 0.01 * noise
    return ids


def tag_ids(tokenizer: PreTrainedTokenizerFast, tags: Tags) -> tuple[tuple[int, ...], ...]:
    """Returns the tokens of each tag, from the best to the worst. The tokenizer must have the control tokens.

    Raises:
        ConfigError: Tags that are ordinary text differ in their number of tokens, or have none.
    """
    if tags.texts is None:
        return tuple((tokenizer.convert_tokens_to_ids(tag),) for tag in tags.names)
    encoded = tokenizer(list(tags.texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    counts = [len(ids) for ids in encoded]
    if min(counts) == 0 or min(counts) < max(counts):
        named = ", ".join(f"{text!r} has {n}" for text, n in zip(tags.texts, counts, strict=True))
        raise ConfigError(f"objective.options.tag_texts must have equally many tokens, at least one: {named}")
    return tuple(map(tuple, encoded))


def _model_folder(start_from: str) -> str:
    """Returns the folder of the weights if a run folder is given, and otherwise the argument."""
    folder = Path(start_from) / "model"
    return str(folder) if (folder / "config.json").is_file() else start_from


def _added_tokens(start_from: str | None) -> dict[str, int]:
    """Returns the added tokens and their ids of the tokenizer in a local model folder; empty without one."""
    if start_from is None or not Path(start_from).is_dir():
        return {}
    tokenizer = _own_tokenizer(start_from)
    return {} if tokenizer is None else dict(tokenizer.get_added_vocab())


def _own_tokenizer(start_from: str) -> Any:
    """Loads the tokenizer that the weights came with; `None` if they came with none."""
    folder = Path(_model_folder(start_from))
    if folder.is_dir() and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return None  # `transformers` would make an empty tokenizer
    try:
        return AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError):
        return None


def _check_tokenizer(start_from: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """Checks that the weights know the store's tokens by the same ids.

    Raises:
        PhfError: A token has another id, or none, in the tokenizer of the weights.
    """
    own = _own_tokenizer(start_from)
    if own is None:
        log.warning("model.start_from: %s has no tokenizer: its ids are taken for the store's", start_from)
        return
    theirs = own.get_vocab()
    differing = [token for token, i in tokenizer.get_vocab().items() if theirs.get(token) != i]
    if differing:
        raise PhfError(
            f"model.start_from: {start_from} has another tokenizer than the store: {len(differing):,} "
            f"tokens, such as {differing[0]!r}, have another id; tokenize the documents with its tokenizer "
            "(tokenizer.name)"
        )


def _from_checkpoint(start_from: str) -> PreTrainedModel:
    start_from = _model_folder(start_from)
    try:
        return AutoModelForCausalLM.from_pretrained(start_from, dtype=torch.float32)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise PhfError(
            f"model.start_from: cannot load a causal language model from {start_from}: {reason}"
        ) from error


def _from_random(config: ModelConfig, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    tokens = {
        "vocab_size": vocabulary_size(tokenizer),
        "bos_token_id": tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
    }
    try:
        try:
            fields = configure(config, **tokens)
        except ConfigError:  # some architectures require a padding token; nothing is padded with it
            fields = configure(config, **tokens | {"pad_token_id": tokenizer.eos_token_id})
        model: PreTrainedModel = AutoModelForCausalLM.from_config(fields, dtype=torch.float32)
    except (TypeError, ValueError, KeyError, ArithmeticError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"model.config: {config.architecture} cannot be built: {reason}") from error
    return model


def configure(config: ModelConfig, **tokens: int | None) -> PreTrainedConfig:
    """Returns the `transformers` configuration of a model with random weights.

    Args:
        config: The architecture and its fields.
        tokens: Fields whose values come from the tokenizer.

    Raises:
        ConfigError: The architecture or a field does not exist, or a value has the wrong type.
    """
    try:
        defaults = AutoConfig.for_model(config.architecture)
    except ValueError as error:
        raise ConfigError(
            f"model.architecture: transformers has no model type {config.architecture!r:.100}"
        ) from error
    for key in config.config:
        if not hasattr(defaults, key) or callable(getattr(defaults, key)):
            nearest = difflib.get_close_matches(key, defaults.to_dict(), n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise ConfigError(f"model.config: {config.architecture} has no field {key!r}{hint}")
    # Some architectures, such as GPT-2, have their own name for this field. The common name would override a
    # value that the user gives under that name.
    positions = defaults.attribute_map.get("max_position_embeddings", "max_position_embeddings")
    fields = {positions: config.context_length, **config.config, **tokens}
    try:
        return AutoConfig.for_model(config.architecture, **fields)
    except (TypeError, ValueError, KeyError, ArithmeticError, StrictDataclassError) as error:
        # The cause names the field; the error around it only tells which check failed.
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ConfigError(f"model.config: {config.architecture}: {reason}") from error
