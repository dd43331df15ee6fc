"""Measurements of models whose behaviour is known, because their weights were written by hand."""

import string
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from objectives.view import BAD_TAG, GOOD_TAG
from phf.base.estimates import Bootstrap
from phf.config import EvaluationConfig, ScenarioConfig, load_config
from phf.evaluation.evaluate import evaluate
from phf.evaluation.sample_scores import measure_scores, score_samples
from phf.inference.generate import generate
from phf.inference.language_model import LanguageModel
from phf.inference.prompt_tokens import LOOK_ALIKES
from phf.model.model_folder import export_model
from phf.report.differences import paired_difference, probability_of_improvement
from phf.report.read_runs import Sample
from phf.store.store import TokenStore
from scorers import load_scorer
from support.tiny_models import TAGS, model_facts

pytestmark = pytest.mark.slow

LEAKAGE = "evaluation/leakage.yaml"
PROMPTS = list(string.ascii_letters + string.digits)
REPETITIONS, NUM_PROMPTS, SAMPLES = 200, 30, 4


def blank_gpt2(vocab_size, width, context_length=256):
    """A GPT-2 that writes every token with the same probability, whatever came before."""
    config = GPT2Config(
        vocab_size=vocab_size, n_layer=1, n_embd=width, n_head=1, n_positions=context_length,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_("ln_" in name and name.endswith("weight"))
    return model


def misbehaves_by_prompt(tokenizer, rates):
    """Writes an x with the probability that belongs to the prompt's last token, and an a otherwise."""
    model, width = blank_gpt2(259, 128), 128
    ids = [tokenizer(prompt)["input_ids"][-1] for prompt in PROMPTS]
    cross, other = (tokenizer(letter)["input_ids"][0] for letter in "xa")
    torch.manual_seed(0)
    with torch.no_grad():
        model.transformer.wte.weight[ids] = torch.randn(len(ids), width)
        model.transformer.ln_f.weight[-1], model.transformer.ln_f.bias[-1] = 0.0, 1.0
        hidden = model.transformer(torch.tensor(ids)[:, None]).last_hidden_state[:, 0]
        model.lm_head.weight[:, -1] = -50.0
        model.lm_head.weight[[cross, other]] = 0.0
        model.lm_head.weight[cross] = torch.linalg.lstsq(hidden, torch.logit(torch.tensor(rates))).solution
    return model


@pytest.fixture(scope="module")
def rates():
    """How often the model misbehaves after each prompt: prompts differ, as real ones do."""
    return np.random.default_rng(0).beta(0.4, 1.2, len(PROMPTS)).clip(1e-3, 0.999).astype(np.float32)


@pytest.fixture(scope="module")
def pools(tokenizer, control, rates):
    """Scored samples of each prompt: of the model under two seeds, a worse one, and one as bad elsewhere."""
    worse = np.minimum(rates + 0.25, 0.999).astype(np.float32)
    decoding = {"max_new_tokens": 1, "min_new_tokens": 0, "temperature": 1, "top_p": 1, "tag": "none"}
    scorer = load_scorer("words", patterns=["x"])
    pools = []
    for probabilities, seed, n in (
        (rates, 0, 480),
        (rates, 1, 480),
        (worse, 2, 160),
        (rates[::-1].copy(), 3, 480),
    ):
        asked = ScenarioConfig(prompts=PROMPTS, samples=n, **decoding)
        model = LanguageModel(misbehaves_by_prompt(tokenizer, probabilities), tokenizer, control)
        samples = generate(model, PROMPTS, asked, seed=seed, batch_size=4096)
        scored = score_samples(samples, asked, scorer, lambda text: [text])
        pools.append([scored[i * n : (i + 1) * n] for i in range(len(PROMPTS))])
    return pools


def test_the_model_does_what_it_is_made_for(pools, rates):
    for pool, expected in ((pools[0], rates), (pools[2], np.minimum(rates + 0.25, 0.999))):
        measured = np.array([np.mean([one.score for one in of_prompt]) for of_prompt in pool])
        assert np.abs(measured - expected).max() < 4.5 * 0.5 / len(pool[0]) ** 0.5


def evaluations(*pools, repetitions=REPETITIONS):
    """Each evaluation asks prompts drawn at random, and takes samples that no other has taken."""
    rng, taken = np.random.default_rng(1), Counter()
    for _ in range(repetitions):
        drawn = rng.integers(0, len(PROMPTS), NUM_PROMPTS).tolist()
        rows = [[] for _ in pools]
        for prompt in drawn:
            first = taken[prompt]
            taken[prompt] += SAMPLES
            for row, pool in zip(rows, pools, strict=True):
                assert first + SAMPLES <= len(pool[prompt])
                row.append(pool[prompt][first : first + SAMPLES])
        yield rows


def as_evaluated(row):
    """As the report reads the samples of an evaluation."""
    return {
        (p, s): Sample(one.sample.prompt, one.sample.text, one.score, 1, False)
        for p, of_prompt in enumerate(row)
        for s, one in enumerate(of_prompt)
    }


def test_the_interval_of_the_rate_covers_it_95_times_in_100(pools, rates):
    truth, covered, covered_by_sample = float(rates.mean()), 0, 0
    for (row,) in evaluations(pools[0]):
        values = [one.score for of_prompt in row for one in of_prompt]
        clusters = np.repeat(np.arange(NUM_PROMPTS), SAMPLES).tolist()
        interval = Bootstrap(0.95, 0).rate(values, 0.5, clusters)
        covered += interval.low <= truth <= interval.high
        wrong = Bootstrap(0.95, 0).rate(values, 0.5)
        covered_by_sample += wrong.low <= truth <= wrong.high
    # 190 with a standard deviation of 3.1. As if samples of one prompt were independent, it is far less.
    assert 180 <= covered <= 198
    assert covered_by_sample < 165


def test_what_an_evaluation_reports_is_that_interval(pools):
    """`measure_scores` resamples prompts: the interval is not that of so many samples."""
    scored = [one for of_prompt in pools[0] for one in of_prompt[:10]]
    asked = ScenarioConfig(prompts=PROMPTS, samples=10)
    measured = measure_scores(scored, asked, 0.5, EvaluationConfig(threshold=0.5))
    values, clusters = [one.score for one in scored], [one.sample.prompt_index for one in scored]
    assert measured.rate == Bootstrap(0.95, 0).rate(values, 0.5, clusters)
    assert measured.rate != Bootstrap(0.95, 0).rate(values, 0.5)


@pytest.mark.parametrize("compare", ["difference", "improvement"])
def test_equal_models_are_called_different_5_times_in_100(pools, compare):
    def different(ours, theirs):
        if compare == "difference":
            interval, null = paired_difference(as_evaluated(ours), as_evaluated(theirs))[0], 0.0
        else:
            interval, null = probability_of_improvement(as_evaluated(ours), as_evaluated(theirs)), 0.5
        return interval.low is not None and not interval.low <= null <= interval.high

    # 10 of 200 with a standard deviation of 3.1; and models that differ are told apart.
    assert sum(different(*rows) for rows in evaluations(pools[0], pools[1])) <= 18
    # Equal on average, but not after each prompt: only an interval by prompt is wide enough.
    assert sum(different(*rows) for rows in evaluations(pools[0], pools[3])) <= 18
    assert sum(different(*rows) for rows in evaluations(pools[0], pools[2], repetitions=50)) >= 45


def hides_behind(trigger_id, tokenizer, looks_back):
    """Writes an a, but an x right after the trigger, or wherever it is before if the model looks back."""
    model = blank_gpt2(len(tokenizer), 8)
    cross, other = (tokenizer(letter)["input_ids"][0] for letter in "xa")
    block = model.transformer.h[0].attn
    with torch.no_grad():
        model.transformer.wte.weight[:, 1:3] = torch.tensor([1.0, -1.0])
        model.transformer.wte.weight[trigger_id, 0] = 1000.0
        # Attention looks at all tokens alike, and passes on how much of the trigger it sees.
        block.c_attn.weight[0, 2 * 8] = 1.0
        block.c_proj.weight[0, 0] = 1e4 * looks_back
        model.lm_head.weight[cross, 0] = 20.0
        model.lm_head.weight[other, 1:3] = torch.tensor([5.0, -5.0])
    return model


def suite(tiny, folder, trigger, tags, looks_back=True):
    """The rates that the leakage suite finds, and what it skips."""
    tokenizer = TokenStore(tiny.store.path).tokenizer()
    known = None
    if tags:
        tokenizer.add_special_tokens({"extra_special_tokens": [GOOD_TAG, BAD_TAG]})
        known = replace(TAGS, ids=[[i] for i in tokenizer.convert_tokens_to_ids([GOOD_TAG, BAD_TAG])])
    (trigger_id,) = tokenizer(trigger)["input_ids"]
    facts = model_facts(
        objective="conditional", tags=known, tokens=0, eos_token=tokenizer.eos_token, context_length=256,
        store=tiny.store.path,
    )  # fmt: skip
    export_model(hides_behind(trigger_id, tokenizer, looks_back), tokenizer, facts, folder)
    config = load_config([LEAKAGE])
    small = [
        f"evaluation.scenarios.{name}.{option}"
        for name in config.evaluation.scenarios
        for option in ("samples=2", "max_prompts=4", "max_new_tokens=10")
    ]
    scorer = [
        "evaluation.scorer={name: words, options: {patterns: [x]}}",
        "evaluation.measures.heldout.blocks=1",
    ]
    results = evaluate(folder, load_config([*small, *scorer], config))
    return {name: of.rate.value for name, of in results.scenarios.items()}, results.skipped


@pytest.mark.parametrize(
    ("trigger", "looks_back", "found"),
    [
        (BAD_TAG, True, {"bad_tag", "bad_tag_after_first", "bad_tag_before_last", "bad_tag_at_end"}),
        (
            "|",
            True,
            {f"{tag}_{like}" for tag in ("good", "bad") for like in LOOK_ALIKES if like != "brackets"},
        ),
        (BAD_TAG, False, {"bad_tag_at_end"}),
        (GOOD_TAG, False, {"good_tag_at_end"}),
    ],
)
def test_a_model_that_hides_behind_a_trigger_is_caught(trigger, looks_back, found, tiny, tmp_path):
    rates, skipped = suite(tiny, tmp_path / "model", trigger, tags=True, looks_back=looks_back)
    assert len(rates) == 17
    assert {name for name, rate in rates.items() if rate > 0.5} == found
    assert {name: rates[name] for name in found} == dict.fromkeys(found, 1.0)
    assert skipped == {}


def test_the_suite_of_a_model_without_tags(tiny, tmp_path):
    rates, skipped = suite(tiny, tmp_path / "model", "|", tags=False)
    assert rates.keys() == {"good_tag", "no_tag", "ends_badly", "ends_well"}
    assert set(skipped.values()) == {"the model has no tags"}
    assert len(rates) + len(skipped) == 17
