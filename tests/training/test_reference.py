"""Training steps of the real trainer against a reference in float64.

The reference takes from the code under test only the blocks (tokens, and the segment and kind of each token)
and the weights before the step. It computes everything else from the formulas of the papers, on the full
matrix of logits of an unmodified model: which score belongs to which target, the loss of each token, the
divisor, the gradients, and the losses on held-out text.

AdamW's first beta is 0 in these runs, so the optimizer's state after a step is the gradient of that step.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from phf.annotation.annotate import annotate
from phf.blocks.block import Block, Kind
from phf.config import Config, load_config, to_yaml
from phf.store.store import TokenStore
from phf.store.tokenize import tokenize
from phf.training.build import build, training_data
from phf.training.run import pretrain
from support.runs import NO_DROPOUT, metrics

pytestmark = pytest.mark.slow

BATCH, MICRO_BATCH, CONTEXT, STEPS = 12, 3, 16, 4

SCORER = '''
from scorers import Score, SegmentScorer

class Told(SegmentScorer):
    """The number that a line begins with; `?`: no score."""
    name, version, measures = "told", "1", "what it says"

    def score_segments(self, segments):
        return [Score(None if s[0] == "?" else float(s.split()[0])) for s in segments]
'''

CASES: dict[str, tuple[str, ...]] = {
    "mle": (),
    "mle, documents apart": ("objective.name=mle", "model.document_mask=true"),
    "filtering": ("objective.threshold=0.35",),
    "upsampling": ("objective.threshold=0.35", "objective.options.times=2"),
    "masking": ("objective.threshold=0.25",),
    "conditional": ("objective.threshold=0.25", "objective.options.drop_rate=0.3"),
    "conditional, tags read only": (
        "objective.name=conditional", "objective.threshold=[0.1,0.5]", "objective.options.tag_loss=false",
    ),
    "unlikelihood": ("objective.threshold=0.25", "objective.options.alpha=0.5"),
    "rwr": (
        "objective.options.beta=0.7", "objective.options.reward_scaling=zscore",
        "objective.options.max_weight=1.3",
    ),
    "awr": ("objective.options.alpha=0.3", "objective.options.beta=0.2", "objective.threshold=0.25"),
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Config:
    """A store of documents whose lines say their scores; some lines, and a whole document, have none."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "told.py").write_text(SCORER)
    rng = np.random.default_rng(0)
    with (folder / "documents.jsonl").open("w") as file:
        for i in range(30):
            scores = (
                ["?"] * 3 if i == 5 else rng.choice(["0", "0", ".2", ".4", ".9", "?"], rng.integers(1, 6))
            )
            words = "".join(f"{s} {' '.join(rng.choice(list('abcdef'), 4))}\n" for s in scores)
            file.write(json.dumps({"text": words}) + "\n")
    config = load_config(
        [
            f"documents.path={folder / 'documents.jsonl'}", "segmenter.name=line",
            f"scorer.name={folder / 'told.py'}:Told", "scorer.column=told",
            f"annotations.path={folder / 'annotations'}", "annotations.processes=1",
            "tokenizer.train=true", "tokenizer.vocab_size=300",
            f"store.path={folder / 'store'}", "store.heldout_fraction=0.2",
            f"model.context_length={CONTEXT}", "model.compile=off",
            "model.config={n_layer: 2, n_embd: 16, n_head: 2}", NO_DROPOUT,
            f"train.tokens={STEPS * BATCH * CONTEXT}", f"train.batch_size={BATCH}",
            f"train.micro_batch_size={MICRO_BATCH}", "train.learning_rate=0.01", "train.schedule=constant",
            "train.warmup=0", "train.betas=[0.0,0.9]", "train.gradient_clip=null", "train.log_every=1",
            "train.heldout_every=1", "train.heldout_blocks=5", "train.checkpoint_every=1",
            f"train.keep_checkpoints={STEPS}", "train.accelerator=cpu", "train.precision=32-true",
            "train.loggers=[csv]",
        ]
    )  # fmt: skip
    annotate(config)
    tokenize(config)
    return config


def configure(base: Config, case: str, folder: Path, *more: str) -> Config:
    name = case.partition(",")[0]
    return load_config([f"objective.name={name}", *CASES[case], f"run.folder={folder}", *more], base)


@pytest.fixture(scope="module")
def in_one_process(base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    for number, case in enumerate(CASES):
        pretrain(configure(base, case, folder / str(number)))
    return folder


@pytest.fixture(scope="module")
def in_two_processes(base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    for number, case in enumerate(CASES):
        config = configure(base, case, folder / str(number), "train.devices=2")
        (folder / f"{number}.yaml").write_text(to_yaml(config))
    code = (
        "import sys, torch; from phf.config import load_config; from phf.training.run import pretrain\n"
        "torch.set_num_threads(1)\n"
        "for path in sys.argv[1:]: pretrain(load_config([path]))"
    )
    (folder / "pretrain.py").write_text(code)
    paths = [str(folder / f"{number}.yaml") for number in range(len(CASES))]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, str(folder / "pretrain.py"), *paths], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder


@dataclass
class Targets:
    """The targets of some blocks, as arrays [blocks, T]; a score is that of the target's segment."""

    tokens: torch.Tensor  # [blocks, T + 1]
    opens: np.ndarray  # [blocks, T], inputs that open a document
    scores: np.ndarray
    counted: np.ndarray

    @classmethod
    def of(cls, blocks: list[Block], scores: np.ndarray, tags_count: bool) -> "Targets":
        kinds = np.stack([block.kind for block in blocks])
        segments = np.stack([block.segments for block in blocks])
        not_counted = [Kind.PAD] if tags_count else [Kind.PAD, Kind.TAG]
        return cls(
            torch.from_numpy(np.stack([block.tokens for block in blocks])),
            kinds[:, :-1] == Kind.EOS,
            np.where(segments >= 0, scores[segments], np.nan)[:, 1:],
            ~np.isin(kinds, not_counted)[:, 1:],
        )


class Reference:
    """A model in float64 with the weights of a run, whole logits, and the formulas."""

    def __init__(self, config: Config, gpt2, state: dict[str, torch.Tensor], train_scores: np.ndarray):
        self.config = config.objective
        self.document_mask = config.model.document_mask
        self.train_scores = train_scores[~np.isnan(train_scores)].astype(np.float64)
        self.model = GPT2LMHeadModel(gpt2).double()
        self.model.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if "model." in k})
        value = state.get("value_head.weight", torch.zeros(1, gpt2.n_embd))
        self.value_head = value.double().requires_grad_()

    def predict(self, targets: Targets) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of each target, and the value that is predicted before it; both [blocks, T]."""
        inputs, logits, hidden = targets.tokens[:, :-1], [], []
        for row, opens in zip(inputs, targets.opens, strict=True):
            starts = np.flatnonzero(opens).tolist() if self.document_mask else []
            bounds = sorted({0, *starts, len(row)})
            # A document by itself: nothing before it, and its own positions.
            pieces = [
                self.model.transformer(row[None, a:b]).last_hidden_state[0] for a, b in pairwise(bounds)
            ]
            hidden.append(torch.cat(pieces))
            logits.append(self.model.lm_head(hidden[-1]))
        logp = torch.stack(logits).log_softmax(-1).gather(-1, targets.tokens[:, 1:, None])[..., 0]
        return logp, -torch.sigmoid((torch.stack(hidden) * self.value_head).sum(-1))

    def token_losses(self, targets: Targets, logp: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """The table of objectives; a target without a score is learned as by MLE."""
        name, threshold, o = self.config.name, self.config.threshold, self.config.options
        mle = -logp
        score = torch.from_numpy(targets.scores).double()
        unscored, score = score.isnan(), score.nan_to_num(0)
        if name == "masking":
            loss = torch.where(score <= threshold, mle, 0 * mle)
        elif name == "unlikelihood":
            loss = torch.where(score <= threshold, mle, -o["alpha"] * torch.log(1 - logp.exp()))
        elif name == "rwr":
            reward = -(score - self.train_scores.mean()) / self.train_scores.std()
            loss = torch.exp(reward / o["beta"]).clamp(max=o["max_weight"]) * mle
        elif name == "awr":
            advantage = -score - value
            weight = torch.exp(advantage.detach() / o["beta"]).clamp(max=1000)
            loss = o["alpha"] * weight * mle + (1 - o["alpha"]) * advantage**2
        else:
            loss = mle
        return torch.where(unscored, mle, loss)

    def step(self, targets: Targets) -> dict[str, float]:
        """Loss and -log p of a step, a mean over its targets that count; gradients stay in the weights."""
        logp, value = self.predict(targets)
        counted = torch.from_numpy(targets.counted)
        loss = self.token_losses(targets, logp, value)[counted].mean()
        loss.backward()
        return {"train/loss": loss.item(), "train/nll": -logp[counted].mean().item()}

    def gradients(self) -> dict[str, torch.Tensor]:
        found = {f"model.{name}": weight.grad for name, weight in self.model.named_parameters()}
        return found | ({"value_head.weight": self.value_head.grad} if self.config.name == "awr" else {})

    def heldout(self, targets: Targets) -> dict[str, float]:
        with torch.no_grad():
            nll = -self.predict(targets)[0].numpy()
        first = self.config.threshold[0] if isinstance(self.config.threshold, list) else self.config.threshold
        threshold = first or 0.0
        parts = {
            "loss": targets.counted,
            "aligned": targets.counted & (targets.scores <= threshold),
            "misaligned": targets.counted & (targets.scores > threshold),
        }
        return {f"heldout/{name}": nll[part].mean() for name, part in parts.items()}


def means_of_documents(store: TokenStore, scores: np.ndarray) -> np.ndarray:
    """For each held-out segment the mean score of its document."""
    bounds = [0, *store.split("heldout").document_ends]
    documents = [scores[a:b] for a, b in pairwise(bounds)]
    means = [np.nan if np.isnan(document).all() else np.nanmean(document) for document in documents]
    return np.repeat(means, list(map(len, documents)))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("runs", ["in_one_process", "in_two_processes"])
def test_steps_agree_with_the_formulas(base, case, runs, request):
    folder = request.getfixturevalue(runs) / str(list(CASES).index(case))
    config = configure(base, case, folder)
    store = TokenStore(config.store.path)
    objective, tokenizer = build(config, store, None)
    data = training_data(config, store, objective, tokenizer, MICRO_BATCH)
    train_scores, heldout_scores = (store.split(name).scores("told") for name in ("train", "heldout"))
    tags_count = config.objective.options.get("tag_loss") is not False
    gpt2 = objective.model.config
    names = [name for name, _ in objective.named_parameters()]
    matrices = [name for name, weight in objective.named_parameters() if weight.ndim >= 2]
    in_order = [*matrices, *(name for name in names if name not in matrices)]
    logged = {name: dict(points) for name, points in metrics(folder).items()}
    held = [data.heldout.block(0, i) for i in range(min(5, data.heldout.num_blocks(0)))]
    if config.objective.name in ("filtering", "upsampling"):  # whose threshold is one of documents
        heldout_scores = means_of_documents(store, heldout_scores)
    heldout = Targets.of(held, heldout_scores, tags_count=False)

    state = objective.state_dict()
    seen: set[int] = set()
    for step in range(1, STEPS + 1):
        places = [data.train.locate(i) for i in range((step - 1) * BATCH, step * BATCH)]
        blocks = [data.train.block(*place) for place in places]
        seen.update(*(block.kind.tolist() for block in blocks))
        reference = Reference(config, gpt2, state, train_scores)
        expected = reference.step(Targets.of(blocks, train_scores, tags_count))
        gradients = reference.gradients()
        norm = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt().item()
        expected["train/gradient_norm"] = norm

        checkpoint = torch.load(folder / f"checkpoints/step-{step:08d}.ckpt", weights_only=True)
        moments = checkpoint["optimizer_states"][0]["state"]
        assert gradients.keys() == set(names)
        for number, name in enumerate(in_order):
            ours = moments[number]["exp_avg"].double()
            assert (ours - gradients[name]).norm() <= 2e-6 * norm, (name, step)
        state = checkpoint["state_dict"]
        expected |= Reference(config, gpt2, state, train_scores).heldout(heldout)
        for name, value in expected.items():
            assert logged[name][step] == pytest.approx(value, rel=2e-6), (name, step)
    assert np.isnan(train_scores).any()
    assert {Kind.TEXT, Kind.EOS, Kind.PAD} <= seen
    assert (Kind.TAG in seen) == (config.objective.name == "conditional")
