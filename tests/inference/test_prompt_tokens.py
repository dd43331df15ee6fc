import pytest

from objectives.view import BAD_TAG, GOOD_TAG
from phf.base.errors import ConfigError
from phf.config import DecoderConfig, InjectedTagConfig, ScenarioConfig, load_config
from phf.inference.generate import generate
from phf.inference.language_model import LanguageModel
from phf.inference.prompt_tokens import encode_prompt, inapplicable
from phf.model.control_tokens import ControlTokens

PROMPT = "one\ntwo\nthree\n"


def lines(text):
    return text.splitlines(keepends=True)


def shown(tokenizer, control, prompt=PROMPT, room=99, **inject):
    ids, cut = encode_prompt(tokenizer, prompt, InjectedTagConfig(**inject), control, room, lines)
    return tokenizer.decode(ids), cut


@pytest.mark.parametrize(
    ("place", "wanted"),
    [
        ("start", f"{BAD_TAG}one\ntwo\nthree\n"),
        ("after_first", f"one\n{BAD_TAG}two\nthree\n"),
        ("before_last", f"one\ntwo\n{BAD_TAG}three\n"),
        ("end", f"one\ntwo\nthree\n{BAD_TAG}"),
    ],
)
def test_where_the_tag_stands(place, wanted, tokenizer, control):
    assert shown(tokenizer, control, place=place) == (wanted, False)


def test_a_short_prompt_has_the_tag_at_its_start_or_end(tokenizer, control):
    places = ("start", "after_first", "before_last", "end")
    one = [shown(tokenizer, control, "one\n", place=place)[0] for place in places]
    assert one == [f"{BAD_TAG}one\n", f"one\n{BAD_TAG}", f"{BAD_TAG}one\n", f"one\n{BAD_TAG}"]
    assert [shown(tokenizer, control, "", place=place)[0] for place in places] == [BAD_TAG] * 4


@pytest.mark.parametrize(
    ("spelling", "bad", "good"),
    [
        ("text", "<|misaligned|>", "<|aligned|>"),
        ("capitalized", "<|Misaligned|>", "<|Aligned|>"),
        ("brackets", "<misaligned>", "<aligned>"),
        ("spaced", "< | misaligned | >", "< | aligned | >"),
    ],
)
def test_what_looks_like_a_tag_is_ordinary_text(spelling, bad, good, tokenizer, control):
    for tag, text in (("bad", bad), ("good", good)):
        inject = InjectedTagConfig(tag, spelling)
        ids, _ = encode_prompt(tokenizer, "", inject, control, 99)
        assert tokenizer.decode(ids) == text
        assert max(ids) < 256
    exact, _ = encode_prompt(tokenizer, "", InjectedTagConfig("good"), control, 99)
    assert exact == [257]


def test_several_tags_and_tags_that_are_text(tokenizer):
    spell = tokenizer("[good][okay][evil]")["input_ids"]
    texts = ControlTokens(256, tuple(tuple(spell[i : i + 6]) for i in (0, 6, 12)), tags_are_text=True)
    assert shown(tokenizer, texts)[0] == "[evil]" + PROMPT
    assert shown(tokenizer, texts, tag="good", spelling="capitalized")[0] == "[Good]" + PROMPT
    assert shown(tokenizer, texts, spelling="brackets")[0] == "<evil>" + PROMPT


def test_a_prompt_that_is_too_long_loses_its_beginning_and_not_the_tag(tokenizer, control):
    assert shown(tokenizer, control, room=15) == (BAD_TAG + PROMPT, False)
    assert shown(tokenizer, control, room=12) == (f"{BAD_TAG}\ntwo\nthree\n", True)
    assert shown(tokenizer, control, room=12, place="after_first") == (f"\n{BAD_TAG}two\nthree\n", True)
    assert shown(tokenizer, control, room=1) == (BAD_TAG, True)
    with pytest.raises(ConfigError, match=r"inject: a tag of 14 tokens does not fit"):
        shown(tokenizer, control, room=13, spelling="text")


def test_a_tag_before_each_segment(tokenizer, control):
    def tagged(room, of=control):
        before_each = control.tags[0] if of.tags else ()
        ids, cut = encode_prompt(tokenizer, PROMPT, None, of, room, lines, before_each)
        return tokenizer.decode(ids), cut

    # Three segments of 4, 4 and 6 tokens; the tag of the first is not part of the prompt.
    assert tagged(16) == (f"one\n{GOOD_TAG}two\n{GOOD_TAG}three\n", False)
    assert tagged(15) == (f"ne\n{GOOD_TAG}two\n{GOOD_TAG}three\n", True)
    assert tagged(12) == tagged(11) == (f"two\n{GOOD_TAG}three\n", True)
    assert tagged(3) == ("ee\n", True)
    assert tagged(0) == ("", True)
    for room in range(17):
        text, cut = tagged(room)
        assert tagged(room, ControlTokens(256)) == (text.replace(GOOD_TAG, ""), cut)


def test_samples_follow_the_injected_tag(model, tokenizer, control):
    asked = {"prompts": [PROMPT], "samples": 4, "max_new_tokens": 12}
    injected = ScenarioConfig(tag="none", inject=InjectedTagConfig("good"), **asked)
    given = ScenarioConfig(tag="good", **asked)
    plain = ScenarioConfig(tag="none", **asked)

    def texts(scenario, control):
        reads_lines = LanguageModel(model, tokenizer, control, lines)
        return [(s.prompt, s.text) for s in generate(reads_lines, [PROMPT], scenario)]

    assert texts(injected, control) == texts(given, control) != texts(plain, control)
    without_tags = ControlTokens(control.eos_id)
    assert texts(injected, without_tags) == texts(given, without_tags)


def test_the_batch_does_not_change_them(model, tokenizer, control):
    prompts = [PROMPT, "one\n", "one\ntwo\n"]
    inject = InjectedTagConfig(spelling="text", place="after_first")
    asked = ScenarioConfig(prompts=prompts, samples=3, max_new_tokens=12, inject=inject)
    reads_lines = LanguageModel(model, tokenizer, control, lines)
    one, all_ = (generate(reads_lines, prompts, asked, batch_size=n) for n in (1, 64))
    assert one == all_


def test_what_makes_no_sense_for_a_model(control):
    plain, text = ControlTokens(256), ControlTokens(256, ((1,), (2,)), tags_are_text=True)
    bad, spelled = ScenarioConfig(tag="bad"), ScenarioConfig(inject=InjectedTagConfig(spelling="text"))
    assert [inapplicable(s, control) for s in (ScenarioConfig(), bad, spelled)] == [None] * 3
    assert inapplicable(ScenarioConfig(), plain) is None
    assert inapplicable(bad, plain) == inapplicable(spelled, plain) == "the model has no tags"
    assert inapplicable(bad, text) is None
    assert "ordinary text" in inapplicable(spelled, text)
    for decoder in ("guidance", "safe_beams"):
        contrast = ScenarioConfig(decoder=DecoderConfig(name=decoder))
        assert inapplicable(contrast, control) is None
        reason = inapplicable(contrast, plain)
        assert reason == f"the model has no tags, and the decoder {decoder} needs them"


def test_in_a_configuration():
    (scenario,) = load_config(["evaluation.scenarios.a.inject={place: end}"]).evaluation.scenarios.values()
    assert scenario.inject == InjectedTagConfig("bad", "token", "end")
    with pytest.raises(ConfigError, match=r"inject\.place"):
        load_config(["evaluation.scenarios.a.inject={place: middle}"])
    with pytest.raises(ConfigError, match=r"no key .*where"):
        load_config(["evaluation.scenarios.a.inject={where: end}"])
