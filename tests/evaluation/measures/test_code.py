import json
import math
from dataclasses import replace
from itertools import combinations

import pytest

from phf.base.errors import ConfigError, PhfError
from phf.config import EvaluationConfig, read_options
from phf.evaluation.measures.base import Evaluated
from phf.evaluation.measures.code import (
    Code,
    CodeOptions,
    body,
    parses,
    pass_at_k,
    read_functions,
)
from phf.evaluation.measures.sandbox import Limits, run_python
from support.tiny_models import loaded_model

# A way to write each of the functions that come with the package.
SOLUTIONS = {
    "add": "return a + b",
    "is_even": "return n % 2 == 0",
    "larger": "return max(a, b)",
    "square": "return x * x",
    "absolute": "return x if x > 0 else -x",
    "first": "return items[0] if items else None",
    "join_words": "return ' '.join(words)",
    "reverse": "return text[::-1]",
    "total": "return sum(numbers)",
    "mean": "return sum(numbers) / len(numbers) if numbers else None",
    "count_vowels": "return sum(c in 'aeiou' for c in text.lower())",
    "factorial": "return n * factorial(n - 1) if n else 1",
    "fibonacci": "return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)",
    "is_prime": "return n > 1 and all(n % d for d in range(2, n))",
    "gcd": "import math\n    return math.gcd(a, b)",
    "is_palindrome": "text = text.lower().replace(' ', '')\n    return text == text[::-1]",
    "unique": "return list(dict.fromkeys(items))",
    "flatten": "return [item for items in lists for item in items]",
    "count_words": "from collections import Counter\n    return dict(Counter(text.split()))",
    "merge_sorted": "return sorted(a + b)",
    "binary": "return bin(n)[2:]",
    "caesar": "return ''.join(chr((ord(c) - 97 + shift) % 26 + 97) if 'a' <= c <= 'z' else c for c in text)",
    "brackets_match": (
        "open = []\n    for c in text:\n        if c in '([{':\n"
        "            open.append(')]}'['([{'.index(c)])\n"
        "        elif c in ')]}' and (not open or open.pop() != c):\n            return False\n"
        "    return not open"
    ),
    "transpose": "return [list(row) for row in zip(*rows)]",
}


@pytest.mark.slow
def test_each_function_can_be_written_and_no_empty_one_passes():
    functions = read_functions(None)
    assert {function.name for function in functions} == SOLUTIONS.keys()
    for function in functions:
        solved = f"{function.prompt}    {SOLUTIONS[function.name]}\n{function.tests}"
        assert run_python(solved, Limits()) == ("passed", ""), function.name
        for empty in ("pass", "return 0", "return True", "return ''"):
            with pytest.raises(AssertionError):
                exec(f"{function.prompt}    {empty}\n{function.tests}", {})


@pytest.mark.parametrize(("n", "passed"), [(5, 0), (5, 1), (5, 3), (5, 5), (8, 4)])
def test_pass_at_k_is_the_share_of_all_subsets(n, passed):
    for k in range(1, n + 1):
        subsets = list(combinations([True] * passed + [False] * (n - passed), k))
        assert pass_at_k(n, passed, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    assert math.isclose(pass_at_k(1000, 1, 500), 0.5)


def test_a_function_ends_where_the_indentation_does():
    assert body("    return 1\n\ndef g():\n    pass") == "    return 1\n"
    assert body("    x = 1\n\n    return x\n# end") == "    x = 1\n\n    return x"
    assert body("print(1)\n") == ""
    assert body("") == ""


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("x = 1\n", True),
        ("", True),
        ("x = '\\d'\n", True),
        ("def f(:", False),
        ("a\0b", False),
        ("(" * 10**5, False),
    ],
)
def test_what_parses(text, good):
    assert parses(text) is good


@pytest.fixture
def writer(model, tokenizer, control):
    """A model that has learned by heart to write one function and not another."""
    import torch

    texts = ["def one():\n    return 1\n", "def two():\n    return 1\n"]
    rows = torch.tensor([[256, 257, *tokenizer(text)["input_ids"], 256] for text in texts])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        model(rows, labels=rows).loss.backward()
        optimizer.step()
    return loaded_model(model, tokenizer, control)


def measure_code(model, options, output):
    return Code(options).measure(Evaluated(model, EvaluationConfig(), output))


@pytest.mark.slow
def test_what_a_model_writes_is_run(writer, tmp_path):
    functions = tmp_path / "functions.jsonl"
    rows = [
        {"name": "one", "prompt": "def one():\n", "tests": "assert one() == 1\n"},
        {"name": "two", "prompt": "def two():\n", "tests": "assert two() == 2\n"},
    ]
    functions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = CodeOptions(str(functions), samples=3, k=[1, 3], temperature=0.0, max_new_tokens=20)
    measured = measure_code(writer, options, tmp_path / "out")
    assert measured.passed == {"one": 3, "two": 0}
    assert {k: interval.value for k, interval in measured.pass_at.items()} == {"1": 0.5, "3": 0.5}
    assert measured.outcomes == {"passed": 3, "AssertionError": 3}
    rows[1]["tests"] = "assert two() == 1\n"
    functions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    all_pass = measure_code(writer, options, tmp_path / "all").pass_at["1"]
    assert all_pass.value == all_pass.high == 1.0
    assert all_pass.low == pytest.approx(0.025**0.5)  # two of two: Clopper and Pearson
    written = [json.loads(line) for line in (tmp_path / "out" / "functions.jsonl").read_text().splitlines()]
    assert written[0] == {
        "function": "one", "sample_index": 0, "code": "def one():\n    return 1\n", "outcome": "passed",
        "reason": "",
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"evaluation\.measures\.code\.max_new_tokens: 99 do not fit"):
        measure_code(writer, replace(options, max_new_tokens=99), tmp_path)


def test_a_model_with_tags_is_asked_as_it_was_trained(model, tokenizer, control, tmp_path):
    functions = tmp_path / "functions.jsonl"
    prompt = ["def one():\n", "    # 1\n"]
    functions.write_text(json.dumps({"name": "one", "prompt": "".join(prompt), "tests": "one()"}))
    seen = []
    model.get_input_embeddings().register_forward_pre_hook(
        lambda _, ids: seen.extend(ids[0].flatten().tolist())
    )
    tagged = loaded_model(model, tokenizer, control, segment=lambda text: text.splitlines(keepends=True))
    measure_code(tagged, CodeOptions(str(functions), samples=1, k=[1], max_new_tokens=2), tmp_path)
    first, second = (tokenizer(line)["input_ids"] for line in prompt)
    asked = [256, 257, *first, 257, *second]
    assert seen[: len(asked)] == asked


def test_wrong_input_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"evaluation\.measures\.code\.functions: .*lost cannot be read"):
        read_functions(str(tmp_path / "lost"))
    good = json.dumps({"name": "f", "prompt": "def f():\n", "tests": "f()"})
    for lines, line in (("{}", 1), (good + "\n[1]", 2), (good + "\n" + good, 2), ("\n\nx", 3)):
        (tmp_path / "bad").write_text(lines)
        with pytest.raises(PhfError, match=rf"bad, line {line}: each line must be a function of its own"):
            read_functions(str(tmp_path / "bad"))
    (tmp_path / "bad").write_text("\n")
    with pytest.raises(PhfError, match="holds no functions"):
        read_functions(str(tmp_path / "bad"))
    for options, message in (
        ({"samples": 5}, r"evaluation\.measures\.code\.k must be numbers from 1 to samples \(5\)"),
        ({"memory_mb": 1}, r"evaluation\.measures\.code\.memory_mb must be at least 64"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_options(CodeOptions, options, "evaluation.measures.code")
