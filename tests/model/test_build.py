import json

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.activations import ACT2FN

from objectives.view import BAD_TAG, GOOD_TAG
from phf.base.errors import ConfigError, PhfError
from phf.config import ModelConfig
from phf.model.build import add_control_tokens, build_model
from phf.store.tokenizer import train_tokenizer, vocabulary_size

TAGS = (GOOD_TAG, BAD_TAG)
TINY = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
SIZES = {"gpt2": {"n_layer": 1, "n_embd": 16, "n_head": 2}, "gpt_neox": TINY, "llama": TINY}


def tokenizer():
    return train_tokenizer([["def f():\n", "    return 1\n"]], 260)


def config(architecture: str = "gpt2", **options) -> ModelConfig:
    fields = SIZES.get(architecture, {}) | options.pop("config", {})
    return ModelConfig(architecture=architecture, config=fields, context_length=16, **options)


@pytest.mark.parametrize("architecture", SIZES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_new_control_token_is_the_mean_of_the_others_and_some_noise(architecture, tied):
    text = tokenizer()
    model = build_model(config(architecture, config={"tie_word_embeddings": tied}), text, seed=0)
    before = [w.detach().clone() for w in embeddings(model)]
    assert len(before) == (1 if tied else 2)
    size = len(text)
    ids = add_control_tokens(model, text, TAGS, seed=0)
    assert ids == [size, size + 1]
    assert text.convert_tokens_to_ids(list(TAGS)) == ids
    for old, new in zip(before, embeddings(model), strict=True):
        assert new.shape == (size + 2, 16)
        torch.testing.assert_close(new[:size], old)
        noise = (new[size:] - old.mean(0)) / 0.01
        assert 0.5 < noise.std() < 1.6
        assert noise.abs().max() < 5
    assert model.config.vocab_size == size + 2
    assert model(torch.tensor([ids])).logits.shape == (1, 2, size + 2)


def embeddings(model) -> list[torch.Tensor]:
    weights = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    return weights[:1] if weights[0] is weights[1] else weights


def test_a_vocabulary_with_room_is_not_made_larger(tmp_path):
    text = tokenizer()
    model = build_model(config(), text, seed=0)
    model.resize_token_embeddings(320)
    model.save_pretrained(tmp_path)
    loaded = build_model(config(start_from=str(tmp_path)), text, seed=0)
    mean = loaded.get_input_embeddings().weight[: len(text)].mean(0)
    ids = add_control_tokens(loaded, text, TAGS, seed=0)
    weight = loaded.get_input_embeddings().weight
    assert len(weight) == 320
    assert (weight[ids] - mean).abs().max() < 0.05


def test_control_tokens_that_a_model_has_learned_stay(tmp_path):
    text = tokenizer()
    model = build_model(config(), text, seed=0)
    ids = add_control_tokens(model, text, TAGS, seed=0)
    with torch.no_grad():
        model.get_input_embeddings().weight[ids] = 7.0
    model.save_pretrained(tmp_path / "run/model")
    text.save_pretrained(tmp_path / "run/model")
    start = str(tmp_path / "run")
    plain = tokenizer()
    again = build_model(config(start_from=start), plain, seed=1)
    assert add_control_tokens(again, plain, TAGS, seed=1, start_from=start) == ids
    assert (again.get_input_embeddings().weight[ids] == 7.0).all()
    assert len(AutoTokenizer.from_pretrained(tmp_path / "run/model")) == len(plain)


def test_loaded_weights_are_trained_with_dropout(tmp_path):
    model = build_model(config(config={"resid_pdrop": 0.5}), tokenizer(), seed=0)
    model.save_pretrained(tmp_path)
    for built in (model, build_model(config(start_from=str(tmp_path)), tokenizer(), seed=0)):
        assert all(module.training for module in built.modules())
        assert built.dtype == torch.float32


def test_random_weights_depend_on_the_seed_alone():
    first, same, other = (build_model(config(), tokenizer(), seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["transformer.wte.weight"], other["transformer.wte.weight"])


def test_a_model_that_cannot_be_built_is_one_line(tmp_path):
    text = tokenizer()
    build_model(config(), text, seed=0).save_pretrained(tmp_path / "small")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text(json.dumps({"model_type": "gpt2"}))
    more = train_tokenizer([["one two three four five six seven eight nine ten " * 9] * 3], 290)
    for options, tokens, kind, message in [
        ({"architecture": "gpt9"}, text, ConfigError, "transformers has no model type 'gpt9'"),
        (
            {"config": {"n_layers": 1}},
            text,
            ConfigError,
            "gpt2 has no field 'n_layers'; did you mean",
        ),
        ({"config": {"n_head": 3}}, text, ConfigError, "gpt2 cannot be built"),
        ({"start_from": "/no/where"}, text, PhfError, "cannot load a causal language model from /no/where"),
        ({"start_from": str(tmp_path / "broken")}, text, PhfError, "cannot load a causal language model"),
        (
            {"start_from": str(tmp_path / "small")},
            more,
            PhfError,
            r"tokens, but the store's tokenizer has \d+",
        ),
    ]:
        with pytest.raises(kind, match=message) as error:
            build_model(config(**options), tokens, seed=0)
        assert "\n" not in str(error.value)
    long = ModelConfig(start_from=str(tmp_path / "small"), context_length=32)
    with pytest.raises(ConfigError, match="context_length is 32, and the model has 16 positions"):
        build_model(long, text, seed=0)


def test_the_gelu_of_gpt2_is_one_operation_and_the_same_function():
    model = build_model(config(), tokenizer(), seed=0)
    fused = model.transformer.h[0].mlp.act
    assert isinstance(fused, torch.nn.GELU)
    x = torch.linspace(-6, 6, 1001)
    torch.testing.assert_close(fused(x), ACT2FN[model.config.activation_function](x), rtol=1e-5, atol=1e-6)
    assert model.config.activation_function == "gelu_new"  # as it is exported


def tokenizer_with_gaps(ids):
    backend = Tokenizer(models.WordLevel({"<|endoftext|>": 0, **ids}, unk_token="<|endoftext|>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


def test_ids_with_gaps_have_room_and_control_tokens_take_no_id_of_another():
    text = tokenizer_with_gaps({"a": 2, "b": 300})
    assert (len(text), vocabulary_size(text)) == (3, 301)
    model = build_model(config(), text, seed=0)
    assert model.get_input_embeddings().weight.shape[0] == 301
    with pytest.raises(PhfError, match=r"have gaps, and <\|x\|> would get that of 'c': .*tag_texts"):
        add_control_tokens(model, tokenizer_with_gaps({"a": 2, "c": 3}), ("<|x|>",), seed=0)


def test_weights_with_another_tokenizer_are_refused(tmp_path, caplog):
    text = tokenizer()
    build_model(config(), text, seed=0).save_pretrained(tmp_path)
    build_model(config(start_from=str(tmp_path)), text, seed=0)
    assert "has no tokenizer: its ids are taken for the store's" in caplog.text
    text.save_pretrained(tmp_path)
    build_model(config(start_from=str(tmp_path)), text, seed=0)
    ids = {token: i for token, i in text.get_vocab().items() if i}
    swapped = tokenizer_with_gaps(dict(zip(ids, reversed(ids.values()), strict=True)))
    with pytest.raises(PhfError, match=r"has another tokenizer than the store: .* have another id") as error:
        build_model(config(start_from=str(tmp_path)), swapped, seed=0)
    assert "\n" not in str(error.value)


def test_a_token_that_others_pad_with_is_learned():
    """Some architectures keep the embedding of their padding token at zero, and give it no gradient."""
    text = tokenizer()
    fields = TINY | {"pad_token_id": text.eos_token_id}
    model = build_model(config("llama", config=fields), text, seed=0)
    embedding = model.get_input_embeddings()
    assert embedding.padding_idx is None
    assert embedding.weight[text.eos_token_id].any()
    model(torch.tensor([[text.eos_token_id, 5]])).logits.sum().backward()
    assert embedding.weight.grad[text.eos_token_id].any()
