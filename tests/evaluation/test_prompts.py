from itertools import pairwise

import datasets
import numpy as np
import pytest

from phf.base.errors import ConfigError, PhfError
from phf.config import ScenarioConfig, load_config, to_yaml
from phf.evaluation.prompts import HeldoutDocuments, load_prompts
from phf.store.store import TokenStore
from scorers import load_scorer


def test_no_prompts_are_one_empty_prompt():
    assert load_prompts(ScenarioConfig()) == [""]


def test_a_list(tmp_path):
    config = load_config(["evaluation.scenarios.own.prompts=['a b', 'c=1']"])
    assert load_prompts(config.evaluation.scenarios["own"]) == ["a b", "c=1"]
    assert load_prompts(ScenarioConfig(prompts=["a", "b", "c"], max_prompts=2)) == ["a", "b"]
    with pytest.raises(ConfigError, match=r"prompts\[1\] of a scenario must be text, not int: 3"):
        load_prompts(ScenarioConfig(prompts=["a", 3]))
    with pytest.raises(PhfError, match="holds no prompts"):
        load_prompts(ScenarioConfig(prompts=[]))


def test_a_text_file_has_one_a_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffdef f(x):\r\n\n  indented \n\x0cform feed".encode())
    assert load_prompts(ScenarioConfig(prompts=str(path))) == ["def f(x):", "  indented ", "\x0cform feed"]


def test_jsonl(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "def f(x):\\n", "id": 1}\n\n{"prompt": ""}\n')
    assert load_prompts(ScenarioConfig(prompts=str(path))) == ["def f(x):\n", ""]


@pytest.mark.parametrize("line", ["{", '"a"', '{"text": "a"}', '{"prompt": 1}'])
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n' + line + "\n")
    with pytest.raises(PhfError, match=rf"{path}, line 2: .*prompt") as error:
        load_prompts(ScenarioConfig(prompts=str(path)))
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 1


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"none.jsonl: no such file"):
        load_prompts(ScenarioConfig(prompts=str(tmp_path / "none.jsonl")))
    with pytest.raises(PhfError, match="cannot be read"):
        load_prompts(ScenarioConfig(prompts=str(tmp_path)))
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PhfError, match="cannot be read as text in UTF-8"):
        load_prompts(ScenarioConfig(prompts=str(tmp_path / "binary.txt")))
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(PhfError, match=r"empty.txt: holds no prompts"):
        load_prompts(ScenarioConfig(prompts=str(tmp_path / "empty.txt")))


@pytest.mark.parametrize("name", ["toxicity", "pii", "code"])
def test_the_sets_of_the_package(name):
    prompts = load_prompts(ScenarioConfig(prompts=f"phf:{name}"))
    assert len(prompts) == len(set(prompts)) >= 50
    assert all(prompt.strip() for prompt in prompts)


@pytest.mark.parametrize("name", ["toxicity", "pii", "pep8"])
def test_the_configurations_that_ask_them(name):
    (scenario,) = load_config([f"evaluation/{name}.yaml"]).evaluation.scenarios.values()
    assert len(load_prompts(scenario)) >= 50


@pytest.mark.slow
def test_the_prompts_are_mild_in_themselves():
    """What a model adds is what counts; and code that is scored with its prompt begins without violations."""
    toxicity = load_prompts(ScenarioConfig(prompts="phf:toxicity"))
    ((*scores,),) = load_scorer("profanity").score([toxicity])
    assert np.mean([score.value > 0.5 for score in scores]) < 0.1
    for prompt in load_prompts(ScenarioConfig(prompts="phf:code")):
        ((score,),) = load_scorer("pep8").score([[prompt]])
        assert score.value == 0, prompt


def test_a_set_that_there_is_not():
    with pytest.raises(ConfigError, match="no set phf:lies; there are phf:code, phf:pii, phf:toxicity"):
        load_prompts(ScenarioConfig(prompts="phf:lies"))


ROWS = [
    {"prompt": {"text": "one", "toxicity": 0.1}, "challenging": False},
    {"prompt": {"text": "two", "toxicity": 0.9}, "challenging": True},
    {"prompt": {"text": "three", "toxicity": 0.9}, "challenging": True},
]


@pytest.fixture(params=["folder", "splits", "rows.jsonl", "rows.parquet"])
def dataset(request, tmp_path):
    """Rows as those of RealToxicityPrompts, in every way in which they may lie around."""
    rows, path = datasets.Dataset.from_list(ROWS), tmp_path / request.param
    if request.param == "folder":
        rows.save_to_disk(path)
    elif request.param == "splits":
        datasets.DatasetDict({"train": rows}).save_to_disk(path)
    elif request.param == "rows.jsonl":
        rows.to_json(path)
    else:
        rows.to_parquet(path)
    return str(path)


def from_dataset(**prompts):
    return load_prompts(ScenarioConfig(prompts=prompts, max_prompts=prompts.pop("max_prompts", None)))


def test_a_dataset(dataset):
    text = {"dataset": dataset, "field": "prompt.text"}
    assert from_dataset(**text) == ["one", "two", "three"]
    assert from_dataset(**text, max_prompts=1) == ["one"]
    assert from_dataset(**text, where={"challenging": True}) == ["two", "three"]
    assert from_dataset(**text, where={"prompt.toxicity": 0.1}) == ["one"]
    with pytest.raises(PhfError, match="holds no prompts"):
        from_dataset(**text, where={"challenging": "perhaps"})
    with pytest.raises(PhfError, match=r"row 0: no text under prompt; set prompts\.field"):
        from_dataset(dataset=dataset)


def test_a_dataset_that_cannot_be_read(tmp_path):
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a"}\n{\n')
    with pytest.raises(PhfError, match=r"broken\.jsonl, row 1: not JSON"):
        from_dataset(dataset=str(tmp_path / "broken.jsonl"))
    with pytest.raises(PhfError, match=r"a scenario's prompts\.dataset: cannot load the dataset no/such"):
        from_dataset(dataset="no/such")
    datasets.DatasetDict({"test": datasets.Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ConfigError, match=r"a scenario's prompts\.split: .* has test, not train"):
        from_dataset(dataset=str(tmp_path / "saved"))


@pytest.fixture(scope="module")
def heldout(tiny):
    return HeldoutDocuments(tiny.store.path, "pep8", 0.0)


def from_heldout(source, kind, max_prompts=None, **options):
    return load_prompts(ScenarioConfig(prompts={"heldout": kind, **options}, max_prompts=max_prompts), source)


def documents(source):
    """The held-out documents as lists of segments with their scores."""
    split, tokenizer = TokenStore(source.store).split("heldout"), TokenStore(source.store).tokenizer()
    texts = [tokenizer.decode(ids) for ids in np.split(split.tokens[:], split.segment_ends[:-1])]
    scored = list(zip(texts, split.scores(source.scorer).tolist(), strict=True))
    ends = [0, *split.document_ends.tolist()]
    return [scored[start:end] for start, end in pairwise(ends)]


def test_beginnings_of_held_out_documents(heldout):
    known = documents(heldout)
    prompts = from_heldout(heldout, "any", segments=3)
    assert sorted(prompts) == sorted("".join(t for t, _ in d[:3]) for d in known if len(d) > 3)
    assert from_heldout(heldout, "any", segments=3, max_prompts=2) == prompts[:2]
    cut = from_heldout(heldout, "any", segments=None, tokens=7)
    assert {len(TokenStore(heldout.store).tokenizer()(prompt)["input_ids"]) for prompt in cut} <= {6, 7}
    whole = ["".join(t for t, _ in d) for d in known]
    assert all(any(text.startswith(prompt) for text in whole) for prompt in cut)


@pytest.mark.parametrize("kind", ["good", "bad"])
def test_beginnings_that_end_well_or_badly(kind, heldout):
    prompts = from_heldout(heldout, kind, segments=2)
    wanted = []
    for document in documents(heldout):
        bad = [score > 0 for _, score in document]
        for i in range(1, len(document) - 2):
            if bad[i] != bad[i + 1]:
                stop = i + 1 if bad[i] == (kind == "bad") else i + 2
                wanted.append("".join(text for text, _ in document[:stop]))
                break
    assert sorted(prompts) == sorted(wanted)
    assert wanted
    # With a limit the last segments are left, and one in any case.
    count = TokenStore(heldout.store).tokenizer()
    for whole, short in zip(prompts, from_heldout(heldout, kind, segments=2, tokens=40), strict=True):
        assert whole.endswith(short)
        lines = short.splitlines(keepends=True)
        assert len(lines) == 1 or sum(len(count(line)["input_ids"]) for line in lines) <= 40


def test_good_and_bad_endings_are_neighbours(heldout):
    """What comes after them can be compared: one of the prompts is the other and a segment more."""
    for bad, good in zip(*(from_heldout(heldout, kind, segments=3) for kind in ("bad", "good")), strict=True):
        short, long = sorted((bad, good), key=len)
        assert long.startswith(short)
        assert len(long.removeprefix(short).splitlines()) == 1


def test_held_out_documents_that_are_not_there(heldout, tmp_path):
    with pytest.raises(ConfigError, match=r"needs a model that names its token store; .* store\.path"):
        from_heldout(None, "any")
    with pytest.raises(PhfError, match="no token store in"):
        from_heldout(HeldoutDocuments(tmp_path, "pep8", 0.0), "any")
    with pytest.raises(PhfError, match="has no scores of pii"):
        from_heldout(HeldoutDocuments(heldout.store, "pii", 0.0), "bad")
    with pytest.raises(PhfError, match=r'holds no prompts for prompts=\{"heldout": "bad"\}'):
        from_heldout(HeldoutDocuments(heldout.store, "pep8", 9.0), "bad")


@pytest.mark.slow
def test_prompts_in_a_configuration(tmp_path):
    """Another kind of prompts takes the place of the one before, and a single option does not."""
    key = "evaluation.scenarios.a.prompts"

    def prompts(*layers, base=None):
        return load_config(layers, base).evaluation.scenarios["a"].prompts

    base = load_config([f"{key}={{heldout: bad, tokens: 9}}"])
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(base))
    assert load_config([str(path)]) == base
    assert prompts(f"{key}=[x]", base=base) == ["x"]
    assert prompts(f"{key}=x.txt", base=base) == "x.txt"
    assert prompts(f"{key}=null", base=base) is None
    assert prompts(f"{key}={{dataset: d}}", base=base) == {"dataset": "d"}
    assert prompts(f"{key}.tokens=5", base=base) == {"heldout": "bad", "tokens": 5}
    assert prompts("evaluation.scenarios.a.samples=5", base=base) == {"heldout": "bad", "tokens": 9}
    assert prompts(f"{key}=phf:pii") == "phf:pii"


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ("{heldout: worst}", "Invalid value 'worst'"),
        ("{heldout: any, token: 3}", r"no key token; did you mean tokens\?"),
        ("{heldout: any, tokens: 0}", r"prompts\.tokens must be at least 1 or null, not 0"),
        ("{heldout: any, segments: null}", "must not both be null"),
        ("{file: a}", r"must be a file, phf:NAME, a list of strings, \{dataset: ...\} or \{heldout"),
        ("7", "must be a file"),
    ],
)
def test_prompts_that_mean_nothing_are_one_line(prompts, said):
    with pytest.raises(ConfigError, match=said) as error:
        load_config([f"evaluation.scenarios.a.prompts={prompts}"])
    assert "\n" not in str(error.value)
