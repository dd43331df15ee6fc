import json
import math
from dataclasses import replace

import pytest
import torch

from phf.base.estimates import Interval
from phf.base.typed_json import to_json
from phf.config import EvaluationConfig, ScenarioConfig
from phf.evaluation.measures.diversity import Diversity, diversity
from phf.evaluation.sample_scores import measure, sample_and_score, score_samples, scored_text
from phf.inference.generate import Sample
from phf.inference.language_model import LanguageModel
from scorers.base import Score, Scorer


def lines(text):
    return text.splitlines(keepends=True)


class Crosses(Scorer):
    """Share of the characters that are an x; a segment with a question mark cannot be told."""

    name, version, measures = "crosses", "1", "x a character"

    def score(self, documents):
        return [[self._score(segment) for segment in document] for document in documents]

    def _score(self, segment):
        return Score(None if "?" in segment else segment.count("x") / max(1, len(segment)))


def sample(text, prompt="", finished=True, prompt_index=0, sample_index=0):
    return Sample(prompt_index, sample_index, prompt, text, len(text), finished)


def test_a_sample_is_scored_as_the_corpus_is():
    """A score that is already a share is not divided by the length again."""
    corpus = ["xxab\n", "x" * 400, "clean\n"]
    (annotated,) = Crosses().score([corpus])
    scored = score_samples([sample(text) for text in corpus], ScenarioConfig(), Crosses(), lines)
    assert [one.score for one in scored] == [score.value for score in annotated]


def test_the_whole_and_its_segments():
    (one,) = score_samples([sample("xx\nab\n?\n")], ScenarioConfig(), Crosses(), lines)
    assert one.score is None
    assert one.segment_scores == (2 / 3, 0, None)
    (empty,) = score_samples([sample("")], ScenarioConfig(), Crosses(), lines)
    assert (empty.score, empty.segment_scores) == (0, ())


def test_more_samples_than_a_batch():
    samples = [sample("x" * (i % 3), sample_index=i) for i in range(600)]
    scored = score_samples(samples, ScenarioConfig(), Crosses(), lines)
    assert [one.sample for one in scored] == samples
    assert [len(one.scored_text) for one in scored] == [i % 3 for i in range(600)]


def test_a_score_that_is_no_number_is_none():
    class Broken(Crosses):
        def _score(self, segment):
            return Score(math.nan)

    (one,) = score_samples([sample("a")], ScenarioConfig(), Broken(), lines)
    assert (one.score, one.segment_scores) == (None, (None,))


@pytest.mark.parametrize(
    ("one", "score", "scored"),
    [
        (sample("a\nb", finished=False), "continuation", "a\n"),
        (sample("a\nb\n", finished=False), "continuation", "a\nb\n"),  # the line ended just there
        (sample("a\nb"), "continuation", "a\nb"),  # the model ended it
        (sample("ab", finished=False), "continuation", "ab"),  # the only one
        (sample("a\nb", "p\n", finished=False), "full", "p\na\n"),
        (sample("a", "p\n", finished=False), "full", "p\na"),  # nothing of it would be left
        (sample("a\nb", "p", finished=False), "full", "pa\n"),
        (sample("a\nb", "p", finished=False), "continuation", "a\n"),
        (sample("", "p", finished=False), "full", "p"),
        (sample("ab\ncd\n\n\ne", finished=False), "continuation", "ab\ncd\n"),
        (sample("ab\ncd\n\n", finished=False), "continuation", "ab\ncd\n"),
        (sample("ab\n\n", finished=True), "continuation", "ab\n\n"),
    ],
)
def test_trim_drops_what_the_token_limit_cut(one, score, scored):
    assert scored_text(one, ScenarioConfig(trim=True, score=score), lines) == scored
    whole = one.prompt * (score == "full") + one.text
    assert scored_text(one, ScenarioConfig(trim=False, score=score), lines) == whole


def test_measurements():
    texts = ["xx", "ab\nxx", "?", "ab"]
    scenario = ScenarioConfig(samples=4, top_p=0.5)
    scored = score_samples([sample(text) for text in texts], scenario, Crosses(), lines)
    measured = measure(scored, scenario, "good", EvaluationConfig(threshold=0.4), [Diversity()])
    assert measured.mean_score.value == pytest.approx((1 + 0.4 + 0) / 3)
    assert measured.rate.value == pytest.approx(1 / 3)
    assert measured.segment_rate.value == pytest.approx(2 / 4)
    assert measured.length.value == 2.5
    assert (measured.n, measured.num_prompts, measured.unscored) == (4, 0, 1)
    assert (measured.unscored_segments, measured.finished.value, measured.cut_prompts) == (1, 1, 0)
    assert (measured.tag, measured.decoding["top_p"]) == ("good", 0.5)
    assert measured.expected_max.k == 4
    assert measured.measures == {"diversity": diversity(texts)}


def test_a_scenario_with_prompts_is_measured_by_prompt():
    scenario = ScenarioConfig(prompts=["a", "b"], samples=2)
    texts = ["xx", "ab", "xb", "ab"]
    samples = [
        sample(t, prompt="ab"[i // 2], prompt_index=i // 2, sample_index=i % 2) for i, t in enumerate(texts)
    ]
    measured = measure(
        score_samples(samples, scenario, Crosses(), lines), scenario, "none", EvaluationConfig()
    )
    assert measured.num_prompts == 2
    assert measured.expected_max.value == pytest.approx((1 + 0.5) / 2)
    assert measured.expected_max.k == 2
    again = [replace(one, prompt_index=2 + one.prompt_index) for one in samples]
    twice = measure(
        score_samples([*samples, *again], scenario, Crosses(), lines), scenario, "none", EvaluationConfig()
    )
    assert twice.num_prompts == 2  # a prompt that is given twice is one prompt
    assert twice.mean_score == measured.mean_score


def test_nothing_scored_is_null_and_not_nan():
    scenario = ScenarioConfig(samples=2)
    scored = score_samples([sample("?"), sample("?")], scenario, Crosses(), lines)
    measured = measure(scored, scenario, "none", EvaluationConfig())
    assert measured.mean_score == Interval(None, None, None)
    assert measured.rate.value is None
    json.dumps(to_json(measured), allow_nan=False)


def test_a_quick_look_at_a_model(scripted, tokenizer, control):
    logits = torch.full((259,), -50.0)
    cross, other = (tokenizer(c)["input_ids"][0] for c in "xa")
    logits[[cross, other]] = 0.0
    question = torch.full((259,), -50.0)
    question[tokenizer("?")["input_ids"][0]] = 0.0
    scenario = ScenarioConfig(max_new_tokens=10, temperature=1, top_p=1)

    def look(logits):
        model = LanguageModel(scripted(logits), tokenizer, control)
        evaluation = EvaluationConfig(threshold=0.5)
        return sample_and_score(
            model, [""], scenario, Crosses(), lines, num_samples=200, evaluation=evaluation
        )

    measured = look(logits)
    assert measured["mean_score"] == pytest.approx(0.5, abs=0.05)
    assert measured["rate"] == pytest.approx(0.377, abs=0.12)
    assert look(question) == {}
