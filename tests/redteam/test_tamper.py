import json
import logging
from itertools import islice, pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from objectives.optimization import Optimization
from phf.cli import main
from phf.config import load_config
from phf.evaluation.result_files import read_results
from phf.evaluation.results import TamperResults
from phf.model.build import build_model
from phf.model.model_folder import export_model
from phf.redteam.finetune import Finetuning, blocks
from phf.redteam.tamper import tamper
from phf.redteam.target import Target
from phf.store.store import TokenStore
from support.tiny_models import model_facts
from support.triggers import BAD, WORDS


def write_documents(path, words, bad_share):
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for _ in range(60):
            text = [BAD if rng.random() < bad_share else rng.choice(words) for _ in range(40)]
            file.write(json.dumps({"text": " ".join(text)}) + "\n")


@pytest.fixture
def overrides(run):
    write_documents(run / "bad.jsonl", WORDS, 0.8)
    write_documents(run / "benign.jsonl", WORDS, 0.0)
    return [
        "evaluation.scenarios.plain={max_new_tokens: 8, min_new_tokens: 8, temperature: 1, top_p: 1}",
        "tamper.samples=80", "tamper.tokens=4608", "tamper.points=3", "tamper.batch_size=8",
        "tamper.learning_rate=3e-3", f"tamper.bad_documents={run / 'bad.jsonl'}",
        f"tamper.benign_documents={run / 'benign.jsonl'}",
    ]  # fmt: skip


@pytest.mark.slow
def test_bad_text_brings_misbehaviour_back_and_benign_text_does_not(run, overrides, caplog):
    caplog.set_level(logging.INFO, logger="phf")
    weights = (run / "model" / "model.safetensors").read_bytes()
    results = tamper(run, load_config(overrides))
    assert results == read_results(run / "tamper", TamperResults)
    bad, benign = results.curves["bad"], results.curves["benign"]
    assert bad[0] == benign[0]
    assert bad[0].loss is None
    # 4608 tokens are 18 steps of 8 blocks of 32.
    assert [p.tokens for p in bad] == [p.tokens for p in benign] == [0, 1536, 3072, 4608]
    assert bad[-1].mean_score.low > bad[0].mean_score.high
    assert benign[-1].rate.high < bad[0].rate.low
    for points in (bad, benign):
        assert points[3].loss < points[1].loss
    assert results.documents["bad"]["num_documents"] == 60
    assert results.documents["bad"]["num_tokens"] == 60 * 40

    rows = pq.read_table(run / "tamper" / "samples.parquet").to_pylist()
    assert len(rows) == 2 * 4 * 80
    last = [row["score"] for row in rows if row["finetuned_on"] == "bad" and row["tokens"] == 4608]
    assert bad[-1].mean_score.value == pytest.approx(sum(last) / 80)
    assert (run / "model" / "model.safetensors").read_bytes() == weights
    assert not (run / "tamper" / "points").exists()
    assert tamper(run, load_config(overrides)) == results
    assert "is already tampered with: nothing to do" in caplog.text


def test_the_command_line(run, overrides, capfd):
    small = ["tamper.samples=4", "tamper.tokens=512", "tamper.points=1", "tamper.texts=[benign]"]
    small += ["tamper.seed=1", "evaluation.seed=2"]
    assert main(["tamper", str(run), *overrides, *small]) == 0
    assert f"{run}: rate " in capfd.readouterr().err
    results = json.loads((run / "tamper" / "results.json").read_text())
    assert list(results["curves"]) == ["benign"]
    assert (results["seed"], results["finetuning"]["seed"]) == (2, 1)


@pytest.mark.slow
@pytest.mark.parametrize("last_call", [1, 3, 5])
def test_a_stop_changes_nothing(last_call, run, overrides, monkeypatch):
    whole = tamper(run, load_config(overrides))
    (run / "tamper" / "manifest.json").unlink()
    write, calls = Target.write, []

    def killed(self, *arguments, **options):
        calls.append(1)
        if len(calls) > last_call:
            raise KeyboardInterrupt
        return write(self, *arguments, **options)

    monkeypatch.setattr(Target, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        tamper(run, load_config(overrides))
    assert len(list((run / "tamper" / "points").glob("*-?.json"))) == last_call - 1
    calls.clear()
    last_call = 99
    assert tamper(run, load_config(overrides)) == whole
    assert len(calls) < 7


def test_blocks_are_the_documents_one_after_the_other():
    documents = [np.arange(10 * i + 1, 10 * i + 1 + length) for i, length in enumerate((3, 0, 9, 5))]
    stream = list(islice(blocks(documents.__getitem__, 4, 4, 0, seed=1), 12))
    assert all(len(block) == 5 and block.dtype == np.int64 for block in stream)
    assert all(a[-1] == b[0] for a, b in pairwise(stream))
    tokens = [*stream[0], *(token for block in stream[1:] for token in block[1:])]
    epochs = [tokens[:21], tokens[21:42]]  # 17 tokens after 4 ends
    assert all(sorted(epoch) == sorted([0] * 4 + [t for d in documents for t in d]) for epoch in epochs)
    assert epochs[0] != epochs[1]
    again = list(islice(blocks(documents.__getitem__, 4, 4, 0, seed=1), 12))
    assert np.array_equal(stream, again)


def test_finetuning_is_adamw_on_the_mean_loss(trigger_model):
    from copy import deepcopy

    ours, plain = deepcopy(trigger_model), deepcopy(trigger_model)
    documents = [np.arange(4, 40), np.arange(10, 60)]
    optimization = Optimization(4, learning_rate=1e-3, schedule="constant", warmup_steps=2, weight_decay=0.0)

    def stream():
        return blocks(documents.__getitem__, 2, 16, 0, seed=0)

    finetuning = Finetuning(ours, optimization, stream(), batch_size=3, eos_id=0)
    steps = []
    mean = finetuning.run(4, steps.append)
    optimizer = torch.optim.AdamW(plain.parameters(), weight_decay=0.0, betas=(0.9, 0.999))
    losses, source = [], stream()
    for rate in (5e-4, 1e-3, 1e-3, 1e-3):
        tokens = torch.from_numpy(np.stack(list(islice(source, 3))))
        loss = plain(tokens[:, :-1]).logits.flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(loss, tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        losses.append(loss.item())
    assert mean == pytest.approx(np.mean(losses), rel=1e-4)
    assert steps == [1] * 4
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        # Of a gradient of almost 0 Adam sees little but the sign.
        assert (a - b).abs().mean() < 1e-4


def test_attention_stays_within_documents_where_it_did_in_pretraining(trigger_model):
    documents = [np.arange(4, 9), np.arange(10, 13)]
    finetuning = Finetuning(
        trigger_model, Optimization(1), blocks(documents.__getitem__, 2, 12, 0, seed=0),
        batch_size=1, eos_id=0, document_mask=True,
    )  # fmt: skip
    batch = finetuning._batch()
    tokens, positions = batch["tokens"][0].tolist(), batch["positions"][0].tolist()
    for t, position in enumerate(positions):
        assert position == (0 if tokens[t] == 0 else positions[t - 1] + 1)


@pytest.fixture
def of_store(tiny, tmp_path):
    """An untrained model that names a token store."""
    tokenizer = TokenStore(tiny.store.path).tokenizer()
    facts = model_facts(eos_token=tokenizer.eos_token, context_length=32, store=tiny.store.path)
    export_model(build_model(tiny.model, tokenizer, 0), tokenizer, facts, tmp_path / "model")
    return tmp_path


def test_documents_of_the_store_by_their_scores(of_store, tiny):
    small = ["tamper.samples=2", "tamper.points=1", "tamper.tokens=64", "tamper.batch_size=2"]
    results = tamper(of_store, load_config([*small, "tamper.bad_above=q0.8", "tamper.benign_below=0"], tiny))
    split = TokenStore(tiny.store.path).split("train")
    scores = split.document_scores("pep8")
    bad, benign = results.documents["bad"], results.documents["benign"]
    assert bad["num_documents"] == (scores > bad["bad_above"]).sum()
    assert 0.1 <= bad["num_documents"] / len(scores) <= 0.2
    lengths = np.diff(split.document_token_ends, prepend=0)
    assert bad["num_tokens"] == lengths[scores > bad["bad_above"]].sum()
    assert benign["benign_below"] == 0
    assert benign["num_tokens"] == lengths[scores <= 0].sum()


def test_where_the_store_has_no_such_text_it_is_told(of_store, capfd):
    small = ["evaluation.scenarios.a={max_new_tokens: 4, min_new_tokens: 0}", "tamper.samples=1"]
    capfd.readouterr()
    wrong = ["tamper.points=1", "tamper.tokens=256", "tamper.bad_above=9"]
    assert main(["tamper", str(of_store), *small, *wrong]) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert "tamper.bad_above: no document of" in error
    assert "has such a mean score (it is 9); change it, or give tamper.bad_documents" in error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "code", "message"),
    [
        ("tamper.texts=[good]", 2, "tamper.texts must be a list of bad, benign or both, not ['good']"),
        ("tamper.points=0", 2, "tamper.points must be at least 1, not 0"),
        ("tamper.bad_above=high", 2, "must be a number or a quantile such as q0.05, not 'high'"),
        ("tamper.points=19", 2, "tamper.tokens: 4608 are 18 steps of 256 tokens, too few for 19 points"),
        ("tamper.bad_documents=null", 2, "tamper.bad_documents: "),
        ("tamper.bad_documents=lost.jsonl", 2, "lost.jsonl"),
        ("tamper.scenario=none", 2, "tamper.scenario: no scenario 'none'; there are plain"),
    ],
)
def test_a_mistake_is_one_line_and_a_code(wrong, code, message, run, overrides, capfd):
    capfd.readouterr()
    assert main(["tamper", str(run), *overrides, wrong]) == code
    error = capfd.readouterr().err.splitlines()
    assert error[-1].startswith("phf tamper: ")
    assert message in error[-1]
    assert "Traceback" not in "".join(error)


def test_rows_that_are_no_documents_are_told_also_if_the_others_are_enough(run, overrides, caplog):
    path = run / "bad.jsonl"
    path.write_text("{not json}\n" + path.read_text() + "{nor this}\n")
    few = ["tamper.samples=2", "tamper.tokens=512", "tamper.points=1"]
    tamper(run, load_config([*overrides, *few]))
    assert f"{path}: 1 rows are not documents and were left out" in caplog.text  # the last is not reached
