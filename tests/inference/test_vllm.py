"""What vLLM is asked for. It needs a GPU, so that here its two classes are stood in for."""

import sys
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from phf.base.errors import ConfigError
from phf.config import DecoderConfig, ScenarioConfig
from phf.inference.generate import generate_all
from phf.inference.language_model import LanguageModel
from phf.model.control_tokens import ControlTokens


@dataclass
class SamplingParams:
    """The parameters that are used, named as in `vllm.SamplingParams`."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    min_tokens: int
    stop_token_ids: list
    logit_bias: dict | None
    extra_args: dict | None
    seed: int
    detokenize: bool


@dataclass
class LLM:
    """Writes the letter `a` and ends."""

    model: str
    max_model_len: int
    enable_prefix_caching: bool
    generation_config: str
    logits_processors: list
    asked: list = field(default_factory=list)
    made: ClassVar[list] = []

    def __post_init__(self):
        self.made.append(self)

    def generate(self, prompts, sampling_params, use_tqdm):
        self.asked += zip(prompts, sampling_params, strict=True)
        return [
            SimpleNamespace(outputs=[SimpleNamespace(token_ids=(65, *p.stop_token_ids))])
            for p in sampling_params
        ]


def processor_of(name, monkeypatch):
    """Finds the class that vLLM is told the name of, as vLLM does, and returns what makes its rules."""
    path, _, class_name = name.partition(":")
    base = SimpleNamespace(AdapterLogitsProcessor=object)
    monkeypatch.setitem(sys.modules, "vllm.v1.sample.logits_processor", base)
    return getattr(import_module(path), class_name)().new_req_logits_processor


def test_a_scenario_becomes_sampling_parameters(model, language_model, tokenizer, monkeypatch):
    LLM.made.clear()
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=LLM, SamplingParams=SamplingParams))
    monkeypatch.setattr(model, "forward", lambda *a, **k: pytest.fail("not asked"))
    asked = {
        "plain": (
            ["ab", "c"],
            ScenarioConfig(prompts=["ab", "c"], samples=2, max_new_tokens=9, min_new_tokens=3),
        ),
        "other": (
            [""],
            ScenarioConfig(samples=1, emit_tags="none", max_new_tokens=5, min_new_tokens=0, top_k=7),
        ),
    }
    drawn = generate_all(language_model, asked, vllm_folder=Path("exported"), seed=3)
    (llm,) = LLM.made
    assert (llm.model, llm.max_model_len) == ("exported", 4 + 18)  # a tag may stand before each token
    ids = [tokenizer(text)["input_ids"] for text in ("ab", "c")]
    prompts = [prompt["prompt_token_ids"] for prompt, _ in llm.asked]
    assert prompts == [[256, 257, *ids[0]]] * 2 + [[256, 257, *ids[1]]] * 2 + [[256, 257]]  # by length
    parameters = [parameters for _, parameters in llm.asked]
    first, last = parameters[0], parameters[-1]
    assert (first.temperature, first.top_p, first.top_k) == (0.7, 0.9, -1)
    assert (first.max_tokens, first.min_tokens, first.stop_token_ids) == (18, 3, [256])
    assert (first.logit_bias, last.logit_bias) == (None, {257: -100.0, 258: -100.0})
    assert (last.max_tokens, last.top_k, last.extra_args, last.detokenize) == (5, 7, None, False)
    (processor,) = llm.logits_processors
    rule = processor_of(processor, monkeypatch)(first)
    logits = torch.zeros(259)
    changed = rule([256, 257], [65], logits.clone())
    assert changed.softmax(-1)[[65, 257, 258]].tolist() == pytest.approx([1 / 259, 2 / 259, 0])
    assert processor_of(processor, monkeypatch)(last) is None
    assert len({one.seed for one in parameters[:4]}) == 4
    assert [(s.prompt_index, s.sample_index, s.num_tokens, s.finished) for s in drawn["plain"]] == [
        (p, s, 1, True) for p in range(2) for s in range(2)
    ]


@pytest.mark.parametrize("name", ["guidance", "safe_beams"])
def test_decoders_of_several_rows_are_not_for_vllm(name, language_model):
    decoder = DecoderConfig(name)
    asked = {"mine": ([""], ScenarioConfig(samples=1, max_new_tokens=5, min_new_tokens=0, decoder=decoder))}
    with pytest.raises(
        ConfigError,
        match=rf"evaluation\.scenarios\.mine\.decoder: {name} does not work with vllm; .* transformers",
    ):
        generate_all(language_model, asked, vllm_folder=Path("exported"))


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_it_is_one_line(model, tokenizer):
    plain = LanguageModel(model, tokenizer, ControlTokens(256))
    asked = {"mine": ([""], ScenarioConfig(samples=1, max_new_tokens=20))}
    with pytest.raises(ConfigError, match=r"vllm is not installed: pip install 'phf\[vllm\]', or set it to"):
        generate_all(plain, asked, vllm_folder=Path("exported"))
