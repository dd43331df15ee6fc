"""A small corpus of real code, annotated and tokenized once for all the tests that need one."""

import json
import logging
import os
import sysconfig
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from hypothesis import settings

from phf.config import Config, load_config

pytest_plugins = ("support.told", "support.tiny_models")

# How long an example takes is the machine's affair.
settings.register_profile("phf", deadline=None)
settings.load_profile("phf")

# fmt: off
MODULES = (
    "abc", "bisect", "cProfile", "cmd", "code", "codeop", "colorsys", "contextlib", "copy",
    "copyreg", "csv", "filecmp", "fnmatch", "getopt", "getpass", "glob", "graphlib", "heapq",
    "keyword", "linecache", "nturl2path", "operator", "poplib", "queue", "quopri", "reprlib",
    "rlcompleter", "runpy", "sched", "secrets", "shelve", "stat", "string", "tabnanny", "textwrap",
    "token", "types", "weakref",
)
# fmt: on


@pytest.fixture(scope="session", autouse=True)
def _few_threads():
    """The tests' models are tiny: more threads only wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _logging_as_before():
    """The command line sets up logging for its process; here it shares one with the other tests."""
    log = logging.getLogger("phf")
    before = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.level, log.propagate = before[0], before[1], before[2]


@pytest.fixture(scope="session")
def code_documents(tmp_path_factory) -> Path:
    """Modules of the standard library as one jsonl file."""
    path = tmp_path_factory.mktemp("documents") / "code.jsonl"
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    with path.open("w", encoding="utf-8") as file:
        for name in MODULES:
            text = (stdlib / f"{name}.py").read_text(encoding="utf-8")
            file.write(json.dumps({"id": name, "text": text}) + "\n")
    return path


@pytest.fixture(scope="session")
def tiny(code_documents, tmp_path_factory) -> Config:
    """The configuration of a tiny run, over a store that is already made; `run.folder` is the tests' own."""
    from phf.annotation.annotate import annotate
    from phf.store.tokenize import tokenize

    folder = tmp_path_factory.mktemp("tiny")
    config = load_config(
        [
            f"documents.path={code_documents}",
            "segmenter.name=line",
            "scorer.name=pep8",
            f"annotations.path={folder / 'annotations'}",
            "annotations.processes=1",
            "tokenizer.train=true",
            "tokenizer.vocab_size=384",
            f"store.path={folder / 'store'}",
            "store.heldout_fraction=0.2",
            "objective.threshold=0",
            "model.context_length=32",
            "model.config={n_layer: 1, n_embd: 16, n_head: 2}",
            "model.compile=off",
            "train.tokens=2048",
            "train.batch_size=8",
            "train.learning_rate=1e-3",
            "train.log_every=1",
            "train.heldout_blocks=64",
            "train.accelerator=cpu",
            "train.precision=32-true",
            "train.loggers=[csv]",
            "evaluation.scenarios.unconditional.samples=8",
            "evaluation.scenarios.unconditional.max_new_tokens=16",
            "evaluation.measures.heldout.blocks=8",
        ]
    )
    annotate(config)
    tokenize(config)
    return config
