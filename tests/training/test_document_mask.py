"""Attention that does not cross documents: as if each were alone, and what cannot do it."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from objectives.mle import MLE
from objectives.view import View
from phf.base.errors import ConfigError
from phf.blocks.block import Kind
from phf.blocks.datamodule import collate
from phf.blocks.packed import PackedView
from phf.config import ModelConfig, load_config
from phf.evaluation.evaluate import evaluate
from phf.model.build import build_model
from phf.store.store import TokenStore
from phf.training.parallel import compile_blocks
from phf.training.run import pretrain
from support.runs import can_compile, metrics, watch

SIZES = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


def model_of(architecture: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        architecture, **SIZES, vocab_size=384, max_position_embeddings=128, bos_token_id=0, eos_token_id=0
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    for weight in model.parameters():  # so that attention matters, and not only the token itself
        torch.nn.init.normal_(weight, std=0.3)
    return model


def view_of(tiny, split: str = "train", context_length: int = 128) -> PackedView:
    store = TokenStore(tiny.store.path)
    return PackedView(
        store.split(split), View(), scorer="pep8", context_length=context_length, seed=0,
        eos_id=store.tokenizer().eos_token_id,
    )  # fmt: skip


def with_inner_documents(view: PackedView, number: int) -> list[tuple[int, int]]:
    """Blocks in which one document or more begins after the first token."""
    found = [(0, i) for i in range(view.num_blocks(0)) if (view.block(0, i).kind[1:-1] == Kind.EOS).any()][
        :number
    ]
    assert len(found) == number
    return found


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox"])
@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.skipif(not can_compile(), reason="no compiler"))]
)
def test_a_packed_block_is_as_its_documents_alone(tiny, architecture, compiled):
    view = view_of(tiny)
    places = with_inner_documents(view, 3)
    batch = collate(view, places, count_tags=True, step_tokens=1.0, document_mask=True)
    objective = MLE(model_of(architecture))
    alone = []
    with torch.no_grad():
        for place, tokens in zip(places, batch["tokens"], strict=True):
            opens = np.flatnonzero(view.block(*place).kind[:-1] == Kind.EOS).tolist()
            bounds = sorted({0, *opens, len(tokens) - 1})
            pieces = [tokens[a : b + 1] for a, b in pairwise(bounds)]
            logps = [objective.model(piece[None, :-1]).logits[0].log_softmax(-1) for piece in pieces]
            alone.append(
                torch.cat([
                    logp.gather(1, piece[1:, None])[:, 0] for logp, piece in zip(logps, pieces, strict=True)
                ])
            )  # fmt: skip
        if compiled:
            compile_blocks(objective.model)
        _, packed = objective.losses(batch)
        del batch["positions"]
        _, crossing = objective.losses(batch)
    torch.testing.assert_close(packed, torch.stack(alone), rtol=1e-5, atol=1e-5)
    assert (packed - crossing).abs().max() > 0.1


def test_positions_start_again_with_each_document(tiny):
    view = view_of(tiny)
    (place,) = with_inner_documents(view, 1)
    block = view.block(*place)
    expected, place_in_document = [], 0
    for kind in block.kind[:-1]:
        place_in_document = 0 if kind == Kind.EOS or not expected else place_in_document + 1
        expected.append(place_in_document)
    assert block.positions().tolist() == expected
    assert "positions" not in collate(view, [place], count_tags=True, step_tokens=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["mle", "awr"])
def test_a_masked_run_measures_and_evaluates_with_the_mask(tiny, tmp_path, monkeypatch, objective):
    seen = watch(monkeypatch, objective)
    folder = tmp_path / "run"
    config = load_config(
        [
            f"run.folder={folder}", f"objective.name={objective}", "model.document_mask=true",
            "model.config={n_layer: 1, n_embd: 16, n_head: 2, initializer_range: 0.5}",
            "model.context_length=64", "train.heldout_blocks=4096", "train.heldout_every=8",
            "evaluation.measures.heldout.blocks=null", "evaluation.threshold=0",
        ],
        tiny,
    )  # fmt: skip
    pretrain(config)
    assert all("positions" in batch for batch in seen)
    assert any((batch["positions"][:, 1:] == 0).any() for batch in seen)  # of held-out text at least
    facts = folder / "model" / "phf.json"
    known = json.loads(facts.read_text())
    assert known["document_mask"] is True
    ((_, trained),) = metrics(folder)["heldout/loss"]
    agree = pytest.approx(trained, abs=1e-5)
    assert evaluate(folder, config).measures["heldout"].loss.value == agree
    facts.write_text(json.dumps({**known, "document_mask": False}))
    assert evaluate(folder, config).measures["heldout"].loss.value != agree


def test_an_architecture_that_cannot_says_so(tiny):
    config = ModelConfig(
        architecture="bloom", config={"n_layer": 1, "hidden_size": 16, "n_head": 2}, context_length=64,
        document_mask=True,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"model.document_mask: attention of BloomForCausalLM crosses"):
        build_model(config, TokenStore(tiny.store.path).tokenizer(), 0)
