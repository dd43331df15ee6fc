"""A causal language model to train: from random weights or from a checkpoint, with control tokens."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.activations import NewGELUActivation

from objectives.view import Tags
from phf.base.errors import ConfigError, PhfError
from phf.config import ModelConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def build_model(config: ModelConfig, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """Builds or loads the model of a run, in float32.

    Args:
        config: What to build, or where to start from.
        tokenizer: The store's tokenizer, without control tokens.
        seed: Decides random weights.

    Raises:
        ConfigError: The architecture or a field of its configuration does not exist.
        PhfError: The checkpoint cannot be loaded, or does not fit the tokenizer or the context.
    """
    torch.manual_seed(seed)
    model = _from_checkpoint(config.start_from) if config.start_from else _from_random(config, tokenizer)
    _fuse_gelu(model)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if vocabulary < len(tokenizer):
        raise PhfError(
            f"{config.start_from} has {vocabulary} tokens, and the store's tokenizer {len(tokenizer)}: "
            "tokenize the documents with the model's own tokenizer"
        )
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and positions < config.context_length:
        raise ConfigError(
            f"model.context_length is {config.context_length}, and the model has {positions} positions"
        )
    if config.document_mask and not keeps_documents_apart(model):
        raise ConfigError(
            f"model.document_mask: attention of {type(model).__name__} crosses documents whatever their "
            "positions; leave it out, or choose another model.architecture"
        )
    if config.activation_checkpointing:
        checkpoint_activations(model)
    return model.train()  # loaded weights come in evaluation mode: without dropout


def _fuse_gelu(model: PreTrainedModel) -> None:
    """GPT-2's GELU as one operation instead of eight, each with a tensor of its own: the same function."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Keeps only the input of each transformer block for the backward pass.

    Raises:
        ConfigError: The architecture does not support it.
    """
    if not model.supports_gradient_checkpointing:
        raise ConfigError(
            f"model.activation_checkpointing: {type(model).__name__} does not support it; leave it out"
        )
    # Later versions of transformers have another name for it.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})


@torch.no_grad()
def keeps_documents_apart(model: PreTrainedModel) -> bool:
    """Whether positions that start again keep attention from crossing to what is before them."""
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

    A new token's input and output embedding is the mean of the old ones plus 0.01 N(0, 1), as in the paper.
    Those that the model has learned already are left alone.

    Args:
        model: The model.
        tokenizer: The store's tokenizer.
        tokens: The control tokens.
        seed: Decides the noise.
        start_from: Where the model comes from, as in `ModelConfig`.

    Returns:
        The id of each token.
    """
    num_old = len(tokenizer)
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        # `mean_resizing` would draw the new rows from the covariance of the old ones.
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    ids = list(tokenizer.convert_tokens_to_ids(list(tokens)))
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
    """The tokens of each tag, from the best to the worst, of a tokenizer that has the control tokens.

    Raises:
        ConfigError: Tags that are ordinary text have not as many tokens each.
    """
    if tags.texts is None:
        return tuple((tokenizer.convert_tokens_to_ids(tag),) for tag in tags.names)
    encoded = tokenizer(list(tags.texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    counts = [len(ids) for ids in encoded]
    if min(counts) == 0 or min(counts) < max(counts):
        named = ", ".join(f"{text!r} has {n}" for text, n in zip(tags.texts, counts, strict=True))
        raise ConfigError(f"objective.tag_texts must have as many tokens each, one or more: {named}")
    return tuple(map(tuple, encoded))


def _model_folder(start_from: str) -> str:
    """The folder of the weights, if it is a run's that is given."""
    folder = Path(start_from) / "model"
    return str(folder) if (folder / "config.json").is_file() else start_from


def _added_tokens(start_from: str | None) -> dict[str, int]:
    """The tokens with ids that a model's own tokenizer, if it is in a local folder, has beside its text's."""
    if start_from is None or not Path(start_from).is_dir():
        return {}
    try:
        return dict(AutoTokenizer.from_pretrained(_model_folder(start_from)).get_added_vocab())
    except (OSError, ValueError, KeyError):  # weights alone
        return {}


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
    try:
        defaults = AutoConfig.for_model(config.architecture)
    except ValueError as error:
        raise ConfigError(
            f"model.architecture: transformers has no model type {config.architecture!r}"
        ) from error
    for key in config.config:
        if not hasattr(defaults, key):
            nearest = difflib.get_close_matches(key, defaults.to_dict(), n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise ConfigError(f"model.config: {config.architecture} has no field {key!r}{hint}")
    # GPT-2 has another name for it, which would lose against the common one.
    positions = defaults.attribute_map.get("max_position_embeddings", "max_position_embeddings")
    fields = {
        positions: config.context_length,
        **config.config,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
    }
    try:
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model(config.architecture, **fields), dtype=torch.float32
        )
    except (TypeError, ValueError, KeyError, ArithmeticError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"model.config: {config.architecture} cannot be built: {reason}") from error
