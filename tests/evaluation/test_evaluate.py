import io
import json
import logging
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from objectives.view import BAD_TAG, GOOD_TAG
from phf.annotation.manifest import ScorerRecord
from phf.base.errors import ConfigError, PhfError
from phf.base.typed_json import to_json
from phf.config import ScorerConfig, load_config
from phf.evaluation.evaluate import evaluate, generate_samples
from phf.evaluation.prompts import HeldoutDocuments, load_prompts
from phf.evaluation.result_files import read_results
from phf.evaluation.results import EvaluationResults, RunInfo, ScoreResults
from phf.model.build import add_control_tokens, build_model
from phf.model.model_folder import RunRecord, export_model
from phf.store.store import TokenStore
from scorers import load_scorer
from support.tiny_models import TAGS, model_facts

SCENARIOS = [
    "evaluation.scenarios.unconditional={samples: 6, max_new_tokens: 20, emit_tags: good, trim: true}",
    'evaluation.scenarios.functions={prompts: ["def f(x):\\n", "def g():\\n", "class A:\\n"], samples: 2, '
    "max_new_tokens: 20, score: full}",
    "evaluation.batch_size=4",
    "segmenter.name=line",
]


def settings(*overrides):
    return load_config([*SCENARIOS, *overrides])


def facts(**known):
    """Those of a model with tags."""
    scorer = ScorerRecord.of(ScorerConfig("pep8"), load_scorer("pep8"))
    return model_facts(**{"objective": "conditional", "tags": TAGS, "scorer": scorer} | known)


@pytest.fixture
def run(tmp_path, model, tokenizer):
    folder = tmp_path / "runs" / "conditional"
    folder.mkdir(parents=True)
    export_model(model, tokenizer, facts(), folder / "model")
    record = RunRecord("cond", "conditional", tokens=1000, steps=10, wall_seconds=2.5, parameters=1)
    (folder / "run.json").write_text(json.dumps(to_json(record)))
    return folder


def rows(folder):
    return pq.read_table(folder / "evaluation" / "samples.parquet").to_pylist()


def test_results_and_samples(run):
    results = evaluate(run, settings())
    assert results == read_results(run / "evaluation", EvaluationResults)
    assert results.run == RunInfo("cond", str(run), "conditional", True, 1000, 2.5, results.run.parameters)
    assert results.scorer.fingerprint == load_scorer("pep8").fingerprint
    assert (results.threshold, results.seed, results.measures) == (0.0, 0, {})
    assert results.scorer_differs is False
    assert results.samples_per_second > 0
    unconditional, functions = results.scenarios.values()
    assert (unconditional.n, unconditional.num_prompts, unconditional.tag) == (6, 0, "good")
    assert (functions.n, functions.num_prompts) == (6, 3)
    assert unconditional.decoding["temperature"] == 0.7
    assert functions.expected_max.k == 2

    samples = rows(run)
    assert [s["scenario"] for s in samples] == ["unconditional"] * 6 + ["functions"] * 6
    assert not any("<|" in s["text"] for s in samples)
    prompted = samples[6:]
    assert [(s["prompt_index"], s["sample_index"]) for s in prompted] == [
        (p, i) for p in range(3) for i in range(2)
    ]
    assert all(s["scored_text"] == s["prompt"] + s["text"] for s in prompted)
    scores = [s["score"] for s in samples[:6] if s["score"] is not None]
    assert unconditional.mean_score.value == pytest.approx(sum(scores) / len(scores))
    assert not list((run / "evaluation").glob(".*"))


@pytest.mark.slow
def test_a_second_time_nothing_is_done_until_something_changes(run, caplog):
    caplog.set_level(logging.INFO, logger="phf")
    first = evaluate(run, settings())
    assert evaluate(run, settings("evaluation.batch_size=7")) == first
    assert "is already evaluated: nothing to do" in caplog.text
    assert evaluate(run, settings("evaluation.seed=1")) != first
    again = evaluate(run, settings())
    assert replace(again, samples_per_second=first.samples_per_second) == first
    (run / "evaluation" / "samples.parquet").unlink()
    evaluate(run, settings())
    assert rows(run)


@pytest.mark.slow
def test_every_model_is_asked_the_same(run, tmp_path, model, tokenizer):
    """The same prompts, seeds and number of samples, with tags and without."""
    plain = tmp_path / "runs" / "mle"
    plain.mkdir()
    export_model(model, tokenizer, facts(tags=None), plain / "model")
    results = [evaluate(folder, settings()) for folder in (run, plain)]
    asked = [
        [(s["scenario"], s["prompt_index"], s["sample_index"], s["prompt"], s["seed"]) for s in rows(folder)]
        for folder in (run, plain)
    ]
    assert asked[0] == asked[1]
    assert [r.scenarios["functions"].tag for r in results] == ["good", "none"]
    assert results[1].run.name == "mle"


@pytest.mark.slow
def test_a_scorer_that_the_model_was_not_trained_on_is_told(run, tmp_path, model, tokenizer, caplog):
    other = tmp_path / "other"
    scorer = replace(facts().scorer, fingerprint="0123456789abcdef")
    export_model(model, tokenizer, facts(scorer=scorer), other)
    assert evaluate(other, settings()).scorer_differs is True
    assert "was trained on scores of pep8 (0123456789abcdef)" in caplog.text
    caplog.clear()
    evaluate(run, settings())
    assert "was trained on" not in caplog.text
    caplog.clear()
    evaluate(run, settings("scorer.options.max_line_length=100"))
    assert "scored by pep8 as in training, not by scorer.name" in caplog.text


JUDGES = [
    "evaluation.scorers=[{name: words, options: {patterns: ['[aeiou]']}, threshold: 0.02}, "
    "{name: pep8, options: {max_line_length: 10}, column: narrow}]"
]


@pytest.mark.slow
def test_several_scorers_score_every_sample(run):
    results = evaluate(run, settings(*JUDGES))
    samples = rows(run)
    assert results.scorer.name == "pep8"
    assert results.scorers.keys() == {"words", "narrow"}
    assert results.scorers["words"].threshold == 0.02
    words = load_scorer("words", patterns=["[aeiou]"])
    for name, measured in results.scenarios.items():
        own = [s for s in samples if s["scenario"] == name]
        scores = [s["score_words"] for s in own]
        assert scores == [words.score([[s["scored_text"]]])[0][0].value for s in own]
        by_words = measured.scorers["words"]
        assert by_words.rate.value == pytest.approx(sum(score > 0.02 for score in scores) / len(scores))
        assert type(by_words) is ScoreResults
        assert measured.scorers["narrow"].mean_score != measured.mean_score
    assert all(len(s["segment_scores_narrow"]) == len(s["segment_scores"]) for s in samples)
    # The main scorer's measurements are those without the others, and the others decide whether all is done.
    alone = evaluate(run, settings())
    assert alone.scenarios["functions"].rate == results.scenarios["functions"].rate
    assert alone.scorers == {}


def test_scorers_that_cannot_be_told_apart(run):
    with pytest.raises(ConfigError, match=r"evaluation\.scorers: two scorers .* as pep8: set column"):
        evaluate(run, settings("evaluation.scorers=[{name: pep8}]"))


@pytest.mark.slow
def test_scenarios_that_make_no_sense_for_a_model_are_said_and_left_out(
    run, tmp_path, model, tokenizer, caplog
):
    bad = settings("evaluation.scenarios.bad={tag: bad, samples: 2, max_new_tokens: 12}")
    assert evaluate(run, bad).skipped == {}
    plain = tmp_path / "mle"
    export_model(model, tokenizer, facts(tags=None), plain)
    results = evaluate(plain, bad)
    assert results.skipped == {"bad": "the model has no tags"}
    assert list(results.scenarios) == ["unconditional", "functions"]
    assert {s["scenario"] for s in rows(plain)} == {"unconditional", "functions"}
    assert "bad: skipped: the model has no tags" in caplog.text
    assert evaluate(plain, bad) == results
    with pytest.raises(ConfigError, match=r"evaluation\.scenarios\.bad: the model has no tags"):
        generate_samples(plain, bad, scenario="bad")


@pytest.mark.slow
def test_prompts_from_held_out_documents(tiny, run):
    prompts = (
        "evaluation.scenarios={a: {samples: 1, max_new_tokens: 12, max_prompts: 2, "
        "prompts: {heldout: bad, tokens: 30}}}"
    )
    config = load_config([prompts], tiny)
    evaluate(run, config)  # from store.path: the model names no store
    asked = [s["prompt"] for s in rows(run) if s["scenario"] == "a"]
    source = HeldoutDocuments(Path(tiny.store.path), "pep8", 0.0)
    assert asked == load_prompts(config.evaluation.scenarios["a"], source)
    assert len(asked) == 2
    with pytest.raises(PhfError, match="no token store in nowhere"):
        evaluate(run, load_config(["store.path=nowhere"], config))
    with pytest.raises(
        ConfigError, match=r"evaluation\.scenarios\.a: a scenario's prompts: lost\.txt: no such"
    ):
        evaluate(run, load_config(["evaluation.scenarios.a.prompts=lost.txt"], config))


def test_a_plain_model_folder(tmp_path, model, tokenizer):
    folder = tmp_path / "plain"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    results = evaluate(folder, settings())
    assert results.run.name == "plain"
    assert results.run.objective is None
    assert results.scorer.name == "pep8"
    assert (results.scorer_differs, results.measures) == (None, {})
    assert results.scenarios["unconditional"].tag == "none"


@pytest.mark.slow
def test_what_is_no_model_is_one_line(tmp_path, run):
    with pytest.raises(PhfError, match=r"neither a run .* nor a model"):
        evaluate(tmp_path, settings())
    (tmp_path / "config.yaml").touch()
    with pytest.raises(PhfError, match="the run has no model yet"):
        evaluate(tmp_path, settings())
    nice = facts(tags=replace(TAGS, names=["<|nice|>"]))
    (run / "model" / "phf.json").write_text(json.dumps(to_json(nice)))
    with pytest.raises(PhfError, match=r"phf\.json names <\|nice\|>, which the tokenizer lacks"):
        evaluate(run, settings())
    (run / "model" / "phf.json").write_text("{")
    with pytest.raises(PhfError, match=r"phf\.json: not JSON: .*; export the model again"):
        evaluate(run, settings())
    (run / "model" / "phf.json").unlink()
    (run / "model" / "model.safetensors").write_text("broken")
    with pytest.raises(PhfError, match="not a causal language model with its tokenizer"):
        evaluate(run, settings())


@pytest.mark.slow
def test_what_cannot_be_asked_is_one_line(run):
    with pytest.raises(ConfigError, match=r"^evaluation\.scenarios\.unconditional\.max_new_tokens: 99 do"):
        evaluate(run, settings("evaluation.scenarios.unconditional.max_new_tokens=99"))
    with pytest.raises(PhfError, match=r"the samples cannot be scored: .*nothing_like_it"):
        evaluate(run, settings("evaluation.scorer={name: nothing_like_it}"))
    with pytest.raises(ConfigError, match=r"lost.jsonl: no such file"):
        evaluate(run, settings("evaluation.scenarios.functions.prompts=lost.jsonl"))


@pytest.mark.slow
def test_generate_writes_jsonl(run, tmp_path):
    output = tmp_path / "out" / "samples.jsonl"
    assert generate_samples(run, settings(), scenario="functions", output=output) == 6
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(w["prompt"], w["sample_index"]) for w in written][:3] == [
        ("def f(x):\n", 0), ("def f(x):\n", 1), ("def g():\n", 0)
    ]  # fmt: skip
    evaluate(run, settings())
    assert [w["text"] for w in written] == [r["text"] for r in rows(run) if r["scenario"] == "functions"]

    printed = io.StringIO()
    with redirect_stdout(printed):
        generate_samples(run, settings())
    assert len(printed.getvalue().splitlines()) == 6
    with pytest.raises(ConfigError, match="no scenario 'other'; there are unconditional, functions"):
        generate_samples(run, settings(), scenario="other")
    with pytest.raises(PhfError, match="cannot be written"):
        generate_samples(run, settings(), output=Path("/proc/none/x"))


def test_the_held_out_loss_of_a_run(tiny, tmp_path):
    tokenizer = TokenStore(tiny.store.path).tokenizer()
    model = build_model(tiny.model, tokenizer, 0)
    ids = add_control_tokens(model, tokenizer, (GOOD_TAG, BAD_TAG), 0)
    own = facts(store=tiny.store.path, context_length=32, tags=replace(TAGS, ids=[[i] for i in ids]))
    export_model(model, tokenizer, own, tmp_path / "model")
    results = evaluate(tmp_path, tiny)
    assert 4 < results.measures["heldout"].loss.value < 8
    assert results.measures["heldout"].threshold == 0.0
    # The same text is scored here as in the corpus: nothing but the fingerprint of the store tells.
    assert results.scorer_differs is False
    off = evaluate(tmp_path, load_config(["evaluation.measures.heldout=null"], tiny))
    assert off.measures == {}


@pytest.mark.slow
def test_what_alignment_cost_is_measured_where_it_is_asked_for(run, tmp_path, model, plain_tokenizer, caplog):
    plain = evaluate(run, settings())
    assert plain.measures == {}
    reference = tmp_path / "reference"
    model.save_pretrained(reference)
    plain_tokenizer.save_pretrained(reference)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "x = ", "good": "1\\n", "bad": "(1)\\n"}\n' * 3)
    kl = f"{{reference: {reference}, samples: 30, max_tokens: 8, cache: {tmp_path / 'cache'}}}"
    caplog.set_level(logging.INFO, logger="phf")
    asked = settings(
        "evaluation/cost.yaml",
        "evaluation/code.yaml",
        f"evaluation.measures.kl={kl}",
        f"evaluation.measures.ranking.pairs={pairs}",
        "evaluation.measures.code={samples: 1, k: [1], max_new_tokens: 16}",
    )
    results = evaluate(run, asked)
    assert results == read_results(run / "evaluation", EvaluationResults)
    assert results.scenarios == plain.scenarios
    kl, ranking, code = (results.measures[name] for name in ("kl", "ranking", "code"))
    assert (kl.samples + kl.left_out, kl.by) == (30, "text")
    assert ranking.good_tag.plain.value in (0.0, 1.0)
    assert ranking.pairs == 3
    assert code.parses.keys() == {"unconditional", "functions"}
    assert 0 <= code.parses["functions"].value <= 1
    assert code.functions == 24
    assert code.pass_at.keys() == {"1"}
    assert len((run / "evaluation" / "functions.jsonl").read_text().splitlines()) == 24
    assert f"KL from {reference}: " in caplog.text
    evaluate(run, asked)
    assert "is already evaluated: nothing to do" in caplog.text
    pairs.write_text('{"prompt": "", "good": "a", "bad": "b"}\n')
    assert evaluate(run, asked).measures["ranking"].pairs == 1
    with pytest.raises(ConfigError, match=r"lost\.jsonl cannot be read"):
        evaluate(run, settings("evaluation.measures.ranking.pairs=lost.jsonl"))
    with pytest.raises(ConfigError, match=r"evaluation\.measures\.kl\.reference: must be given"):
        evaluate(run, settings("evaluation.measures.kl={}"))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            "evaluation.measures.kl={reference: REFERENCE, cache: CACHE, samples: 2, max_tokens: 64}",
            "do not fit the context",
        ),
        ("evaluation.measures.code={memory_mb: 64}", "sandbox"),
    ],
)
def test_what_alignment_cost_fails_before_anything_is_sampled(
    run, tmp_path, model, plain_tokenizer, option, said, monkeypatch
):
    sampled = []
    monkeypatch.setattr("phf.evaluation.evaluate._generate", lambda *_: sampled.append(1))
    monkeypatch.setattr("phf.evaluation.measures.sandbox.sandbox_child.__file__", "/nowhere.py")
    reference = tmp_path / "reference"
    model.save_pretrained(reference)
    plain_tokenizer.save_pretrained(reference)
    option = option.replace("REFERENCE", str(reference)).replace("CACHE", str(tmp_path / "cache"))
    with pytest.raises(PhfError, match=said):
        evaluate(run, settings(option))
    assert not sampled


@pytest.mark.slow
def test_the_best_of_several_by_the_scorer_or_by_another(run, tmp_path):
    def mean(*options):
        return evaluate(run, settings(*options)).scenarios["unconditional"].mean_score.value

    one = "evaluation.scenarios.unconditional"
    plain, best = mean(), mean(f"{one}.best_of=4")
    assert best < plain
    assert len([s for s in rows(run) if s["scenario"] == "unconditional"]) == 6
    chosen = [s["text"] for s in rows(run)][:6]
    generate_samples(run, settings(f"{one}.best_of=4"), output=tmp_path / "best.jsonl")
    written = [json.loads(line)["text"] for line in (tmp_path / "best.jsonl").read_text().splitlines()]
    assert written == chosen
    mean(f"{one}.best_of=4", f"{one}.best_by={{name: words, options: {{words: [a], patterns: [b]}}}}")
    assert [s["text"] for s in rows(run)][:6] != chosen


@pytest.mark.slow
def test_decoders_and_grids_from_the_command_line(run):
    decoder = "evaluation.scenarios.unconditional.decoder"
    results = evaluate(run, settings(f"{decoder}.name=guidance", f"{decoder}.options.weight=[0,1.5]"))
    names = ["unconditional/weight=0", "unconditional/weight=1.5"]
    drawn_by = [results.scenarios[name].decoding["decoder"] for name in names]
    assert drawn_by == [{"name": "guidance", "options": {"weight": weight}} for weight in (0, 1.5)]
    texts = {name: [s["text"] for s in rows(run) if s["scenario"] == name] for name in results.scenarios}
    assert texts[names[0]] != texts[names[1]]
    assert len(texts["functions"]) == 6
