"""On tiny models of the true formats, with random weights."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detoxify.detoxify import MODEL_URLS
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from scorers import ScorerError
from scorers.classifiers import RewardModel, Toxicity

CLASSES = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]
LABELS = ["toxicity", "severe_toxicity", "obscene", "threat", "insult", "identity_attack"]
TEXTS = ["hate you.", "i love you", "", "abc def ghi " * 3, "you " * 20, "x\0y", "i"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tokenizer(folder: Path, limit: int) -> BertTokenizer:
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *LETTERS,
        *(f"##{c}" for c in LETTERS),
        "hate",
        "you",
        ".",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    made = BertTokenizer.from_pretrained(folder)
    made.model_max_length = limit
    made.save_pretrained(folder)
    return made


SIZES = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture(scope="module")
def detoxify(tmp_path_factory) -> Path:
    """A folder with a checkpoint in Detoxify's format, and its configuration."""
    folder = tmp_path_factory.mktemp("detoxify")
    tokenizer(folder, 64)
    torch.manual_seed(0)
    config = BertConfig(**SIZES, num_labels=len(CLASSES))
    config.save_pretrained(folder)
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        model.classifier.weight.mul_(40)  # scores far apart
    write(folder / "model.ckpt", model.state_dict(), str(folder))
    return folder


def write(path: Path, weights: dict, model_type: str, name: str = "BertForSequenceClassification") -> None:
    arguments = {
        "model_type": model_type, "model_name": name, "tokenizer_name": "BertTokenizer", "num_classes": 6,
    }  # fmt: skip
    config = {"arch": {"args": arguments}, "dataset": {"args": {"classes": CLASSES}}}
    torch.save({"config": config, "state_dict": weights}, path)


def toxicity(folder: Path, **options) -> Toxicity:
    return Toxicity(checkpoint=str(folder / "model.ckpt"), config=str(folder), device="cpu", **options)


def test_all_labels_are_as_by_detoxify(detoxify):
    from detoxify import Detoxify

    expected = Detoxify(
        checkpoint=str(detoxify / "model.ckpt"), huggingface_config_path=str(detoxify)
    ).predict(TEXTS)
    found = toxicity(detoxify, batch_size=3).probabilities(TEXTS)
    assert list(found) == list(expected) == LABELS
    for label in LABELS:
        np.testing.assert_allclose(found[label], expected[label], atol=1e-6)
        scores = toxicity(detoxify, label=label).score_segments(TEXTS)
        np.testing.assert_allclose([score.value for score in scores], expected[label], atol=1e-6)
    assert np.ptp(expected["toxicity"]) > 1e-4


def test_batches_do_not_change_a_score(detoxify):
    one = [toxicity(detoxify).score_segments([text])[0].value for text in TEXTS]
    for batch_size in (1, 2, 100):
        together = toxicity(detoxify, batch_size=batch_size).score_segments(TEXTS)
        np.testing.assert_allclose([score.value for score in together], one, atol=1e-6)
    assert toxicity(detoxify).score_segments([]) == []


def test_a_long_text_has_the_highest_score_of_its_pieces(detoxify):
    scorer = toxicity(detoxify)
    long = "hate " * 62 + "you " * 62 + "i . " * 10
    pieces = ["hate " * 62, "you " * 62, "i . " * 10]
    values = [score.value for score in scorer.score_segments([long, *pieces])]
    assert values[0] == pytest.approx(max(values[1:]), abs=1e-6)
    assert scorer.score_segments(["\ud800"])[0].value is not None


def test_a_released_file_with_a_name_of_the_hub_inside_is_loaded_from_a_folder(
    detoxify, tmp_path, monkeypatch
):
    shutil.copytree(detoxify, tmp_path / "local")
    weights = torch.load(detoxify / "model.ckpt", weights_only=True)["state_dict"]
    write(tmp_path / "local/model.ckpt", weights, "bert-base-uncased")
    monkeypatch.chdir(tmp_path)
    assert toxicity(tmp_path / "local").score_segments(TEXTS) == toxicity(detoxify).score_segments(TEXTS)
    with pytest.raises(ScorerError, match=r"cannot be loaded: .*; set config to a folder"):
        Toxicity(checkpoint=str(tmp_path / "local/model.ckpt"), device="cpu")


def test_positions_of_roberta_begin_after_the_padding(tmp_path):
    tokenizer(tmp_path, 10**9)
    config = RobertaConfig(**SIZES | {"max_position_embeddings": 20}, num_labels=6, pad_token_id=0)
    config.save_pretrained(tmp_path)
    model = RobertaForSequenceClassification(config)
    write(tmp_path / "model.ckpt", model.state_dict(), str(tmp_path), "RobertaForSequenceClassification")
    scorer = toxicity(tmp_path)
    assert scorer.max_tokens == 19
    assert scorer.score_segments(["you " * 100])[0].value is not None


def test_fewer_bits_are_close(detoxify):
    exact = np.array(toxicity(detoxify).probabilities(TEXTS)["toxicity"])
    for precision in ("int8", "bfloat16"):
        other = toxicity(detoxify, precision=precision)
        error = np.abs(np.array(other.probabilities(TEXTS)["toxicity"]) - exact).max()
        assert 0 < error < 0.1
        assert other.fingerprint != toxicity(detoxify).fingerprint


def test_the_fingerprint_is_that_of_the_weights(detoxify, tmp_path):
    shutil.copytree(detoxify, tmp_path / "copy")
    assert toxicity(tmp_path / "copy", batch_size=1).fingerprint == toxicity(detoxify).fingerprint
    weights = torch.load(detoxify / "model.ckpt", weights_only=True)["state_dict"]
    weights["classifier.bias"] = weights["classifier.bias"] + 1
    write(tmp_path / "copy/model.ckpt", weights, "x")
    assert toxicity(tmp_path / "copy").fingerprint != toxicity(detoxify).fingerprint


def test_weights_that_are_missing_are_refused(detoxify, tmp_path):
    shutil.copytree(detoxify, tmp_path / "copy")
    weights = torch.load(detoxify / "model.ckpt", weights_only=True)["state_dict"]
    del weights["classifier.weight"]
    write(tmp_path / "copy/model.ckpt", weights, "x")
    with pytest.raises(
        ScorerError, match=r"lacks 1 weights \(classifier.weight ...\), which would be random"
    ):
        toxicity(tmp_path / "copy")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_a_file_that_is_no_checkpoint_is_one_line(detoxify, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps(Evil()))
    torch.save({"config": Evil()}, tmp_path / "evil2.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "part.ckpt")
    torch.save({"state_dict": {}, "config": {}}, tmp_path / "bare.ckpt")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    for name, message in [
        ("evil", "holds more than weights|cannot be loaded"),
        ("evil2", "holds more than weights, and is not loaded for safety"),
        ("part", r"is not in Detoxify's format \(config, state_dict\)"),
        ("bare", "does not say how its model is built"),
        ("empty", "cannot be loaded"),
        ("nowhere", "cannot be loaded: .*No such file"),
    ]:
        with pytest.raises(ScorerError, match=message) as error:
            Toxicity(checkpoint=f"{name}.ckpt", config=str(detoxify), device="cpu")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "evil").exists()


def test_without_a_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(MODEL_URLS, "original", "http://127.0.0.1:9/original.ckpt")
    with pytest.raises(
        ScorerError, match=r"original cannot be loaded: .*; without a network, set checkpoint"
    ):
        Toxicity(model="original", device="cpu")


def test_options_that_cannot_be_are_one_line(detoxify):
    for options, message in [
        ({"label": "rudeness"}, "no label 'rudeness', only toxicity, "),
        ({"precision": "int4"}, "precision must be float32"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
    ]:
        with pytest.raises(ScorerError, match=message):
            toxicity(detoxify, **options)
    with pytest.raises(ScorerError, match="no model 'origin'; there are original, unbiased"):
        Toxicity(model="origin")
    if not torch.cuda.is_available():
        with pytest.raises(ScorerError, match="device=cuda: there is no GPU here"):
            Toxicity(checkpoint=str(detoxify / "model.ckpt"), config=str(detoxify), device="cuda")


@pytest.fixture(scope="module")
def reward(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    tokenizer(folder, 64)
    torch.manual_seed(1)
    model = BertForSequenceClassification(
        BertConfig(**SIZES, num_labels=3, id2label={0: "bad", 1: "neutral", 2: "good"})
    )
    with torch.no_grad():
        model.classifier.weight.mul_(40)
    model.save_pretrained(folder)
    return folder


def logits(folder: Path) -> np.ndarray:
    model, text = (
        AutoModelForSequenceClassification.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    with torch.no_grad():
        rows = [model(**text(t, return_tensors="pt")).logits[0].double() for t in TEXTS]
    return torch.stack(rows).numpy()


def test_a_reward_model(reward):
    exact = logits(reward)
    softmax = np.exp(exact) / np.exp(exact).sum(1, keepdims=True)
    for options, expected in [
        ({"label": "good"}, 1 - 1 / (1 + np.exp(-exact[:, 2]))),
        ({"label": 0, "better": "low"}, 1 / (1 + np.exp(-exact[:, 0]))),
        ({"label": "good", "transform": "softmax"}, 1 - softmax[:, 2]),
        ({"label": "bad", "transform": "softmax", "better": "low"}, softmax[:, 0]),
        ({"label": "good", "transform": "raw", "offset": 10}, 10 - exact[:, 2]),
        ({"label": "good", "transform": "raw", "better": "low"}, np.maximum(exact[:, 2], 0)),
    ]:
        scorer = RewardModel(model=str(reward), device="cpu", batch_size=2, **options)
        found = [score.value for score in scorer.score_segments(TEXTS)]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_reward_model_that_cannot_be_used_is_one_line(reward, tmp_path):
    for options, message in [
        ({"model": "/no/where"}, "/no/where cannot be loaded"),
        ({"model": str(reward), "label": "great"}, "no label 'great'; there are bad, neutral, good"),
        ({"model": str(reward), "transform": "tanh"}, "transform must be sigmoid, softmax or raw"),
        ({"model": str(reward), "better": "more"}, "better must be high or low"),
    ]:
        with pytest.raises(ScorerError, match=message) as error:
            RewardModel(device="cpu", **options)
        assert "\n" not in str(error.value)
    shutil.copytree(reward, tmp_path / "headless")
    from safetensors.torch import load_file, save_file

    weights = load_file(reward / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("classifier")}
    save_file(kept, tmp_path / "headless/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ScorerError, match=r"lacks 2 weights .*which would be random"):
        RewardModel(model=str(tmp_path / "headless"), device="cpu")
