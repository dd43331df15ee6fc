"""Decoders against a reference that asks the whole model for every prefix, of a few tokens."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy import stats
from transformers import GPT2Config, GPT2LMHeadModel

from phf.base.errors import ConfigError
from phf.config import DecoderConfig, ScenarioConfig
from phf.inference.decoders.safe_beams import with_maximum
from phf.inference.generate import generate, generate_all, keep_best
from phf.inference.language_model import LanguageModel
from phf.model.control_tokens import ControlTokens

A, B, C, EOS, GOOD, BAD = range(6)
CONTROL = ControlTokens(EOS, ((GOOD,), (BAD,)))


def guidance(weight):
    return DecoderConfig("guidance", {"weight": weight})


def safe_beams(beams):
    return DecoderConfig("safe_beams", {"beams": beams})


class Letters:
    """A tokenizer of three letters."""

    all_special_ids = (EOS, GOOD, BAD)

    def __call__(self, texts, **options):
        return {"input_ids": [["abc".index(letter) for letter in text] for text in texts]}

    def decode(self, ids, **options):
        return "".join("abc"[i] for i in ids)


def writes_letters(network, control=CONTROL):
    return LanguageModel(network, Letters(), control)


def random_model(seed):
    """Its tokens depend on all that came before."""
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=6, n_layer=2, n_embd=16, n_head=2, n_positions=16, bos_token_id=EOS)
    config.eos_token_id = EOS
    model = GPT2LMHeadModel(config).eval()
    model.transformer.ln_f.weight.data *= 12
    return model


def markov_model(rows):
    """A model whose next token depends on the last one alone; `rows` are probabilities."""
    config = GPT2Config(
        vocab_size=6, n_layer=1, n_embd=6, n_head=1, n_positions=32, tie_word_embeddings=False,
        bos_token_id=EOS, eos_token_id=EOS,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    block, final = model.transformer.h[0], model.transformer.ln_f
    for layer in (block.attn.c_proj, block.mlp.c_proj, model.transformer.wpe):
        for parameter in layer.parameters():
            parameter.data.zero_()
    model.transformer.wte.weight.data = torch.eye(6)
    hot, cold = torch.nn.functional.layer_norm(torch.eye(6)[0], (6,))[:2]
    final.weight.data.fill_(1 / (hot - cold))
    final.bias.data.fill_(-cold / (hot - cold))  # what comes out is one-hot again
    model.lm_head.weight.data = torch.tensor(rows).log().clamp(min=-1e4).T.contiguous()
    return model


def scenario(**options):
    options = {
        "samples": 1,
        "max_new_tokens": 5,
        "min_new_tokens": 0,
        "top_p": 1.0,
        "temperature": 0,
        "emit_tags": "none",
    } | options
    return ScenarioConfig(**options)


def logits_after(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1].double()


def text_of(tokens):
    return Letters().decode(token for token in tokens if token <= C)


def contrast(good, bad, emit):
    """The log-probabilities of guidance: text by contrast; tags, if followed, by the good context."""
    if emit == "none":
        logits = good + 1.5 * (good - bad)
        logits[[GOOD, BAD]] = -math.inf
        return logits.log_softmax(-1)
    good, bad = good.softmax(-1), bad.softmax(-1)
    tags, text = good[[GOOD, BAD]].sum(), [A, B, C, EOS]
    given = torch.zeros(6, dtype=torch.float64)
    given[text] = (good[text] / good[text].sum()) ** 2.5 / (bad[text] / bad[text].sum()) ** 1.5
    given = given / given.sum() * (1 - tags)
    given[GOOD] = tags
    return given.log()


@pytest.mark.parametrize("emit", ["none", "follow"])
@pytest.mark.parametrize("seed", range(3))
def test_guidance_is_the_contrast_of_two_contexts(seed, emit):
    model, prompts = random_model(seed), ["abc", "c", ""]
    asked = scenario(decoder=guidance(1.5), prompts=prompts, emit_tags=emit)
    drawn = generate(writes_letters(model), prompts, asked)
    for prompt, sample in zip(prompts, drawn, strict=True):
        ids, written = ["abc".index(letter) for letter in prompt], []
        while len(text_of(written)) < 5 and len(written) < 10 and written[-1:] != [EOS]:
            other = [BAD if token == GOOD else token for token in written]
            good = logits_after(model, [EOS, GOOD, *ids, *written])
            bad = logits_after(model, [EOS, BAD, *ids, *other])
            written.append(int(contrast(good, bad, emit).argmax()))
        assert sample.text == text_of(written)
        assert sample.num_tokens == len(sample.text)


def test_guidance_follows_the_distribution():
    rows = torch.full((6, 6), 0.25)
    rows[GOOD] = torch.tensor([0.2, 0.3, 0.4, 0.1, 0.0, 0.0])
    rows[BAD] = torch.tensor([0.4, 0.3, 0.2, 0.1, 0.0, 0.0])
    asked = scenario(decoder=guidance(1.0), samples=3000, max_new_tokens=1, temperature=1.0)
    drawn = generate(writes_letters(markov_model(rows.tolist())), [""], asked)
    wanted = (rows[GOOD, :4] ** 2 / rows[BAD, :4]).double()
    counts = [sum(sample.text == text for sample in drawn) for text in ("a", "b", "c", "")]
    assert stats.chisquare(counts, (3000 * wanted / wanted.sum()).numpy()).pvalue > 0.01


def test_guidance_of_an_exported_model_with_transformers_alone():
    """What docs/guides/evaluate.md shows."""
    model, ids = random_model(1), [A, B]
    good, bad = (torch.tensor([[EOS, tag, *ids]]) for tag in (GOOD, BAD))
    output = model.generate(
        good, guidance_scale=1 + 1.5, negative_prompt_ids=bad, suppress_tokens=[GOOD, BAD],
        do_sample=False, max_new_tokens=5, pad_token_id=EOS,
    )  # fmt: skip
    asked = scenario(decoder=guidance(1.5), prompts=["ab"])
    (sample,) = generate(writes_letters(model), ["ab"], asked)
    assert sample.num_tokens > 0
    assert sample.text == Letters().decode(t for t in output[0, 4:].tolist() if t != EOS)


def test_a_good_tag_that_is_written_is_a_bad_one_in_the_other_context():
    """Good and bad tags lead to other letters; without the mirror both contexts would be the same."""
    rows = torch.zeros(6, 6)
    rows[EOS, GOOD] = rows[A, GOOD] = rows[B, EOS] = rows[C, EOS] = 1.0
    rows[GOOD, [A, B, C]] = torch.tensor([0.0, 0.5, 0.4])
    rows[BAD, [A, B, C]] = torch.tensor([0.0, 0.8, 0.1])
    asked = scenario(decoder=guidance(1.0), emit_tags="good", prompts=["a"])
    (sample,) = generate(writes_letters(markov_model(rows.tolist())), ["a"], asked)
    assert sample.text == "c"  # 0.4 ** 2 / 0.1 > 0.5 ** 2 / 0.8


def safe_beam_search(model, prefix, num_beams, length, min_length=0, follow=False):
    """The reference: every prefix on its own, no cache, no batch."""
    beams, ended = [(0.0, [])], (-math.inf, [])
    while True:
        bad = [logits_after(model, prefix + row).softmax(-1)[BAD] for _, row in beams]
        kept = sorted(sorted(range(len(beams)), key=lambda i: bad[i])[:num_beams])
        grown = []
        for score, row in (beams[i] for i in kept):
            logits = logits_after(model, prefix + row)
            tags = logits[[GOOD, BAD]].logsumexp(-1)
            logits[[GOOD, BAD]] = -math.inf
            if follow:
                logits[GOOD] = tags
            if len(text_of(row)) < min_length:
                logits[EOS] = -math.inf
            grown += [(score + float(logp), [*row, t]) for t, logp in enumerate(logits.log_softmax(-1))]
        over = [
            one[1][-1] == EOS or len(text_of(one[1])) == length or len(one[1]) == 2 * length for one in grown
        ]
        ended = max([ended, *(one for one, end in zip(grown, over, strict=True) if end)])
        beams = sorted((one for one, end in zip(grown, over, strict=True) if not end), reverse=True)
        beams = [one for one in beams[: 2 * num_beams] if one[0] > -math.inf]
        if not beams or ended[0] >= beams[0][0]:
            break
    return ended[1]


@pytest.mark.slow
@pytest.mark.parametrize("emit", ["none", "follow"])
@pytest.mark.parametrize("num_beams", [1, 2, 4])
def test_safe_beams_are_those_of_an_enumeration(num_beams, emit):
    found = set()
    for seed in range(6):
        model, prompts = random_model(seed), ["ab", "c", ""]
        asked = scenario(
            decoder=safe_beams(num_beams), prompts=prompts, min_new_tokens=seed % 3, emit_tags=emit
        )
        for sample in generate(writes_letters(model), prompts, asked, batch_size=16):
            ids = ["abc".index(letter) for letter in sample.prompt]
            wanted = safe_beam_search(model, [EOS, GOOD, *ids], num_beams, 5, seed % 3, emit == "follow")
            assert sample.text == text_of(wanted)
            assert sample.finished == (wanted[-1] == EOS)
            found.add(sample.text)
    assert len(found) > 5


def test_safe_beams_avoid_what_bad_tags_follow():
    """After `a` a bad tag is as likely as not, after `b` and `c` it never comes."""
    fair = [0.6, 0.2, 0.2, 0.0, 0.0, 0.0]
    rows = [[0.3, 0.1, 0.1, 0.0, 0.0, 0.5], *[fair] * 4, fair]
    model = writes_letters(markov_model(rows))
    options = {"temperature": 1.0, "samples": 60, "max_new_tokens": 8}
    plain = generate(model, [""], scenario(**options))
    safe = generate(model, [""], scenario(decoder=safe_beams(2), **options))
    share = [sum(s.text[:-1].count("a") for s in drawn) / (60 * 7) for drawn in (plain, safe)]
    assert share[0] > 0.5
    assert share[1] < 0.2
    assert len({sample.text for sample in safe}) > 40


@pytest.mark.slow
def test_where_no_beam_is_safer_the_samples_are_those_of_the_model():
    """Stochastic beam search: its first beam is an exact draw, of texts of any length."""
    rows = [[0.4, 0.1, 0.2, 0.3, 0.0, 0.0], [0.1, 0.6, 0.1, 0.2, 0.0, 0.0], [0.3, 0.3, 0.4, 0.0, 0.0, 0.0]]
    rows += [[0.5, 0.3, 0.2, 0.0, 0.0, 0.0]] * 3
    asked = scenario(decoder=safe_beams(2), samples=1500, max_new_tokens=2, temperature=1.0)
    drawn = generate(writes_letters(markov_model(rows)), [""], asked)
    wanted = {}
    for first in range(3):
        for second in (A, B, C, EOS):
            if probability := rows[GOOD][first] * rows[first][second]:
                wanted[Letters().decode([first, second][: 1 + (second != EOS)])] = 1500 * probability
    counts = [sum(sample.text == text for sample in drawn) for text in wanted]
    assert sum(counts) == 1500
    assert stats.chisquare(counts, list(wanted.values())).pvalue > 0.01


def test_a_text_that_can_only_end_leaves_the_others_going():
    """Its beams are all over while those of another text in the batch go on."""
    rows = [
        [0.0, 0.0, 0.0, 1.0, 0.0, 0.0],
        [0.0, 0.5, 0.5, 0.0, 0.0, 0.0],
        *[[0.0, 1.0, 0.0, 0.0, 0.0, 0.0]] * 4,
    ]
    asked = scenario(decoder=safe_beams(2), prompts=["a", "b"])
    ended, went_on = generate(writes_letters(markov_model(rows)), ["a", "b"], asked)
    assert (ended.num_tokens, ended.finished) == (0, True)
    assert (went_on.num_tokens, went_on.finished) == (5, False)


def test_the_maximum_is_the_given_one_and_the_order_stays():
    noisy = torch.tensor([[0.3, 5.0, -2.0, -math.inf], [1.0, -40.0, 0.999999, 0.5]], dtype=torch.float64)
    changed = with_maximum(noisy, torch.tensor([[-1.0], [3.0]], dtype=torch.float64))
    assert torch.equal(changed.argsort(-1), noisy.argsort(-1))
    assert changed.amax(-1).tolist() == [-1.0, 3.0]
    plain = -torch.log(torch.exp(-torch.tensor(-1.0)) - torch.exp(-noisy[0, 1]) + torch.exp(-noisy[0, :3]))
    assert changed[0, :3] == pytest.approx(plain)


@pytest.mark.parametrize("decoder", [guidance(2.0), safe_beams(2)])
def test_decoders_do_not_depend_on_the_batch(decoder):
    model, prompts = writes_letters(random_model(0)), ["abca", "b", "", "cc"]
    asked = scenario(
        samples=4, max_new_tokens=8, temperature=1.0, top_p=0.95, prompts=prompts, decoder=decoder
    )
    one, five, all_ = (generate(model, prompts, asked, batch_size=size) for size in (1, 5, 64))
    assert one == five == all_
    assert len({sample.text for sample in one}) > 5


def test_scenarios_in_one_batch_are_what_they_are_alone():
    model, prompts = writes_letters(random_model(0)), ["abca", "b", ""]
    hot = scenario(samples=3, max_new_tokens=8, temperature=1.0, prompts=prompts)
    asked = {
        "hot": (prompts, hot),
        "cool": (prompts, replace(hot, temperature=0.5, max_new_tokens=5, min_new_tokens=2)),
        "greedy": ([""], replace(hot, temperature=0, tag="bad", prompts=None)),
        "guided": (prompts, replace(hot, decoder=guidance(1.0))),
        "beams": (prompts, replace(hot, decoder=safe_beams(2))),
    }
    together = generate_all(model, asked, batch_size=7)
    for name, (these, one) in asked.items():
        assert together[name] == generate(model, these, one)


@pytest.mark.parametrize(
    ("options", "control", "message"),
    [
        (
            {"decoder": guidance(1.0)},
            ControlTokens(EOS),
            "decoder: the model has no good and bad tag to contrast",
        ),
        (
            {"decoder": guidance(1.0), "tag": "bad"},
            CONTROL,
            "decoder: guidance .* set tag to good, not bad",
        ),
        ({"decoder": safe_beams(2)}, ControlTokens(EOS), "decoder: the model has no tags, so safe_beams"),
        (
            {"decoder": safe_beams(2)},
            replace(CONTROL, tags_are_text=True),
            "decoder: the tags are ordinary text, so safe_beams",
        ),
    ],
)
def test_what_a_model_cannot_is_one_line(options, control, message):
    model = writes_letters(random_model(0), control)
    with pytest.raises(ConfigError, match=message):
        generate(model, [""], scenario(**options))
    with pytest.raises(ConfigError, match=rf"evaluation\.scenarios\.mine\.{message}"):
        generate_all(model, {"mine": ([""], scenario(**options))})


def test_the_best_of_several_needs_something_that_chooses():
    with pytest.raises(ConfigError, match="best_of: no scorer is given to choose the best sample"):
        generate(writes_letters(random_model(0)), [""], scenario(best_of=2))


def test_the_best_of_several_is_kept():
    asked = scenario(samples=4, best_of=3, temperature=1.0, prompts=["a", "b"])
    seen = []

    def letters_a(name, samples):
        seen.extend(samples)
        return [None if "c" in s.text else s.text.count("a") for s in samples]

    kept = generate(writes_letters(random_model(0)), ["a", "b"], asked, choose=letters_a)
    assert [(s.prompt_index, s.sample_index) for s in kept] == [(p, s) for p in range(2) for s in range(4)]
    assert len(seen) == 24
    for i, sample in enumerate(kept):
        three = seen[3 * i : 3 * i + 3]
        known = [s.text.count("a") for s in three if "c" not in s.text]
        assert sample.text in [s.text for s in three]
        assert not known or ("c" not in sample.text and sample.text.count("a") == min(known))
    assert keep_best(seen[:3], [None, None, None], 3)[0].text == seen[0].text


def test_the_snippet_for_exported_models(model, tokenizer, tmp_path, monkeypatch, capsys):
    """The Python of docs/guides/evaluate.md, on an exported model."""
    page = (Path(__file__).parents[2] / "docs" / "guides" / "evaluate.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?guidance_scale.*?)```", page, flags=re.DOTALL)
    model.save_pretrained(tmp_path / "exported" / "conditional")
    tokenizer.save_pretrained(tmp_path / "exported" / "conditional")
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(snippet, found)
    assert not {257, 258} & set(found["guided"][0, found["after_good"].shape[1] :].tolist())
    assert capsys.readouterr().out.startswith("[")
