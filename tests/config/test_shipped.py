"""Every shipped configuration resolves, and every run of the paper is trained for two steps at tiny size."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from phf.config import Config, load_config

CONFIGS = Path(__file__).parents[2] / "configs"
TASKS = ["toxicity", "pii", "pep8"]
OBJECTIVES = ["mle", "filtering", "conditional", "unlikelihood", "rwr", "awr"]  # of the paper
PAPER_RUNS = [
    (task, path.stem) for task in TASKS for path in sorted((CONFIGS / "paper" / task).glob("*.yaml"))
]

# The paper's learning rate and blocks a step; where it deviates from the first entry of the task.
PAPER_STEPS = {"toxicity": (5e-4, 64), "pii": (5e-4, 64), "pep8": (8e-4, 64)} | {
    ("toxicity", "awr"): (1e-3, 1024),
    ("toxicity", "rwr"): (5e-4, 1024),
    ("pep8", "awr"): (1e-3, 256),
    ("pep8", "rwr"): (1e-3, 64),
}
PAPER_OPTIONS = {
    ("toxicity", "filtering"): {"threshold": 7.8e-4},
    ("toxicity", "conditional"): {"threshold": 5.6e-4, "drop_rate": 0.01},
    ("toxicity", "unlikelihood"): {"threshold": 7.8e-4, "alpha": 1},
    ("toxicity", "rwr"): {"beta": 10, "reward_scaling": "raw", "max_weight": 1000},
    ("toxicity", "awr"): {"alpha": 0.5, "beta": 10, "reward_scaling": "raw", "max_weight": 1000},
    ("pii", "filtering"): {"threshold": 2.86e-4},
    ("pii", "conditional"): {"threshold": 0, "drop_rate": 0.01},
    ("pii", "unlikelihood"): {"threshold": 0, "alpha": 1},
    ("pii", "rwr"): {"beta": 10, "reward_scaling": "raw", "max_weight": 1000},
    ("pii", "awr"): {"alpha": 0.5, "beta": 0.1, "reward_scaling": "raw", "max_weight": 1000},
    ("pep8", "filtering"): {"threshold": 2.361e-3},
    ("pep8", "conditional"): {"threshold": 0, "drop_rate": 0.1},
    ("pep8", "unlikelihood"): {"threshold": 0, "alpha": 0.01},
    ("pep8", "rwr"): {"beta": 10, "reward_scaling": "raw", "max_weight": 1000},
    ("pep8", "awr"): {"alpha": 0.05, "beta": 1, "reward_scaling": "raw", "max_weight": 1000},
}


def layers(*names: str) -> list[str]:
    return [str(CONFIGS / f"{name}.yaml") for name in names]


def paper(task: str, run: str, *overrides: str) -> Config:
    return load_config([*layers(f"paper/{task}", f"paper/{task}/{run}"), *overrides])


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_file_alone_is_in_the_schema(path):
    assert load_config([str(path)]) != Config(), "the file sets nothing"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", sorted(path.stem for path in (CONFIGS / "objective").glob("*.yaml")))
def test_every_task_goes_with_every_objective(task, name):
    from phf.training.objective import check_objective

    config = load_config(layers(f"task/{task}", f"objective/{name}"))
    cls, _, _ = check_objective(config.objective)
    assert cls.name == name
    assert config.scorer.name == task
    assert config.run.folder == f"runs/{task}-{name}"


def test_every_task_and_objective_has_its_paper_run():
    runs = {*OBJECTIVES, *(f"finetune-{name}" for name in OBJECTIVES if name != "mle")}
    assert set(PAPER_RUNS) == {(task, run) for task in TASKS for run in runs}


@pytest.mark.parametrize(("task", "run"), PAPER_RUNS)
def test_paper_runs_have_the_papers_settings(task, run):
    config = paper(task, run)
    name = run.removeprefix("finetune-")
    train, scenario = config.train, config.evaluation.scenarios["unconditional"]
    assert config.run.name == f"paper-{task}-{run}"
    assert config.objective.name == name
    assert (train.tokens, train.schedule, train.warmup, train.weight_decay) == (3.3e9, "linear", 0.01, 0.1)
    assert (train.seed, config.model.context_length, config.documents.format) == (42, 1024, "scored")
    options = {"threshold": config.objective.threshold, **config.objective.options}
    assert {k: v for k, v in options.items() if v is not None} == PAPER_OPTIONS.get((task, name), {})
    if run == name:
        assert (train.learning_rate, train.batch_size) == PAPER_STEPS.get((task, name), PAPER_STEPS[task])
        assert (train.tokens_seen, config.model.start_from) == (0, None)
    else:
        assert (train.tokens_seen, config.model.start_from) == (1.65e9, f"models/paper-{task}-mle-half")
    assert (scenario.samples, scenario.temperature, scenario.top_p) == (4096, 0.7, 0.9)
    expected = (640, "good") if task == "pep8" else (128, "none")
    assert (scenario.max_new_tokens, scenario.emit_tags) == expected
    assert config.evaluation.expected_max_of == 25


@pytest.mark.parametrize("task", TASKS)
def test_the_mle_run_keeps_the_checkpoint_that_finetuning_starts_from(task):
    train = paper(task, "mle").train
    tokens_per_step = 64 * 1024
    half = paper(task, "finetune-awr").train.tokens_seen // tokens_per_step
    assert train.checkpoint_every is not None
    assert half % train.checkpoint_every == 0
    assert train.keep_checkpoints * train.checkpoint_every >= train.tokens // tokens_per_step
    assert f"--step {half}" in (CONFIGS / "paper" / task / "finetune-awr.yaml").read_text()


@pytest.mark.parametrize(
    ("name", "vocabulary", "parameters"),
    [
        # Parameters of the published models, each with its own (padded) vocabulary.
        ("model/gpt2-small", 50257, 124_439_808),
        ("paper/toxicity", 50257, 124_439_808),
        ("model/pythia-160m", 50304, 162_322_944),
        ("model/llama-1b", 128256, 1_235_814_400),
        ("model/tiny-gpt2", 1024, 173_824),
        ("model/tiny-neox", 1024, 231_168),
        ("model/tiny-llama", 1024, 158_016),
    ],
)
def test_models_have_the_size_they_claim(name, vocabulary, parameters):
    from transformers import AutoConfig, AutoModelForCausalLM

    model = load_config(layers(name)).model
    fields = {"max_position_embeddings": model.context_length, **model.config, "vocab_size": vocabulary}
    known = AutoConfig.for_model(model.architecture)
    assert all(hasattr(known, key) for key in fields)
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(AutoConfig.for_model(model.architecture, **fields))
    assert built.num_parameters() == parameters


TINY = [
    "tokenizer.train=true",
    "tokenizer.vocab_size=300",
    "store.heldout_fraction=0.1",
    "model.context_length=16",
    "model.config={n_layer: 1, n_embd: 8, n_head: 2}",
    "train.tokens=256",
    "train.batch_size=8",
    "train.micro_batch_size=8",
    "train.accelerator=cpu",
    "train.precision=32-true",
    "train.heldout_blocks=2",
    "train.checkpoint_every=1",
    "train.loggers=[csv]",
]


def write_corpus(path: Path, task: str) -> None:
    """A corpus in the authors' format, with scores on both sides of every threshold of the paper."""
    choose = random.Random(task)
    with path.open("w") as file:
        for i in range(60):
            texts = [f"{task} {i} says {choose.randrange(1000)}.\n" for _ in range(choose.randrange(1, 6))]
            scores = [choose.choice([0.0, 0.0, 2e-4, 6e-4, 7e-4, 3e-3, 0.9]) for _ in texts]
            row = {"texts": texts, "scores": scores, "avg_score": sum(scores) / len(scores), "meta": {}}
            file.write(json.dumps(row | {"num_sents": len(texts)}) + "\n")


@pytest.fixture(scope="module")
def tiny_overrides(tmp_path_factory):
    """For a task: the overrides that make its runs tiny, with a store and an MLE model already made."""
    from phf.store.tokenize import tokenize
    from phf.training.run import pretrain

    made: dict[str, list[str]] = {}

    def overrides(task: str) -> Sequence[str]:
        if task not in made:
            folder = tmp_path_factory.mktemp(task)
            write_corpus(folder / "corpus.jsonl", task)
            made[task] = [
                *TINY,
                f"documents.path={folder / 'corpus.jsonl'}",
                f"store.path={folder / 'store'}",
            ]
            tokenize(paper(task, "mle", *made[task]))
            pretrain(paper(task, "mle", *made[task], "train.tokens=128", f"run.folder={folder / 'half'}"))
        return made[task]

    return overrides


@pytest.mark.slow
@pytest.mark.parametrize(("task", "run"), PAPER_RUNS)
def test_paper_runs_train_at_a_tiny_size(task, run, tiny_overrides, tmp_path):
    from phf.training.run import pretrain

    overrides = [*tiny_overrides(task), f"run.folder={tmp_path / 'run'}"]
    steps = 2
    if run.startswith("finetune-"):
        half = Path(tiny_overrides(task)[-1].partition("=")[2]).parent / "half"
        overrides += [f"model.start_from={half}", "train.tokens_seen=128"]
        steps = 1
    folder = pretrain(paper(task, run, *overrides))

    record = json.loads((folder / "run.json").read_text())
    assert (record["objective"], record["steps"], record["tokens"]) == (
        run.removeprefix("finetune-"),
        steps,
        256,
    )
    assert (folder / "model" / "model.safetensors").is_file()
    facts = json.loads((folder / "model" / "phf.json").read_text())
    assert facts["scorer"]["name"] == task
    assert facts["threshold"] == paper(task, run).objective.threshold
