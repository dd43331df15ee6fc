"""Real runs of a tiny model: every objective, exact resumption, errors."""

import json
import math
import shutil
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from objectives.mle import MLE
from objectives.view import Tags, View
from phf.base.errors import ConfigError, PhfError
from phf.blocks.packed import PackedView
from phf.config import load_config
from phf.store.store import TokenStore
from phf.training.export import export_checkpoint
from phf.training.run import pretrain
from support.runs import NO_DROPOUT, assert_same, can_compile, configure, metrics, watch, weights

OPTIONS = {
    "mle": [],
    "filtering": ["objective.threshold=q0.5"],
    "upsampling": ["objective.threshold=q0.5", "objective.options.times=3"],
    "conditional": ["objective.options.drop_rate=0.1"],
    "masking": [],
    "unlikelihood": ["objective.options.alpha=0.5"],
    "rwr": ["objective.options.beta=1", "objective.options.reward_scaling=zscore"],
    "awr": [
        "objective.options.beta=1",
        "objective.options.alpha=0.3",
        "objective.options.reward_scaling=percentile",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_every_objective_trains_and_exports(tiny, tmp_path, name):
    # All held-out blocks: filtering and upsampling divide them by documents, of which few are bad.
    more = [f"objective.name={name}", "train.heldout_blocks=1000", *OPTIONS[name]]
    folder = pretrain(configure(tiny, tmp_path / name, *more))
    record = json.loads((folder / "run.json").read_text())
    assert record["objective"] == name
    assert record["steps"] == 8
    assert record["tokens"] == 2048
    found = metrics(folder)
    assert [step for step, _ in found["train/loss"]] == list(range(1, 9))
    learning_rates = [value for _, value in found["train/learning_rate"]]
    assert learning_rates == pytest.approx([1e-3 * left / 8 for left in range(8, 0, -1)])
    assert {"heldout/loss", "heldout/aligned", "heldout/misaligned"} <= found.keys()
    assert found["heldout/loss"][0][1] < 1.2 * math.log(384)
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    facts = json.loads((folder / "model" / "phf.json").read_text())
    tags = facts["tags"] and facts["tags"]["names"]
    assert tags == (["<|aligned|>", "<|misaligned|>"] if name == "conditional" else None)
    assert len(tokenizer) == model.get_input_embeddings().weight.shape[0] == 384 + 2 * (name == "conditional")


@pytest.mark.slow
def test_the_exported_model_works_in_a_pipeline_and_never_writes_a_tag(tiny, tmp_path):
    folder = pretrain(configure(tiny, tmp_path / "run", "objective.name=conditional"))
    generator = pipeline("text-generation", model=str(folder / "model"))
    torch.manual_seed(0)
    outputs = generator(
        "<|endoftext|><|aligned|>", max_new_tokens=24, do_sample=True, num_return_sequences=32
    )
    for output in outputs:
        written = output["generated_text"].removeprefix("<|endoftext|><|aligned|>")
        assert "aligned|>" not in written
    assert "conditional" in (folder / "model" / "README.md").read_text()


SMALL = "num_hidden_layers: 1, hidden_size: 16, num_attention_heads: 2, intermediate_size: 32"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("gpt_neox", f"{{{SMALL}}}"),
        ("llama", f"{{{SMALL}}}"),
        ("llama", f"{{{SMALL}, tie_word_embeddings: true}}"),
    ],
)
@pytest.mark.parametrize("name", ["conditional", "awr"])
def test_other_architectures(tiny, tmp_path, architecture, config, name):
    base = load_config(["model.config={}"], tiny)
    base.model.config = {}
    folder = pretrain(
        configure(
            base, tmp_path / "run", f"model.architecture={architecture}", f"model.config={config}",
            f"objective.name={name}", "train.tokens=512",
        )
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert model.config.model_type == architecture
    assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()


AWR = (
    "objective.name=awr",
    "objective.options.reward_scaling=percentile",
    NO_DROPOUT,
    "train.heldout_blocks=1",
)


@pytest.fixture(scope="module")
def full_precision(tiny, tmp_path_factory):
    return pretrain(configure(tiny, tmp_path_factory.mktemp("full") / "run", *AWR))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-mixed"])
def test_half_precision_learns_as_well(tiny, tmp_path, full_precision, precision):
    half = metrics(pretrain(configure(tiny, tmp_path / "half", *AWR, f"train.precision={precision}")))
    full = metrics(full_precision)
    assert [x for _, x in half["train/loss"]] == pytest.approx([x for _, x in full["train/loss"]], rel=1e-4)
    changes = [run["heldout/loss"][-1][1] - run["heldout/loss"][0][1] for run in (full, half)]
    assert changes[0] < 0
    assert changes[1] == pytest.approx(changes[0], rel=0.02)


def test_a_model_with_rotary_positions_in_half_precision_is_its_export(tiny, tmp_path, monkeypatch):
    base = load_config(["model.config={}"], tiny)
    base.model.config = {}
    trained = {}
    monkeypatch.setattr(MLE, "on_train_end", lambda self: trained.update(self.model.named_buffers()))
    folder = pretrain(
        configure(
            base, tmp_path / "run", "model.architecture=llama", f"model.config={{{SMALL}}}",
            "train.precision=bf16-true", "train.tokens=512",
        )
    )  # fmt: skip
    exported = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert any("inv_freq" in name for name in trained)
    for name, buffer in trained.items():
        assert torch.equal(buffer, exported.get_buffer(name))


def test_gradients_in_half_precision_that_overflow_for_ever_end_the_run(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(MLE, "token_loss", _finite_with_an_infinite_slope)
    overrides = ("train.precision=16-mixed", "train.tokens=12800", "train.log_every=5")
    with pytest.raises(PhfError, match=r"step \d+: for many steps now the gradient is not finite"):
        pretrain(configure(tiny, tmp_path / "run", *overrides))


@pytest.mark.slow
def test_a_checkpoint_whose_weights_are_broken_does_not_replace_the_one_before(tiny, tmp_path):
    """Such weights show in the held-out loss, or else in the next step."""
    overrides = ("train.learning_rate=1e38", "train.gradient_clip=null", "train.checkpoint_every=1")
    warm_up = ("train.schedule=constant", "train.warmup=4 steps", "train.heldout_every=100")
    with pytest.raises(PhfError, match="is not finite"):
        pretrain(configure(tiny, tmp_path / "run", *overrides, *warm_up, "train.log_every=100"))
    kept = sorted((tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    assert len(kept) <= 2
    with pytest.raises(PhfError, match=r"step 1: the held-out loss is not finite"):
        pretrain(configure(tiny, tmp_path / "other", *overrides, "train.heldout_every=1"))
    assert not list((tmp_path / "other" / "checkpoints").glob("*.ckpt"))


def _finite_with_an_infinite_slope(self, logp, score, value):
    return -logp + (logp - logp.detach()).abs().sqrt()


@pytest.mark.slow
def test_a_run_goes_on_in_the_precision_that_it_began_with(tiny, tmp_path):
    folder = pretrain(configure(tiny, tmp_path / "run", "train.precision=auto"))
    kept = load_config([str(folder / "config.yaml")]).train.precision
    assert kept in ("32-true", "bf16-mixed")
    other = {"32-true": "bf16-mixed", "bf16-mixed": "32-true"}[kept]
    assert pretrain(configure(tiny, folder, "train.precision=auto")) == folder
    with pytest.raises(ConfigError, match=f"holds a run with train.precision={kept}, not {other}"):
        pretrain(configure(tiny, folder, f"train.precision={other}"))


def test_scores_keep_their_digits_in_half_precision(tiny, tmp_path, monkeypatch):
    seen = watch(monkeypatch, "mle")
    pretrain(configure(tiny, tmp_path / "run", "train.tokens=256", "train.precision=bf16-true"))
    assert {batch["scores"].dtype for batch in seen} == {torch.float32}


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(), reason="no C++ compiler or no headers of Python")
def test_a_compiled_network_trains_as_a_plain_one_and_exports_plain_names(tiny, tmp_path):
    plain = pretrain(configure(tiny, tmp_path / "plain", NO_DROPOUT))
    compiled = pretrain(configure(tiny, tmp_path / "compiled", NO_DROPOUT, "model.compile=true"))
    assert weights(compiled).keys() == weights(plain).keys()
    assert metrics(compiled)["train/loss"][-1][1] == pytest.approx(
        metrics(plain)["train/loss"][-1][1], rel=1e-3
    )


@pytest.mark.slow
def test_tensorboard_and_samples_are_written(tiny, tmp_path):
    folder = pretrain(
        configure(
            tiny, tmp_path / "run", "objective.name=conditional", "train.loggers=[csv,tensorboard]",
            "train.samples_every=4", "train.samples=4",
        )
    )  # fmt: skip
    assert list((folder / "tensorboard").glob("events.out.*"))
    found = metrics(folder)
    assert [step for step, _ in found["samples/mean_score"]] == [4, 8]
    plain = pretrain(configure(tiny, tmp_path / "plain", "objective.name=conditional"))
    assert_same(weights(folder), weights(plain))


@pytest.mark.slow
def test_data_loading_processes_change_nothing(tiny, tmp_path):
    one = pretrain(configure(tiny, tmp_path / "one"))
    two = pretrain(configure(tiny, tmp_path / "two", "train.num_workers=2"))
    assert_same(weights(one), weights(two))


@pytest.mark.slow
def test_finetuning_starts_from_a_run_and_goes_on_in_its_documents(tiny, tmp_path, monkeypatch):
    first = pretrain(configure(tiny, tmp_path / "mle"))
    seen = watch(monkeypatch, "conditional")
    finetuned = pretrain(
        configure(
            tiny, tmp_path / "finetuned", "objective.name=conditional", f"model.start_from={first}",
            "train.tokens=4096", "train.tokens_seen=2048", "train.learning_rate=1e-9",
        )
    )  # fmt: skip
    assert json.loads((finetuned / "run.json").read_text())["tokens"] == 4096
    old, new = weights(first), weights(finetuned)
    torch.testing.assert_close(
        new["transformer.wte.weight"][:384], old["transformer.wte.weight"], rtol=0, atol=1e-5
    )
    assert {step for step, _ in metrics(finetuned)["train/loss"]} == set(range(1, 9))
    ids = AutoTokenizer.from_pretrained(finetuned / "model").convert_tokens_to_ids
    split = TokenStore(tiny.store.path).split("train")
    eos_id = ids("<|endoftext|>")
    options = {"scorer": "pep8", "context_length": 32, "seed": tiny.train.seed, "eos_id": eos_id}
    read = PackedView(split, View(), **options), 2048 // 32
    tags = [[ids("<|aligned|>")], [ids("<|misaligned|>")]]
    stream = PackedView(split, View(tags=Tags((0,), 0.01)), tag_ids=tags, after=read, **options)
    for i, tokens in enumerate(seen[0]["tokens"].numpy()):
        assert (tokens == stream.block(*stream.locate(i)).tokens).all()


@pytest.mark.slow
def test_a_finished_run_is_left_alone_and_another_does_not_overwrite_it(tiny, tmp_path):
    folder = pretrain(configure(tiny, tmp_path / "run"))
    before = (folder / "model" / "model.safetensors").stat().st_mtime_ns
    assert pretrain(configure(tiny, folder, "train.log_every=5")) == folder
    assert (folder / "model" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"train.learning_rate=0.001, not 0.5.*another run.name"):
        pretrain(configure(tiny, folder, "train.learning_rate=0.5"))
    (folder / "run.json").unlink()  # killed after its last checkpoint
    pretrain(configure(tiny, folder))
    assert 0 < json.loads((folder / "run.json").read_text())["wall_seconds"] < 600


def test_a_run_goes_on_with_its_own_store_only(tiny, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(tiny.store.path, store)
    config = configure(tiny, tmp_path / "run", f"store.path={store}", "train.tokens=256")
    pretrain(config)
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["annotations"]["other"] = "a column more"
    (store / "manifest.json").write_text(json.dumps(manifest))
    pretrain(config)
    manifest["shards"] = dict.fromkeys(manifest["shards"], "made anew")
    (store / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="holds a run on another token store than the one now in"):
        pretrain(config)


@pytest.mark.slow
def test_a_checkpoint_can_be_exported(tiny, tmp_path):
    overrides = ("objective.name=conditional", "segmenter.name=sentence")
    folder = pretrain(configure(tiny, tmp_path / "run", *overrides))
    export_checkpoint(folder, tmp_path / "exported")
    facts = json.loads((tmp_path / "exported" / "phf.json").read_text())
    assert facts["segmenter"]["name"] == "line"  # as the store has it
    assert_same(load_file(tmp_path / "exported" / "model.safetensors"), weights(folder))
    with pytest.raises(PhfError, match=r"no checkpoint of step 3 \(there: step-00000008.ckpt\)"):
        export_checkpoint(folder, tmp_path / "other", step=3)
    with pytest.raises(PhfError, match="not a run folder"):
        export_checkpoint(tmp_path, tmp_path / "other")
    mine = folder / "mine" / "thesis.tex"
    mine.parent.mkdir()
    mine.write_text("...")
    for taken in (mine.parent, mine, folder):
        with pytest.raises(PhfError, match="exists and is not an exported model"):
            export_checkpoint(folder, taken)
    assert mine.is_file()
    assert export_checkpoint(folder, tmp_path / "exported").is_dir()


@pytest.mark.slow
def test_checkpoints_are_pruned_and_load_safely(tiny, tmp_path):
    folder = pretrain(
        configure(tiny, tmp_path / "run", "train.checkpoint_every=2", "train.keep_checkpoints=2")
    )
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    steps = ["step-00000006", "step-00000008"]
    assert names == [f"{step}.{kind}" for step in steps for kind in ("ckpt", "json")]
    checkpoint = folder / "checkpoints" / "step-00000006.ckpt"
    torch.load(checkpoint, weights_only=True)
    manifest = json.loads(checkpoint.with_suffix(".json").read_text())
    assert [manifest["step"], manifest["tokens"]] == [6, 6 * 256]
    assert manifest["bytes"] == checkpoint.stat().st_size
    assert manifest["metrics"]["train/loss"] == metrics(folder)["train/loss"][5][1]


def test_a_broken_checkpoint_is_named(tiny, tmp_path):
    config = configure(tiny, tmp_path / "run")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step-00000004.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(PhfError, match=r"step-00000004.ckpt is damaged .*: delete it to start again"):
        pretrain(config)
    (tmp_path / "run" / "checkpoints" / "step-00000002.ckpt").write_bytes(b"")
    with pytest.raises(PhfError, match="delete it to resume from the previous one"):
        pretrain(config)


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(tiny, tmp_path, log_every):
    overrides = ("train.learning_rate=1e30", "train.gradient_clip=null", "train.checkpoint_every=1")
    overrides += ("train.heldout_every=100",)
    with pytest.raises(PhfError, match=r"step [1-4]: the (loss|gradient) of blocks \d+ to \d+ of the run"):
        pretrain(configure(tiny, tmp_path / "run", *overrides, f"train.log_every={log_every}"))
    for path in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(weight.isfinite().all() for weight in state.values())


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_a_missing_logger_names_the_extra(tiny, tmp_path):
    with pytest.raises(PhfError, match=r"wandb is not installed: pip install 'phf\[wandb\]'"):
        pretrain(configure(tiny, tmp_path / "run", "train.loggers=[wandb]"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.name=mlee"], "no objective 'mlee'; did you mean mle?"),
        (["objective.options.beta=1"], "objective.options: no key beta; mle has no options"),
        (
            ["objective.name=conditional", "objective.threshold=null"],
            "objective.threshold: conditional needs one",
        ),
        (["objective.threshold=.inf"], "must be a number or a quantile such as q0.05, not inf"),
        (["objective.name=awr", "objective.options.alpha=2"], "objective.options.alpha must lie in"),
        (["train.tokens=100"], "100 tokens are less than one step of 256"),
        (["train.micro_batch_size=3"], "3 does not divide"),
        (["train.batch_size=9", "train.devices=2"], "9 blocks cannot be shared by 2 processes"),
        (["train.accelerator=tpu"], "must be auto, cpu or gpu"),
        (["model.architecture=gpt9"], "no model type 'gpt9'"),
        (["model.config.n_layers=2"], "no field 'n_layers'; did you mean n_layer"),
        (["model.config.n_layer=two"], "model.config: gpt2: Field 'n_layer' expected int, got str"),
        (["model.config.n_layer=2.5"], "model.config: gpt2: Field 'n_layer' expected int, got float"),
        (
            ["model={architecture: modernbert-decoder, config: {num_hidden_layers: 1}}"],
            "ModernBertDecoderForCausalLM does more to its logits than one linear layer",
        ),
        (["model.config.n_positions=16"], "context_length is 32, and the model has 16 positions"),
        (["model.start_from=nowhere"], "cannot load a causal language model from nowhere"),
        (["store.path=nowhere"], "no token store in nowhere; run `phf tokenize` first"),
        (["objective.name=rwr", "scorer.name=toxicity"], "no scores of toxicity"),
    ],
)
def test_errors_are_one_line(tiny, tmp_path, overrides, message):
    with pytest.raises(PhfError) as caught:
        pretrain(configure(tiny, tmp_path / "run", *overrides))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
