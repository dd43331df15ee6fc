"""Implements the measure `code`: the share of samples that parse, and pass@k of functions."""

from __future__ import annotations

import ast
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scipy.special import comb

from phf.base.errors import ConfigError, PhfError
from phf.base.estimates import SHARE, Bootstrap, Interval
from phf.base.files import write_text
from phf.base.progress import progress, sampling_progress
from phf.config import ScenarioConfig, option
from phf.evaluation.measures.base import Axis, Column, Evaluated, ModelMeasure
from phf.evaluation.measures.sandbox import Limits, check_sandbox, run_python

if TYPE_CHECKING:
    from phf.evaluation.sample_scores import ScoredSample
    from phf.inference.generate import Sample

BUILT_IN = Path(__file__).with_name("functions.jsonl")

# A function ends before the next line that is not indented.
_END = re.compile(r"\n(?=\S)")


@dataclass(frozen=True, slots=True)
class Function:
    """A function that the model has to write.

    Attributes:
        name: The name of the function in the results.
        prompt: Its signature and docstring.
        tests: Assertions that check it.
    """

    name: str
    prompt: str
    tests: str


@dataclass
class CodeOptions:
    """Options of `Code`."""

    functions: str | None = option(None, path=True)
    """Functions to write: jsonl with `name`, `prompt` (signature and docstring) and `tests` (assertions);
    null: 24 short functions that come with `phf`."""
    samples: int = option(20, least=1)
    """Samples of each function."""
    k: list[int] = field(default_factory=lambda: [1, 5, 10])
    """Values of k for which pass@k is computed."""
    temperature: float = option(0.7, least=0)
    """Divides the logits; 0 takes the likeliest token."""
    top_p: float = option(0.9, above=0, most=1)
    """Sample among the likeliest tokens that together have this probability."""
    max_new_tokens: int = option(256, least=1)
    """Longest function, in tokens."""
    seconds: int = option(3, least=1)
    """Processor time that the tests of a sample may take, in seconds."""
    memory_mb: int = option(256, least=64)
    """Memory that the tests of a sample may take, in MB."""

    def __post_init__(self) -> None:
        if not self.k or not all(1 <= k <= self.samples for k in self.k):
            raise ValueError(f"k must be numbers from 1 to samples ({self.samples}), not {self.k}")


@dataclass(frozen=True)
class CodeResults:
    """How well a model writes code.

    Attributes:
        parses: For each scenario, the share of samples that Python's parser accepts.
        pass_at: For each k, the probability that at least one of k samples of a function passes its tests.
        functions: Number of functions.
        samples: Samples of each function.
        passed: Number of samples that passed, by function.
        outcomes: Number of samples by outcome.
    """

    parses: dict[str, Interval] = field(default_factory=dict, metadata={"bounds": SHARE})
    pass_at: dict[str, Interval] = field(default_factory=dict, metadata={"bounds": SHARE})
    functions: int = 0
    samples: int = 0
    passed: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)


class Code(ModelMeasure):
    """For models of code: the share of samples that parse, and pass@k of functions in a sandbox."""

    name = "code"
    title = "Code"
    Options = CodeOptions
    options: CodeOptions
    Results = CodeResults

    @classmethod
    def axis_for(cls, found: Sequence[CodeResults]) -> Axis | None:
        k = next((k for one in found for k in one.pass_at), None)
        return (
            None if k is None else Axis(f"pass-at-{k}", f"pass@{k}", lambda results: results.pass_at.get(k))
        )

    @classmethod
    def columns_for(cls, found: Sequence[CodeResults]) -> Sequence[Column]:
        scenarios = list(dict.fromkeys(name for one in found for name in one.parses))
        ks = dict.fromkeys(k for one in found for k in one.pass_at)
        heads = {name: f"Parses: {name}" if len(scenarios) > 1 else "Parses" for name in scenarios}
        return [
            *(Column(head, partial(_parsed, name), percent=True) for name, head in heads.items()),
            *(Column(f"pass@{k}", partial(_passed, k), percent=True) for k in ks),
        ]

    @classmethod
    def legend(cls, found: Sequence[CodeResults]) -> str:
        return "pass@k: share of functions that at least one of k samples gets right."

    def inputs(self) -> Any:
        return read_functions(self.options.functions)

    def check(self, evaluated: Evaluated) -> None:
        check_sandbox(self._limits)

    def measure(self, evaluated: Evaluated) -> CodeResults:
        """Measures the model, and writes every sample with its outcome to `functions.jsonl`.

        Raises:
            ConfigError: There is no such file, or `max_new_tokens` do not fit the model's context.
            PhfError: The file holds no functions, or this machine cannot sandbox generated code.
        """
        functions = read_functions(self.options.functions)
        rows = _run(functions, self._sample(evaluated, functions), self._limits)
        write_text(evaluated.output / "functions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        passed = Counter(row["function"] for row in rows if row["outcome"] == "passed")
        counts = [passed[function.name] for function in functions]
        num, bootstrap = self.options.samples, evaluated.bootstrap
        return CodeResults(
            parses={name: parse_rate(scored, bootstrap) for name, scored in evaluated.samples.items()},
            pass_at={
                str(k): _mean([pass_at_k(num, count, k) for count in counts], bootstrap)
                for k in sorted(set(self.options.k))
            },
            functions=len(functions),
            samples=num,
            passed={function.name: passed[function.name] for function in functions},
            outcomes=dict(Counter(row["reason"] or row["outcome"] for row in rows).most_common()),
        )

    @property
    def _limits(self) -> Limits:
        return Limits(self.options.seconds, self.options.memory_mb)

    def _sample(self, evaluated: Evaluated, functions: Sequence[Function]) -> list[Sample]:
        from phf.inference.generate import generate

        options, evaluation = self.options, evaluated.evaluation
        scenario = ScenarioConfig(
            prompts=[function.prompt for function in functions],
            samples=options.samples,
            temperature=options.temperature,
            top_p=options.top_p,
            max_new_tokens=options.max_new_tokens,
            min_new_tokens=0,
        )
        with sampling_progress("functions", len(functions) * options.samples) as advance:
            try:
                return generate(
                    evaluated.model,
                    scenario.prompts,
                    scenario,
                    seed=evaluation.seed,
                    batch_size=evaluation.batch_size,
                    progress=advance,
                    tag_segments=True,
                )
            except ConfigError as error:
                raise ConfigError(f"evaluation.measures.code.{error}") from error


def _parsed(scenario: str, found: CodeResults) -> Interval | None:
    return found.parses.get(scenario)


def _passed(k: str, found: CodeResults) -> Interval | None:
    return found.pass_at.get(k)


def parse_rate(scored: Sequence[ScoredSample], bootstrap: Bootstrap) -> Interval:
    """Computes the share of samples that are valid Python, bootstrapped over prompts if there are several."""
    prompts = [one.sample.prompt_index for one in scored]
    parsed = [float(parses(one.scored_text)) for one in scored]
    return bootstrap.rate(parsed, 0.5, prompts if len(set(prompts)) > 1 else None)


def parses(text: str) -> bool:
    """Returns whether the parser of the running interpreter accepts a text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for example about invalid escapes
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _mean(estimates: list[float], bootstrap: Bootstrap) -> Interval:
    """Computes the mean over functions. If all or none pass, the interval is the exact one of a share."""
    interval = bootstrap.mean(estimates)
    return bootstrap.rate(estimates, 0.5) if interval.value in (0.0, 1.0) else interval


def pass_at_k(n: int, passed: int, k: int) -> float:
    """Computes the unbiased estimate 1 - C(n - c, k) / C(n, k) from n samples, c of which passed.

    Chen et al. 2021 (arXiv 2107.03374), equation 1.
    """
    return float(1 - comb(n - passed, k, exact=True) / comb(n, k, exact=True))


def body(continuation: str) -> str:
    """Returns the part of a continuation that belongs to the function: up to the first unindented line."""
    return _END.split("\n" + continuation, maxsplit=1)[0][1:]


def read_functions(path: str | None) -> list[Function]:
    """Reads the functions of a file; those that come with `phf` if `None`.

    Raises:
        ConfigError: There is no such file.
        PhfError: A line is not a function, two functions have one name, or there are no functions.
    """
    try:
        lines = Path(path or BUILT_IN).read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigError(
            f"evaluation.measures.code.functions: {path} cannot be read: {error.strerror}"
        ) from error
    functions: dict[str, Function] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            function = Function(row["name"], row["prompt"], row["tests"])
            good = all(isinstance(text, str) and text for text in (row["name"], row["prompt"], row["tests"]))
        except (ValueError, KeyError, TypeError):
            good = False
        if not good or function.name in functions:
            raise PhfError(
                f"{path}, line {number}: each line must be a function of its own, as in "
                '{"name": "add", "prompt": "def add(a, b):\\n", "tests": "assert add(1, 2) == 3\\n"}'
            )
        functions[function.name] = function
    if not functions:
        raise PhfError(f"{path}: holds no functions")
    return list(functions.values())


def _run(functions: Sequence[Function], samples: Iterable[Sample], limits: Limits) -> list[dict[str, Any]]:
    """Tests every sample, as many at a time as there are processors, and returns rows with the outcomes."""

    def run(sample: Sample) -> dict[str, Any]:
        function = functions[sample.prompt_index]
        code = function.prompt + body(sample.text)
        outcome, reason = run_python(f"{code}\n{function.tests}", limits)
        advance(1)
        return {
            "function": function.name,
            "sample_index": sample.sample_index,
            "code": code,
            "outcome": outcome,
            "reason": reason,
        }

    samples = list(samples)
    with (
        progress("testing functions", len(samples)) as advance,
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):
        return list(pool.map(run, samples))
