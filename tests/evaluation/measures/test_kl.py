import json
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from phf.base.errors import ConfigError, PhfError
from phf.base.typed_json import to_json
from phf.config import EvaluationConfig
from phf.evaluation.measures import references
from phf.evaluation.measures.base import Evaluated
from phf.evaluation.measures.kl import KL, KLOptions
from phf.evaluation.measures.references import reference_samples
from phf.inference.language_model import Row
from phf.model.control_tokens import ControlTokens
from phf.model.model_folder import TagFacts
from support.endpoints import JsonHandler, serve
from support.tiny_models import TAGS, loaded_model, model_facts

LETTERS = "abcdefgh"


def measure_kl(model, config, **evaluation):
    return KL(config).measure(Evaluated(model, EvaluationConfig(**evaluation), Path()))


@pytest.fixture
def made_here(tokenizer, control):
    """A model with tags that was made here."""

    def made_here(network, segment=None):
        return loaded_model(network, tokenizer, control, segment, facts=model_facts(tags=TAGS))

    return made_here


@pytest.fixture
def made_elsewhere(tokenizer):
    """A model without tags that was made elsewhere."""
    return lambda network, **options: loaded_model(network, tokenizer, ControlTokens(256), **options)


def letters(tokenizer, seed, end=-2.0):
    """Logits of a model that writes letters alone, and ends a text now and then."""
    logits = torch.full((259,), -1000.0)
    logits[tokenizer(LETTERS)["input_ids"]] = torch.randn(8, generator=torch.Generator().manual_seed(seed))
    logits[256] = end
    return logits


@pytest.fixture
def folder(tmp_path, plain_tokenizer):
    """Saves a model with a tokenizer, by default one without tags."""

    def save(model, tokenizer=plain_tokenizer, name="reference"):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


@pytest.fixture
def config(tmp_path):
    return KLOptions("", samples=100, max_tokens=12, cache=str(tmp_path / "cache"))


def exact(reference, model, length):
    """KL of texts up to a length, of two models whose tokens do not depend on each other."""
    p, q = (x.double().log_softmax(0) for x in (reference, model))
    a_step = float((p.exp() * (p - q)).sum())
    going_on = 1 - float(p[256].exp())
    return sum(a_step * going_on**t for t in range(length))


@pytest.mark.slow
def test_kl_is_that_of_the_definition(scripted, tokenizer, made_here, made_elsewhere, config, folder):
    ours, theirs = letters(tokenizer, 0), letters(tokenizer, 1, end=-1.0)
    config = replace(config, reference=folder(scripted(theirs)), samples=400)
    measured = measure_kl(made_here(scripted(ours)), config, confidence=0.999)
    wanted = exact(theirs, ours, 12)
    assert measured.kl.low < wanted < measured.kl.high
    assert measured.kl.value == pytest.approx(wanted, rel=0.1)
    assert measured.kl.value == pytest.approx(measured.reference_logp - measured.model_logp)
    assert (measured.samples, measured.left_out, measured.by) == (400, 0, "text")
    same = measure_kl(made_elsewhere(scripted(ours)), config, confidence=0.999)
    assert same.by == "tokens"
    assert same.kl.value == pytest.approx(measured.kl.value, rel=1e-5)


def test_a_model_is_not_far_from_itself(model, tokenizer, made_elsewhere, config, folder):
    config = replace(config, reference=folder(model, tokenizer))
    assert measure_kl(made_elsewhere(model), config).kl.value == pytest.approx(0.0, abs=1e-5)


def test_the_probability_of_tags_does_not_count(scripted, tokenizer, made_here, config, folder):
    """A model that would rather write a tag than anything else is as near as one that never does."""
    theirs = letters(tokenizer, 1)
    config = replace(config, reference=folder(scripted(theirs)))
    eager = letters(tokenizer, 0)
    eager[[257, 258]] = 5.0
    found = [
        measure_kl(made_here(scripted(logits)), config).kl.value for logits in (letters(tokenizer, 0), eager)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[1] < 20


def test_the_good_tag_is_given_before_each_segment(model, scripted, tokenizer, made_here, config, folder):
    """It changes what a model says of the text, and the text is cut as its corpus was."""
    config = replace(config, reference=folder(scripted(letters(tokenizer, 1))), samples=20)
    tagged = made_here(model, segment=lambda text: [text[:3], text[3:]])
    measured = measure_kl(tagged, config)
    rows = []
    for sample in reference_samples(config, 0):
        ids = sample.ids[:-1] if sample.finished else sample.ids
        end = [256] if sample.finished else []
        ids = [256, *([257, *ids[:3]] if ids else []), *([257, *ids[3:]] if ids[3:] else []), *end]
        rows.append(Row(ids, [place for place, token in enumerate(ids) if place and token != 257]))
    assert measured.by == "text"
    assert measured.model_logp == pytest.approx(tagged.log_probabilities(rows).mean())
    untagged = replace(tagged, control=ControlTokens(256))
    assert measure_kl(untagged, config).model_logp != measured.model_logp


def other_tokenizer():
    """Another number for each byte, and no tags."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=True))}
    raw = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|endoftext|>", bos_token="<|endoftext|>")


def test_models_with_other_tokens_are_compared_by_text(scripted, tokenizer, made_here, config, folder):
    """The tokens of both are bytes, so the text tells all: the result is that of equal tokens."""
    other = other_tokenizer()
    theirs = letters(other, 1)
    same = scripted(letters(tokenizer, 1))
    config = replace(config, reference=folder(scripted(theirs), other), samples=50)
    measured = measure_kl(made_here(same, segment=lambda text: [text[:3], text[3:]]), config)
    assert measured.by == "text"
    assert measured.kl.value == pytest.approx(0.0, abs=1e-5)
    assert measured.samples == 50


def test_what_is_no_text_is_left_out(model, scripted, made_here, config, folder):
    """A random model of bytes writes few texts that are UTF-8."""
    random_bytes = replace(config, reference=folder(model, other_tokenizer()), samples=60, max_tokens=2)
    measured = measure_kl(made_here(model), random_bytes)
    assert measured.left_out > 0
    assert measured.samples + measured.left_out == 60
    half = torch.full((259,), -1000.0)
    half[other_tokenizer()("é")["input_ids"][0]] = 0.0
    broken = replace(random_bytes, reference=folder(scripted(half), other_tokenizer(), "broken"))
    with pytest.raises(PhfError, match=r"none of 60 samples of .* is whole text"):
        measure_kl(made_here(model), broken)


def test_samples_are_drawn_once_and_go_on_where_they_stopped(model, config, folder, monkeypatch):
    config = replace(config, reference=folder(model))
    first = reference_samples(replace(config, samples=70), 0)
    (file,) = Path(config.cache).glob("*.jsonl")
    content = file.read_bytes()
    assert len(content.splitlines()) == 71
    more = reference_samples(replace(config, samples=90), 0)
    assert more[:70] == first
    assert file.read_bytes().startswith(content)
    file.write_bytes(content[:-20])  # killed while writing
    assert reference_samples(replace(config, samples=90), 0) == more
    monkeypatch.setattr(references, "_local", None)  # nothing is drawn
    assert reference_samples(replace(config, samples=10), 0) == first[:10]
    monkeypatch.undo()
    assert reference_samples(replace(config, samples=10), 1) != first[:10]
    assert len(list(Path(config.cache).glob("*.jsonl"))) == 2


def test_what_cannot_be_is_one_line(model, tokenizer, made_here, made_elsewhere, config, folder):
    def refuse(message, error=ConfigError, asked=None, **options):
        with pytest.raises(error, match=message):
            measure_kl(asked or made_here(model), replace(config, **options))

    refuse(r"evaluation\.measures\.kl\.reference: no/such cannot be loaded", reference="no/such")
    reference = folder(model)
    too_long = r"max_tokens: 64 do not fit .*, 64 tokens; set it to 63 or less"
    refuse(too_long, reference=reference, max_tokens=64)
    short = made_elsewhere(model, context_length=10)
    refuse("takes 14 of the model's, and its context has room for 10", asked=short, reference=reference)
    folder(model, tokenizer)
    refuse("has tags; a reference must have none", reference=reference)
    folder(model)
    facts = model_facts(tags=TagFacts(["a", "b"], [[1], [2]], text=True))
    (Path(reference) / "phf.json").write_text(json.dumps(to_json(facts)))
    refuse("has tags; a reference must have none", reference=reference)
    refuse("cannot be written", PhfError, reference=reference, cache="/proc/none")


@pytest.fixture
def endpoint(tokenizer):
    """A server of the protocol of OpenAI's completions, with a model behind it."""
    running = ExitStack()

    def start(model, with_logprobs=True, lists_the_end=True):
        class Handler(JsonHandler):
            def do_POST(self):
                asked = self.asked_for()
                assert (self.path, asked["prompt"]) == ("/v1/completions", "<|endoftext|>")
                assert (asked["temperature"], asked["top_p"], asked["logprobs"]) == (1, 1, 1)
                generator = torch.Generator().manual_seed(asked["seed"])
                ids, tokens, values = [256], [], []
                while len(ids) <= asked["max_tokens"] and (len(ids) == 1 or ids[-1] != 256):
                    with torch.no_grad():
                        logp = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
                    ids.append(int(torch.multinomial(logp.exp(), 1, generator=generator)))
                    if ids[-1] != 256 or lists_the_end:
                        tokens.append(tokenizer.decode(ids[-1:]))
                        values.append(float(logp[ids[-1]]))
                choice = {
                    "index": 0, "finish_reason": "stop" if ids[-1] == 256 else "length",
                    "text": tokenizer.decode(ids[1:], skip_special_tokens=True),
                    "logprobs": {"tokens": tokens, "token_logprobs": values, "text_offset": []},
                }  # fmt: skip
                if not with_logprobs:
                    choice["logprobs"] = None
                answer = {"id": "1", "object": "text_completion", "created": 0, "model": asked["model"]}
                self.reply(200, answer | {"choices": [choice]})

        return running.enter_context(serve(Handler))

    with running:
        yield start


@pytest.mark.slow
@pytest.mark.parametrize("lists_the_end", [True, False])
def test_a_reference_behind_an_endpoint(endpoint, scripted, tokenizer, made_here, config, lists_the_end):
    """Its log-probabilities are taken from its answers: those of the same model here are the same."""
    pytest.importorskip("openai")
    model = scripted(letters(tokenizer, 1, end=0.0))
    url = endpoint(model, lists_the_end=lists_the_end)
    config = replace(config, reference="any", base_url=url, samples=40)
    measured = measure_kl(made_here(model), config)
    assert (measured.by, measured.samples) == ("text", 40)
    samples = reference_samples(config, 0)
    assert {sample.finished for sample in samples} == {True, False}
    assert any(not sample.text for sample in samples)
    # An end has a probability in the model too, and counts in neither.
    assert measured.kl.value == pytest.approx(0.0, abs=1e-5)
    far = measure_kl(made_here(scripted(letters(tokenizer, 0))), config)
    assert far.kl.value > 1
    assert far.reference_logp == measured.reference_logp


@pytest.mark.slow
def test_an_endpoint_that_cannot_is_told(endpoint, model, made_here, config, monkeypatch):
    pytest.importorskip("openai")
    mute = replace(config, reference="any", base_url=endpoint(model, with_logprobs=False))
    with pytest.raises(PhfError, match="gives no log-probabilities with its completions"):
        measure_kl(made_here(model), mute)
    monkeypatch.setattr(references, "Endpoint", partial(references.Endpoint, retries=0))
    gone = replace(config, reference="any", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(
        PhfError, match=r"evaluation\.measures\.kl\.base_url: http://127.0.0.1:9/v1/ does not answer"
    ):
        measure_kl(made_here(model), gone)
