"""Pins the losses of short runs with the quickstart's settings, so that a change of them is deliberate."""

import json
import random
from pathlib import Path

import pytest

from phf.annotation.annotate import annotate
from phf.config import find_config, load_config
from phf.store.tokenize import tokenize
from phf.training.run import pretrain
from support.runs import metrics

pytestmark = pytest.mark.slow

STEPS = 6
PINNED: dict[str, dict[str, list[float]]] = {
    "mle": {
        "train/loss": [5.76994, 4.96266, 5.40055, 4.70427, 4.39709, 4.25802],
        "heldout/loss": [4.71215, 3.97119],
    },
    "conditional": {
        "train/loss": [5.79173, 5.04674, 5.27820, 4.38433, 4.41179, 4.04171],
        "heldout/loss": [4.37220, 3.87642],
    },
    "awr": {
        "train/loss": [3.14080, 2.70605, 3.19994, 2.61164, 2.35332, 2.37338],
        "heldout/loss": [4.78485, 4.07973],
    },
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Functions of generated code; every third line violates PEP8."""
    folder: Path = tmp_path_factory.mktemp("trajectory")
    choose = random.Random(0)
    with (folder / "code.jsonl").open("w") as file:
        for i in range(400):
            lines = [f"def function_{i}(a, b):\n"]
            for j in range(choose.randrange(3, 12)):
                plus = "+" if j % 3 == 0 else " + "
                lines.append(f"    {choose.choice('xyz')} = a{plus}{choose.randrange(100)}\n")
            file.write(json.dumps({"text": "".join([*lines, "    return x\n"])}) + "\n")
    config = load_config(
        [
            str(find_config("quickstart.yaml")),
            f"run.folder={folder}",
            f"documents.path={folder / 'code.jsonl'}",
            "annotations.processes=1",
            "tokenizer.vocab_size=320",
            "store.heldout_fraction=0.1",
            f"train.tokens={STEPS * 8 * 256}",
            "train.log_every=1",
            "train.heldout_every=3",
            "train.samples_every=null",
            "train.accelerator=cpu",
            "train.precision=32-true",
            "train.loggers=[csv]",
        ]
    )
    annotate(config)
    tokenize(config)
    return config


@pytest.mark.parametrize("name", PINNED)
def test_losses_are_the_same_numbers_as_ever(base, tmp_path, name):
    config = load_config([f"objective.name={name}", f"run.folder={tmp_path / name}"], base)
    logged = metrics(pretrain(config))
    for metric, expected in PINNED[name].items():
        # Another processor rounds in another order, and Adam's first steps make much of it.
        assert [value for _, value in logged[metric]] == pytest.approx(expected, rel=5e-4), metric
