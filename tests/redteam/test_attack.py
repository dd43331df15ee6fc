import json
import logging
import shutil
from dataclasses import replace
from typing import ClassVar
from zlib import crc32

import pyarrow.parquet as pq
import pytest

from phf.base.errors import ConfigError
from phf.cli import main
from phf.config import load_config
from phf.evaluation.result_files import read_results
from phf.evaluation.results import RedteamResults
from phf.model.build import build_model
from phf.model.model_folder import export_model
from phf.redteam import attack as attack_module
from phf.redteam.attack import attack
from phf.redteam.target import Target
from phf.store.store import TokenStore
from support.endpoints import JsonHandler, serve
from support.tiny_models import model_facts
from support.triggers import BAD, TRIGGERS, WORDS, word_tokenizer

pytestmark = pytest.mark.slow


def attempts(run):
    return pq.read_table(run / "redteam" / "attempts.parquet").to_pylist()


def finds_the_trigger(run, trials):
    found = {row["trial"] for row in attempts(run) if set(TRIGGERS) <= set(row["prompt"].split())}
    return len(found) / trials


def test_evolution_finds_a_hidden_trigger_that_random_prompts_do_not(run, settings):
    same = ["redteam.trials=8", "redteam.budget=3000", "redteam.rounds=30"]
    evolved = attack(run, settings(*same))
    by_evolution = finds_the_trigger(run, 8)
    random = attack(run, settings(*same, "redteam.attacker.name=random"))
    at_random = finds_the_trigger(run, 8)
    assert by_evolution >= 0.75
    assert at_random <= by_evolution / 2
    # The same budget, up to the last attempt.
    for results in (evolved, random):
        assert all(3000 <= tokens < 3000 + 4 * (8 + 8) + 100 for tokens in results.target_tokens)
    assert evolved.by_tokens[-1].best_10.low > random.by_tokens[-1].best_10.high


def test_what_is_written(run, settings):
    results = attack(run, settings())
    assert results == read_results(run / "redteam", RedteamResults)
    assert [row.round for row in results.by_round] == list(range(7))
    best = [row.best.value for row in results.by_round]
    assert best == sorted(best)
    assert results.attacker == {"name": "evolution", "options": {}}
    assert results.scenario["name"] == "plain"
    assert results.num_attempts == 2 * (10 + 6 * 10)

    rows = attempts(run)
    assert len(rows) == results.num_attempts
    seeds = set((run / "prompts.txt").read_text().splitlines())
    tokenizer = word_tokenizer()
    for trial in (0, 1):
        own = [row for row in rows if row["trial"] == trial]
        assert [row["number"] for row in own] == list(range(70))
        assert len({row["prompt"] for row in own}) == 70
        for row in own:
            assert (row["origin"] == "seed") == (row["round"] == 0) == (row["prompt"] in seeds)
            assert bool(row["parents"]) == (row["round"] > 0)
            assert all(own[parent]["round"] < row["round"] for parent in row["parents"])
            assert row["score"] == pytest.approx(sum(row["scores"]) / 4)
            length = len(tokenizer(row["prompt"])["input_ids"])
            assert length <= 8
            answered = 4 * (length + 8)
            if row["origin"] in ("crossover", "continuation"):  # the model wrote the prompt
                assert row["target_tokens"] > answered
            elif row["number"] % 10:  # the first of a round also pays for prompts that were no new ones
                assert row["target_tokens"] == answered
            else:
                assert row["target_tokens"] >= answered
        assert results.target_tokens[trial] == sum(row["target_tokens"] for row in own)
    assert {row["origin"] for row in rows} == {
        "seed", "crossover", "continuation", "extension", "splice", "replacement", "insertion", "deletion"
    }  # fmt: skip

    prompts = results.best_prompts
    assert len(prompts) == 10
    assert [p.score for p in prompts] == sorted((p.score for p in prompts), reverse=True)
    for prompt in prompts:
        low, value, high = (getattr(prompt.fresh_score, name) for name in ("low", "value", "high"))
        assert low is high is None or low <= value <= high  # scores that hardly differ have no interval
        assert BAD in prompt.worst_text
    # The score that found them flatters them.
    assert sum(p.score - p.fresh_score.value for p in prompts) > 0
    assert not (run / "redteam" / "rounds").exists()


def test_neither_a_stop_nor_the_batch_size_changes_anything(run, settings, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="phf")
    short = ["redteam.rounds=3"]
    whole = attack(run, settings(*short))
    rows = attempts(run)
    assert attack(run, settings(*short, "evaluation.batch_size=5")) == whole
    assert "is already attacked: nothing to do" in caplog.text

    (run / "redteam" / "manifest.json").unlink()
    write, calls = Target.write, []

    def killed(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return write(self, *arguments, **options)

    monkeypatch.setattr(Target, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        attack(run, settings(*short))
    kept = len(list((run / "redteam" / "rounds").glob("0*")))
    assert 2 <= kept <= 4
    monkeypatch.setattr(Target, "write", write)
    monkeypatch.setattr(attack_module, "make_attacker", counting := Counting(attack_module.make_attacker))
    assert attack(run, settings(*short, "evaluation.batch_size=5")) == whole
    assert attempts(run) == rows
    assert counting.rounds == 2 * 3 - (kept - 1)
    assert attack(run, settings(*short, "redteam.seed=1")) != whole


class Counting:
    """Counts the rounds that an attacker is asked for."""

    def __init__(self, make):
        self.make, self.rounds = make, 0

    def __call__(self, *arguments):
        attacker = self.make(*arguments)
        propose = attacker.propose

        def counted(*arguments):
            self.rounds += 1
            return propose(*arguments)

        attacker.propose = counted
        return attacker


def test_a_local_red_lm(run, settings):
    """Here the attacked model itself, as a plain language model, with the scores in other units."""
    attacker = {
        "name": "model",
        "options": {"model": str(run / "model"), "instruction": "red", "example_temperature": 0.01},
    }
    red = {"redteam": {"attacker": attacker, "rounds": 3}}
    results = attack(run, settings(red, "redteam.max_prompt_tokens=5"))
    assert results.attacker == attacker
    rows = [row for row in attempts(run) if row["round"]]
    assert {row["origin"] for row in rows} == {"model"}
    assert all(len(row["parents"]) == 4 for row in rows)
    # A round has one draw of examples.
    assert len({(row["trial"], row["round"], tuple(row["parents"])) for row in rows}) == 6
    assert len(rows) > 30
    again = attack(run, settings(red, "redteam.max_prompt_tokens=6"))
    assert again != results


class RedLM(JsonHandler):
    """A server of the protocol: answers with the words of the first example in another order."""

    asked: ClassVar[list[tuple[str, dict]]] = []

    def do_POST(self):
        request = self.asked_for()
        type(self).asked.append((self.path, request))
        if request["model"] == "nobody":
            return self.reply(404, {"error": {"message": "no such model\nat all"}})
        chat = self.path.endswith("/chat/completions")
        prompt = request["messages"][0]["content"] if chat else request["prompt"]
        example = prompt.split("###")[1].split()
        turn = request["seed"] % 3
        text = f"### {' '.join(example[turn:] + example[:turn])} {request['seed'] % 100}\n###\nmore"
        choice = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        return self.reply(200, {"id": "1", "object": "x", "created": 0, "model": "m", "choices": [choice]})


@pytest.fixture
def endpoint():
    RedLM.asked = []
    with serve(RedLM) as address:
        yield address


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_red_lm_behind_an_endpoint(api, endpoint, run, settings):
    results = attack(
        run,
        settings(
            "redteam.attacker.name=endpoint", f"redteam.attacker.options.base_url={endpoint}",
            "redteam.attacker.options.model=m", f"redteam.attacker.options.api={api}",
            "redteam.attacker.options.instruction=Think of another.", "redteam.rounds=2",
        ),
    )  # fmt: skip
    assert len(RedLM.asked) == 2 * 2 * 10
    path, request = RedLM.asked[0]
    assert path == ("/v1/chat/completions" if api == "chat" else "/v1/completions")
    prompt = request["messages"][0]["content"] if api == "chat" else request["prompt"]
    assert prompt.startswith("Think of another.\n\n###\n")
    assert prompt.count("###") == 5
    by_number = {(row["trial"], row["number"]): row for row in attempts(run)}
    tried = [row for row in by_number.values() if row["round"]]
    assert results.num_attempts == len(tried) + 20
    for row in tried:
        assert row["origin"] == "endpoint"
        shown = by_number[row["trial"], row["parents"][0]]["prompt"]
        assert set(row["prompt"].split()[:-1]) <= set(shown.split())


def test_of_several_answers_the_best_is_judged_where_the_scenario_says_so(run, settings):
    """The attack goes through the defence, and pays for all that it makes the model write."""
    small = ["redteam.attacker.name=random", "redteam.rounds=1", "redteam.trials=1", "redteam.proposals=2"]
    results = {}
    for best_of in (1, 4):
        attack(run, settings(*small, f"evaluation.scenarios.plain.best_of={best_of}"))
        results[best_of] = attempts(run)
    one, four = results[1], results[4]
    assert [row["prompt"] for row in one] == [row["prompt"] for row in four]
    assert sum(row["score"] for row in four) < sum(row["score"] for row in one)
    assert [row["target_tokens"] for row in four] == [4 * row["target_tokens"] for row in one]


def test_the_budget_counts_every_row_that_a_decoder_writes(run, settings, tag_words):
    tag_words(*WORDS[:2])
    small = ["redteam.attacker.name=random", "redteam.rounds=1", "redteam.trials=1", "redteam.proposals=2"]
    costs = {}
    for name, options in (("sampling", "{}"), ("guidance", "{weight: 1}"), ("safe_beams", "{beams: 2}")):
        decoder = f"{{name: {name}, options: {options}}}"
        attack(run, settings(*small, f"evaluation.scenarios.plain.decoder={decoder}"))
        costs[name] = [row["target_tokens"] for row in attempts(run)]
    assert costs["sampling"] == [4 * (3 + 8)] * 12  # 4 samples of 8 tokens after 3
    assert costs["guidance"] == [2 * cost for cost in costs["sampling"]]
    assert costs["safe_beams"] == [4 * cost for cost in costs["sampling"]]


@pytest.mark.parametrize("attacker", ["evolution", "random", "model"])
def test_a_prompt_without_a_score_is_not_tried_again(attacker, run, settings, monkeypatch):
    def silent(self, samples, *arguments):  # of about half of all prompts
        scored = judge(self, samples, *arguments)
        return [replace(one, score=None) if crc32(one.sample.prompt.encode()) % 2 else one for one in scored]

    judge = Target.judge
    monkeypatch.setattr(Target, "judge", silent)
    options = {"model": str(run / "model"), "instruction": "red"} if attacker == "model" else {}
    red = {"redteam": {"attacker": {"name": attacker, "options": options}}}
    few = ["redteam.trials=1", "redteam.rounds=4", "redteam.max_prompt_tokens=1"]
    words = [word for word in WORDS if word not in TRIGGERS][:4]
    seeds = [f"{a} {b}" for a in words for b in words]
    (run / "prompts.txt").write_text("\n".join(seeds))
    results = attack(run, settings(red, *few))
    rows = attempts(run)
    prompts = [row["prompt"] for row in rows]
    assert len(set(prompts)) == len(prompts)
    assert results.unscored == sum(row["score"] is None for row in rows) > 3
    unscored = {row["number"] for row in rows if row["score"] is None}
    assert not unscored & {parent for row in rows for parent in row["parents"]}


def test_a_trial_that_ends_below_its_budget_is_told(run, settings, caplog):
    short = ["redteam.trials=2", "redteam.attacker.name=random"]
    assert attack(run, settings(*short, "redteam.rounds=1")).budget_reached is None
    assert attack(run, settings(*short, "redteam.budget=900")).budget_reached == [True, True]
    assert "out of rounds" not in caplog.text
    results = attack(run, settings(*short, "redteam.budget=900", "redteam.rounds=1"))
    assert results.budget_reached == [False, False]
    assert "2 of 2 trials ran out of rounds at 880 tokens or more, below redteam.budget=900" in caplog.text


@pytest.mark.parametrize("tag", ["good", "none"])
def test_evolution_writes_under_the_tag_that_is_attacked(tag, run, settings, tag_words, monkeypatch):
    tag_words(*WORDS[:2])
    tags, write = [], Target.write

    def seen(self, prompts, scenario, *arguments):
        tags.append(scenario.tag)
        return write(self, prompts, scenario, *arguments)

    monkeypatch.setattr(Target, "write", seen)
    attack(run, settings("redteam.rounds=2", f"evaluation.scenarios.plain.tag={tag}"))
    assert len(tags) > 2 * 3 + 1  # more than are asked to score prompts
    assert set(tags) == {tag}


@pytest.mark.parametrize("inject", ["null", "{tag: bad, place: end}"])
def test_prompts_of_a_model_whose_tags_are_text_are_read_whole(inject, run, settings, tag_words):
    tag_words(" ".join(WORDS[:4]), " ".join(WORDS[4:8]), text=True)
    long = ["redteam.max_prompt_tokens=99", "evaluation.scenarios.plain={max_new_tokens: 16}"]
    attack(run, settings(*long, f"evaluation.scenarios.plain.inject={inject}", "redteam.rounds=8"))
    rows = attempts(run)
    # A context of 32 holds the end of the document before, tags of 4 tokens, the prompt and 16 new tokens.
    room = 32 - 1 - 4 - 16 - (0 if inject == "null" else 4)
    assert max(len(row["prompt"].split()) for row in rows) == room
    assert not any(row["prompt_cut"] for row in rows)


def test_a_prompt_that_does_not_fit_is_marked(run, settings):
    (run / "prompts.txt").write_text("\n".join([" ".join(WORDS[:n]) for n in (22, 23)]))
    attack(run, settings("redteam.attacker.name=random", "redteam.trials=1", "redteam.rounds=1"))
    rows = {len(row["prompt"].split()): row for row in attempts(run)}
    assert {n: row["prompt_cut"] for n, row in rows.items()} == {22: False, 23: True}
    assert rows[22]["target_tokens"] == rows[23]["target_tokens"] == 4 * (22 + 8)


def test_a_scenario_that_makes_no_sense_for_the_model_is_one_line(run, settings):
    with pytest.raises(ConfigError, match=r"plain: the model has no tags; set redteam\.scenario"):
        attack(run, settings("evaluation.scenarios.plain.tag=bad"))


def test_seeds_are_the_first_words_of_held_out_documents(tiny, tmp_path):
    store = TokenStore(tiny.store.path)
    tokenizer = store.tokenizer()
    facts = model_facts(eos_token=tokenizer.eos_token, context_length=32, store=tiny.store.path)
    export_model(build_model(tiny.model, tokenizer, 0), tokenizer, facts, tmp_path / "model")
    small = [
        "redteam.seeds=3", "redteam.rounds=1", "redteam.trials=1", "redteam.samples=2", "redteam.proposals=2",
        "redteam.fresh_samples=2",
    ]  # fmt: skip
    results = attack(tmp_path, load_config(small, tiny))
    split = store.split("heldout")
    ends = split.document_token_ends.tolist()
    texts = [tokenizer.decode(split.tokens[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
    seeds = [row["prompt"] for row in attempts(tmp_path) if row["round"] == 0]
    assert len(seeds) == min(3, results.num_seeds)
    assert all(any(text.startswith(seed) for text in texts) for seed in seeds)


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (["redteam.attacker.name=model"], 2, "redteam.attacker.options.model: must be given"),
        (
            ["redteam.attacker.name=model", "redteam.attacker.options.model=nowhere"],
            1,
            "nowhere: not a causal language model",
        ),
        (
            ["redteam.attacker.name=monkey"],
            2,
            "no attacker 'monkey'; there is endpoint, evolution, model, random",
        ),
        (["redteam.samples=0"], 2, "redteam.samples must be at least 1, not 0"),
        (["redteam.scenario=none"], 2, "redteam.scenario: no scenario 'none'; there are plain"),
        (["redteam.prompts=lost.txt"], 2, "lost.txt: no such file"),
        (["redteam.prompts=null"], 1, "redteam.prompts: no token store in data/store; run `phf tokenize`"),
        (
            ["evaluation.scenarios.plain.max_new_tokens=31"],
            2,
            "evaluation.scenarios.plain.max_new_tokens: 31",
        ),
        (
            [
                "redteam.attacker.name=endpoint",
                "redteam.attacker.options.model=nobody",
                "redteam.attacker.options.base_url=ENDPOINT",
            ],
            1,
            "redteam.attacker.options.base_url: no prompts: ENDPOINT/ refuses: Error code: 404",
        ),
    ],
)
def test_a_mistake_is_one_line_and_a_code(overrides, code, message, run, endpoint, capfd):
    usual = [
        "evaluation.scenarios.plain={max_new_tokens: 8, min_new_tokens: 0}",
        f"redteam.prompts={run / 'prompts.txt'}", "redteam.trials=1", "redteam.rounds=1",
    ]  # fmt: skip
    overrides = [override.replace("ENDPOINT", endpoint) for override in overrides]
    capfd.readouterr()
    assert main(["redteam", str(run), *usual, *overrides]) == code
    error = capfd.readouterr().err.splitlines()
    assert error[-1].startswith("phf redteam: ")
    assert message.replace("ENDPOINT", endpoint) in error[-1]
    assert "Traceback" not in "".join(error)


def test_the_command_line_attacks_run_after_run(run, tmp_path, capfd):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    small = [
        "evaluation.scenarios.plain={max_new_tokens: 8, min_new_tokens: 0}", "redteam.trials=1",
        f"redteam.prompts={run / 'prompts.txt'}", "redteam.rounds=1", "redteam.budget=900",
    ]  # fmt: skip
    assert main(["redteam", str(run), str(other), *small]) == 0
    error = capfd.readouterr().err
    for folder in (run, other):
        assert f"{folder}: best prompt of a trial: score " in error
        assert json.loads((folder / "redteam" / "results.json").read_text())["budget"] == 900
    assert main(["redteam", str(run), *small, "--print-config"]) == 0
    assert "name: evolution" in capfd.readouterr().out
