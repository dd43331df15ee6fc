import math
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from scorers import ScorerError
from scorers.language_models import Judge, Perplexity
from support.endpoints import JsonHandler, serve

TEXTS = ["the cat sat", "a", "", "sat sat sat the cat " * 8, "\ud800"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny GPT-2 with random weights."""
    folder = tmp_path_factory.mktemp("reference")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXTS[:2], trainers.BpeTrainer(vocab_size=270, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=special[0], eos_token=special[0])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, **sizes)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_perplexity_is_that_of_the_text_on_its_own(folder):
    scorer = Perplexity(model=str(folder), batch_size=2, device="cpu")
    found = [score.value for score in scorer.score_segments(TEXTS)]
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    for text, value in zip(TEXTS[:2], found, strict=False):
        ids = torch.tensor([[0, *tokenizer(text)["input_ids"]]])
        with torch.no_grad():
            assert value == pytest.approx(math.exp(model(ids, labels=ids).loss), rel=1e-5)
    assert found[2] is None
    assert found[3] > 1
    assert found[4] > 1
    one_by_one = [scorer.score_segments([text])[0].value for text in TEXTS]
    assert [v and pytest.approx(v, rel=1e-5) for v in one_by_one] == found


def test_perplexity_of_what_is_no_model_is_one_line():
    with pytest.raises(ScorerError, match="/no/where cannot be loaded"):
        Perplexity(model="/no/where")


class Endpoint(JsonHandler):
    """Chat completions: answers with the number of words, and fails now and then."""

    asked: ClassVar[list[str]] = []
    fail = 0

    def do_POST(self):
        request = self.asked_for()
        assert self.path == "/v1/chat/completions"
        assert request["temperature"] == 0
        prompt = request["messages"][0]["content"]
        type(self).asked.append(prompt)
        if request["model"] == "nobody":
            return self.reply(404, {"error": {"message": "no such model"}})
        if type(self).fail:
            type(self).fail -= 1
            return self.reply(503, {"error": {"message": "busy"}})
        words = prompt.removeprefix("Rate: ").split()
        answer = words[1] if words[:1] == ["say"] else f"Score: {len(words)} out of 10."
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer}}
        return self.reply(
            200, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        )


@pytest.fixture
def endpoint():
    Endpoint.asked, Endpoint.fail = [], 0
    with serve(Endpoint) as address:
        yield address


def judge(endpoint: str, tmp_path: Path, **options) -> Judge:
    defaults = {"model": "m", "rubric": "Rate: {text}", "cache": str(tmp_path / "deep/judge.sqlite")}
    return Judge(base_url=endpoint, **(defaults | options))


@pytest.mark.slow
def test_a_judge_is_asked_once(endpoint, tmp_path):
    texts = ["one two three", "one", "one two three", "{text} {0}", "\ud800"]
    expected = [0.3, 0.1, 0.3, 0.2, 0.1]
    assert [score.value for score in judge(endpoint, tmp_path).score_segments(texts)] == expected
    assert len(Endpoint.asked) == 4
    again = judge(endpoint, tmp_path)
    assert [score.value for score in again.score_segments(texts)] == expected
    assert len(Endpoint.asked) == 4
    assert judge(endpoint, tmp_path, model="other").score_segments(texts[:1])[0].value == 0.3
    assert len(Endpoint.asked) == 5
    assert again.fingerprint == judge("http://elsewhere/v1", tmp_path).fingerprint
    assert again.fingerprint != judge(endpoint, tmp_path, rubric="Judge: {text}").fingerprint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "value"),
    [("7", 0.7), ("7.5/10", 0.75), ("10", 1.0), ("11", None), ("-1", None), ("none", None), ("3,4", None)],
)
def test_an_answer_that_is_not_one_number_is_no_score(endpoint, tmp_path, answer, value):
    assert judge(endpoint, tmp_path).score_segments([f"say {answer}"])[0].value == value


@pytest.mark.slow
def test_a_request_that_fails_is_sent_again(endpoint, tmp_path):
    Endpoint.fail = 1
    assert judge(endpoint, tmp_path).score_segments(["one"])[0].value == 0.1
    Endpoint.fail = 2
    with pytest.raises(ScorerError, match=r"does not answer: .*busy"):
        judge(endpoint, tmp_path, retries=0).score_segments(["one two"])


def test_an_endpoint_that_refuses_is_one_line(endpoint, tmp_path):
    with pytest.raises(ScorerError, match=r"refuses: .*no such model"):
        judge(endpoint, tmp_path, model="nobody").score_segments(["one"])
    with pytest.raises(ScorerError, match="does not answer"):
        judge("http://127.0.0.1:9/v1", tmp_path, retries=0).score_segments(["one"])
    for options, message in [
        ({"rubric": "Rate it"}, "the rubric must have {text} where the segment goes"),
        ({"highest": 0}, "highest must be above 0"),
    ]:
        with pytest.raises(ScorerError, match=message):
            judge(endpoint, tmp_path, **options)
