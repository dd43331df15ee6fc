"""The page on lm-evaluation-harness, followed to the letter; skipped where the harness is not installed."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from phf.annotation.manifest import ScorerRecord
from phf.config import SegmenterConfig
from phf.model.model_folder import ModelFacts, TagFacts, export_model

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "lm-evaluation-harness.md"


def block(language):
    return re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)[1]


def log_probability(model, given, asked):
    with torch.no_grad():
        logp = model(torch.tensor([given + asked])).logits[0].double().log_softmax(-1)
    return sum(logp[len(given) + i - 1, token].item() for i, token in enumerate(asked))


def test_the_harness_asks_behind_the_good_tag(model, tokenizer, tmp_path):
    pytest.importorskip("lm_eval")
    facts = ModelFacts(
        objective="conditional",
        tags=TagFacts(["<|aligned|>", "<|misaligned|>"], [[257], [258]], [0.0], text=False),
        threshold=0.0,
        scorer=ScorerRecord("pep8", "hits"),
        segmenter=SegmenterConfig("line"),
        tokens=1,
        eos_token="<|endoftext|>",
        context_length=64,
    )
    (tmp_path / "runs" / "conditional").mkdir(parents=True)
    export_model(model, tokenizer, facts, tmp_path / "runs" / "conditional" / "model")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "pep8_pairs.yaml").write_text(block("yaml"))
    (tmp_path / "pairs.jsonl").write_text(block("json"))
    program, *arguments = shlex.split(block("bash"))
    assert program == "lm_eval"
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *arguments],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "harness").rglob("samples_pep8_pairs_*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 3
    better = 0
    for row in rows:
        # The harness moves the white space that ends a prompt to the continuation.
        prompt = row["doc"]["prompt"].rstrip()
        rest = row["doc"]["prompt"][len(prompt) :]
        given = [256, 257, *tokenizer(prompt)["input_ids"]]
        good, bad = (
            log_probability(model, given, tokenizer(rest + row["doc"][side])["input_ids"])
            for side in ("good", "bad")
        )
        found = [float(answer[0][0]) for answer in row["resps"]]
        assert found == pytest.approx([good, bad], rel=1e-4)
        better += good > bad
    (file,) = (tmp_path / "harness").rglob("results_*.json")
    assert json.loads(file.read_text())["results"]["pep8_pairs"]["acc,none"] == pytest.approx(better / 3)
