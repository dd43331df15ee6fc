import re
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from objectives.view import BAD_TAG, GOOD_TAG
from phf.base.errors import ConfigError
from phf.config import ScenarioConfig
from phf.inference import generate as generation
from phf.inference.generate import _decode as decode
from phf.inference.generate import generate
from phf.inference.language_model import LanguageModel
from phf.inference.ragged_cache import ragged_cache
from phf.model.control_tokens import ControlTokens

PROMPTS = ["def f(x):\n", "a", "", "import os\nimport sys\n", "a b c"]


def scenario(**options):
    return ScenarioConfig(
        **{"prompts": PROMPTS, "samples": 3, "max_new_tokens": 12, "min_new_tokens": 2} | options
    )


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=64, initializer_range=0.3,
        )
    ).eval()  # fmt: skip


def gpt_neox():
    torch.manual_seed(0)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=64, initializer_range=0.3,
        )
    ).eval()  # fmt: skip


def mistral(window=8):
    torch.manual_seed(0)
    return MistralForCausalLM(
        MistralConfig(
            vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=2, sliding_window=window,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.3,
        )
    ).eval()  # fmt: skip


def wide_mistral():
    return mistral(window=64)


def mamba():
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=259, hidden_size=32, num_hidden_layers=2, state_size=4, use_mambapy=False)
    return MambaForCausalLM(config).eval()


@pytest.mark.parametrize(
    ("build", "continuous"),
    [(llama, True), (gpt_neox, True), (wide_mistral, True), (mistral, False), (mamba, False)],
)
def test_what_is_batched_continuously(build, continuous):
    assert (ragged_cache(build(), 4, 64) is not None) == continuous


def inputs(model):
    """Collects all ids that the model is going to see."""
    seen = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, ids: seen.append(ids[0].tolist()))
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("build", [None, llama, gpt_neox, mistral, wide_mistral, mamba])
def test_samples_do_not_depend_on_the_batch(build, model, tokenizer, control):
    language_model = LanguageModel(build() if build else model, tokenizer, control)
    one, three, all_ = (generate(language_model, PROMPTS, scenario(), batch_size=size) for size in (1, 3, 64))
    assert one == three == all_
    assert [(s.prompt_index, s.sample_index) for s in one] == [(p, s) for p in range(5) for s in range(3)]
    assert len({s.text for s in one}) == 15


def test_more_samples_or_fewer_prompts_leave_the_others_as_they_were(language_model):
    few = generate(language_model, PROMPTS[:2], scenario(samples=2), seed=4)
    many = generate(language_model, PROMPTS, scenario(samples=5), seed=4)
    assert few == [s for s in many if s.prompt_index < 2 and s.sample_index < 2]
    assert few != generate(language_model, PROMPTS[:2], scenario(samples=2), seed=5)


@pytest.mark.parametrize("build", [None, llama, gpt_neox, mistral, wide_mistral, mamba])
def test_greedy_is_that_of_transformers_without_padding(build, model, tokenizer, control):
    model = build() if build else model
    greedy = scenario(temperature=0, samples=1)
    no_tags = ControlTokens(control.eos_id)
    for sample in generate(LanguageModel(model, tokenizer, no_tags), PROMPTS, greedy):
        ids = [control.eos_id, *tokenizer(sample.prompt)["input_ids"]]
        wanted = model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=12, min_new_tokens=2,
            do_sample=False, eos_token_id=control.eos_id, pad_token_id=control.eos_id,
        )  # fmt: skip
        assert sample.text == tokenizer.decode(wanted[0, len(ids) :], skip_special_tokens=True)


def test_models_with_and_without_tags_are_asked_the_same(model, tokenizer, control):
    with_tags = LanguageModel(model, tokenizer, control)
    tagged = generate(with_tags, PROMPTS, scenario())
    untagged = generate(LanguageModel(model, tokenizer, ControlTokens(control.eos_id)), PROMPTS, scenario())

    def asked(samples):
        return [(s.prompt_index, s.sample_index, s.prompt) for s in samples]

    assert asked(tagged) == asked(untagged)
    # Without the tag before the prompt the same model gives the same samples: prompt and noise are the same.
    no_tag = generate(with_tags, PROMPTS, scenario(tag="none", emit_tags="none"))
    assert [s.text for s in no_tag] == [s.text for s in untagged]
    assert [s.text for s in tagged] != [s.text for s in untagged]


def test_a_prompt_is_cut_alike_for_models_with_and_without_tags(model, tokenizer, control):
    long = ["".join(chr(97 + i % 26) for i in range(100))]
    asked = scenario(samples=1, tag="none", emit_tags="all")
    with_tags = LanguageModel(model, tokenizer, control)
    (tagged,) = generate(with_tags, long, asked)
    (untagged,) = generate(LanguageModel(model, tokenizer, ControlTokens(control.eos_id)), long, asked)
    (short,) = generate(with_tags, [long[0][-50:]], asked)
    assert tagged == untagged
    assert tagged.text == short.text
    assert (tagged.prompt, tagged.prompt_cut, short.prompt_cut) == (long[0], True, False)


def test_the_tag_goes_before_the_prompt(control):
    assert control.prefix(ScenarioConfig(tag="good")) == [256, 257]
    assert control.prefix(ScenarioConfig(tag="bad")) == [256, 258]
    assert control.prefix(ScenarioConfig(tag="none")) == [256]
    assert ControlTokens(256).prefix(ScenarioConfig(tag="bad")) == [256]
    assert ControlTokens(256, bos_id=1).prefix(ScenarioConfig()) == [1]


@pytest.mark.parametrize(("emit", "written"), [("none", {65}), ("good", {65, 257}), ("all", {65, 257, 258})])
def test_the_model_writes_only_the_tags_it_may_and_the_text_has_none(
    emit, written, scripted, tokenizer, control
):
    logits = torch.full((259,), -50.0)
    logits[[65, 257, 258]] = 0.0
    asked = ScenarioConfig(samples=40, max_new_tokens=20, min_new_tokens=0, emit_tags=emit, top_p=1)
    model = scripted(logits)
    seen = inputs(model)
    samples = generate(LanguageModel(model, tokenizer, control), [""], asked)
    assert {token for ids in seen[1:] for (token,) in ids} == written | {257}  # the good tag comes first
    letter = tokenizer.decode([65])
    for sample in samples:
        assert sample.text == letter * sample.num_tokens
    assert emit != "none" or all(sample.num_tokens == 20 for sample in samples)


def test_of_several_tags_the_outermost_are_asked_for_and_the_best_may_be_written():
    control = ControlTokens(256, ((1,), (2,), (3,)))
    assert control.prefix(ScenarioConfig(tag="good")) == [256, 1]
    assert control.prefix(ScenarioConfig(tag="bad")) == [256, 3]
    assert control.banned(ScenarioConfig(emit_tags="good")) == [2, 3]
    assert control.banned(ScenarioConfig(emit_tags="none")) == [1, 2, 3]


def test_tags_that_are_text_may_be_written_and_are_taken_out(scripted, tokenizer, monkeypatch):
    a, b, x = (tokenizer.convert_tokens_to_ids(letter) for letter in "abx")
    control = ControlTokens(256, ((a, x), (b, x)), tags_are_text=True)
    assert control.prefix(ScenarioConfig(tag="bad")) == [256, b, x]
    assert control.banned(ScenarioConfig()) == []
    logits = torch.full((259,), -50.0)
    logits[[a, b, x]] = 0.0
    asked = ScenarioConfig(samples=40, max_new_tokens=20, min_new_tokens=0, top_p=1, emit_tags="all")
    written = []
    monkeypatch.setattr(generation, "_decode", lambda *a: written.append(a[2]) or decode(*a))
    samples = generate(LanguageModel(scripted(logits), tokenizer, control), [""], asked)
    texts = tokenizer.batch_decode(written)
    assert all(f"{letter}x" in "".join(texts) for letter in "abx")
    shown = [re.sub("[ab]x|[ab]$", "", text) for text in texts]  # in the order in which they were done
    assert sorted(sample.text for sample in samples) == sorted(shown)
    assert all(sample.num_tokens == len(sample.text) for sample in samples)


@pytest.mark.parametrize(
    ("row", "text", "finished"),
    [
        ("ok[ba", "ok", False),
        ("ok[ba$", "ok[ba", True),
        ("ok[bad]ok[", "okok", False),
        ("[bat", "[bat", False),
    ],
)
def test_a_tag_that_the_token_limit_cuts_is_no_text(row, text, finished, tokenizer):
    tags = [tuple(tokenizer(tag)["input_ids"]) for tag in ("[good]", "[bad]")]
    control = ControlTokens(tokenizer("$")["input_ids"][0], tuple(tags), tags_are_text=True)
    model = LanguageModel(None, tokenizer, control)
    assert decode(model, [], tokenizer(row)["input_ids"]) == (text, len(text), finished)


def test_a_text_ends_where_the_model_ends_it(scripted, tokenizer, control):
    logits = torch.full((259,), -50.0)
    logits[[65, 256]] = torch.tensor([1.0, 0.0])
    asked = ScenarioConfig(samples=60, max_new_tokens=12, min_new_tokens=4, temperature=1, top_p=1)
    samples = generate(LanguageModel(scripted(logits), tokenizer, control), [""], asked)
    assert {s.num_tokens for s in samples} == set(range(4, 13))
    assert all(len(s.text) == s.num_tokens for s in samples)
    assert all(s.finished for s in samples if s.num_tokens < 12)
    assert not all(s.finished for s in samples)


def test_a_tag_spelled_out_in_a_prompt_is_text(model, language_model):
    asked = inputs(model)
    spelled = scenario(samples=1, max_new_tokens=2)
    generate(language_model, [f"a{BAD_TAG}b{GOOD_TAG}"], spelled)
    assert [t for t in asked[0][0] if t >= 256] == [256, 257]


def test_segments_of_a_prompt_are_tokenized_on_their_own(model):
    merging = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2, "<e>": 3}, merges=[("a", "b")]))
    merging = PreTrainedTokenizerFast(tokenizer_object=merging, eos_token="<e>")
    asked = inputs(model)
    for segment in (None, list):
        asked.clear()
        generate(LanguageModel(model, merging, ControlTokens(3), segment), ["ab"], scenario(samples=1))
        # All but the last token of the prompt together, then one at a time.
        assert [*asked[0][0], *asked[1][0]] == ([3, 0, 1] if segment else [3, 2])


def test_a_space_at_the_start_of_the_continuation_is_kept(scripted):
    raw = Tokenizer(models.WordLevel({"<e>": 0, "▁The": 1, "▁cat": 2, "s": 3}, unk_token="<e>"))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    words = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<e>")
    asked = ScenarioConfig(samples=1, max_new_tokens=2, min_new_tokens=2, prompts=["The"])
    says_cat = LanguageModel(scripted([-50.0, -50.0, 0.0, -50.0]), words, ControlTokens(0))
    assert generate(says_cat, ["The"], asked)[0].text == " cat cat"
    assert generate(says_cat, [""], asked)[0].text == "cat cat"


def test_what_does_not_fit_the_context_is_one_line(language_model):
    generate(language_model, [""], ScenarioConfig(samples=1, max_new_tokens=62))
    with pytest.raises(ConfigError, match=r"max_new_tokens: 63 .* 64 tokens .* set it to 62 or less"):
        generate(language_model, [""], ScenarioConfig(samples=1, max_new_tokens=63))
    with pytest.raises(ConfigError, match=r"40 tokens .* set it to 37 or less"):
        generate(replace(language_model, context_length=40), ["a"], scenario(max_new_tokens=38))


def test_model_and_random_state_are_left_as_they_were(model, language_model):
    model.train()
    model.generation_config.suppress_tokens = [65]
    model.generation_config.repetition_penalty = 7.0
    own, state, done = model.generation_config, torch.get_rng_state(), []
    first = generate(language_model, PROMPTS, scenario(), batch_size=4, progress=done.append)
    assert model.training
    assert model.generation_config is own
    assert torch.equal(torch.get_rng_state(), state)
    assert done == [1] * 15
    model.eval()
    model.generation_config = type(own)()
    assert generate(language_model, PROMPTS, scenario()) == first


def test_a_compiled_model_is_not_compiled_again_for_every_step(model, language_model):
    wanted = generate(language_model, PROMPTS, scenario())
    model.base_model.compile(backend=lambda *_: pytest.fail("compiled"))
    assert generate(language_model, PROMPTS, scenario()) == wanted
