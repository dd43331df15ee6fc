"""Does a model still write code: how much of it parses, and how many of its functions pass their tests."""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.special import comb

from phf.base.errors import ConfigError, PhfError
from phf.base.estimates import Interval, mean_by_cluster, rate_by_cluster
from phf.base.progress import progress, sampling_progress
from phf.config import CodeConfig, EvaluationConfig, ScenarioConfig
from phf.evaluation.capability.sandbox import Limits, check_sandbox, run_python
from phf.evaluation.sample_scores import ScoredSample
from phf.inference.generate import Sample, generate
from phf.inference.likelihood import Reader

log = logging.getLogger("phf")

BUILT_IN = Path(__file__).with_name("functions.jsonl")

# A function ends before the next line that is not indented.
_END = re.compile(r"\n(?=\S)")


@dataclass(frozen=True, slots=True)
class Function:
    """A function to write.

    Attributes:
        name: Names it in the results.
        prompt: Signature and docstring.
        tests: Assertions.
    """

    name: str
    prompt: str
    tests: str


def parse_rate(scored: Sequence[ScoredSample], confidence: float, seed: int) -> Interval:
    """The share of samples that are Python, bootstrapped over prompts where there are several."""
    prompts = [one.sample.prompt_index for one in scored]
    parsed = [float(parses(one.scored_text)) for one in scored]
    return rate_by_cluster(parsed, 0.5, prompts if len(set(prompts)) > 1 else None, confidence, seed)


def parses(text: str) -> bool:
    """Whether the running interpreter's parser accepts a text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strange escapes and the like
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def measure_functions(
    reader: Reader, evaluation: EvaluationConfig, config: CodeConfig, output: Path
) -> dict[str, Any]:
    """pass@k: the probability that one of k samples of a function passes its tests.

    Args:
        reader: The model.
        evaluation: Confidence, seed and batch size.
        config: The functions, and how they are sampled and run.
        output: Folder for `functions.jsonl`: every sample, and how it ended.

    Returns:
        `pass_at` for each k, with intervals over functions; `passed` for each function; `outcomes`, of all.

    Raises:
        ConfigError: There is no such file, or `max_new_tokens` do not fit the model's context.
        PhfError: The file holds no functions, or this machine cannot hold generated code.
    """
    functions = read_functions(config.functions)
    limits = Limits(config.seconds, config.memory_mb)
    check_sandbox(limits)
    scenario = ScenarioConfig(
        prompts=[function.prompt for function in functions],
        samples=config.samples,
        temperature=config.temperature,
        top_p=config.top_p,
        max_new_tokens=config.max_new_tokens,
        min_new_tokens=0,
        emit_tags="good",  # as in training, a model with tags has one before each line
    )
    with sampling_progress("functions", len(functions) * config.samples) as advance:
        try:
            samples = generate(
                reader.model,
                reader.tokenizer,
                scenario.prompts,
                scenario,
                reader.control,
                segment=reader.segment,
                context_length=reader.context_length,
                seed=evaluation.seed,
                batch_size=evaluation.batch_size,
                progress=advance,
                tag_segments=True,
            )
        except ConfigError as error:
            raise ConfigError(f"evaluation.code.{error}") from error
    rows = _run(functions, samples, limits)
    _write(output / "functions.jsonl", rows)
    passed = Counter(row["function"] for row in rows if row["outcome"] == "passed")
    counts = [passed[function.name] for function in functions]
    return {
        "pass_at": {
            str(k): _mean([pass_at_k(config.samples, count, k) for count in counts], evaluation)
            for k in sorted(set(config.k))
        },
        "functions": len(functions),
        "samples": config.samples,
        "passed": {function.name: passed[function.name] for function in functions},
        "outcomes": dict(Counter(row["reason"] or row["outcome"] for row in rows).most_common()),
    }  # fmt: skip


def _mean(estimates: list[float], evaluation: EvaluationConfig) -> Interval:
    """The mean over functions; where all or none pass, with the exact interval of that."""
    interval = mean_by_cluster(estimates, None, evaluation.confidence, evaluation.seed)
    if interval["value"] in (0.0, 1.0):
        return rate_by_cluster(estimates, 0.5, None, evaluation.confidence, evaluation.seed)
    return interval


def pass_at_k(n: int, passed: int, k: int) -> float:
    """The unbiased estimate 1 - C(n - c, k) / C(n, k) from n samples, c of which passed.

    Chen et al. 2021 (arXiv 2107.03374), equation 1.
    """
    return float(1 - comb(n - passed, k, exact=True) / comb(n, k, exact=True))


def body(continuation: str) -> str:
    """What of a continuation belongs to the function: up to the first line that is not indented."""
    return _END.split("\n" + continuation, maxsplit=1)[0][1:]


def read_functions(path: str | None) -> list[Function]:
    """The functions of a file; those that come with `phf` if `None`.

    Raises:
        ConfigError: There is no such file.
        PhfError: A line is no function, two have one name, or there is none.
    """
    try:
        lines = Path(path or BUILT_IN).read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigError(f"evaluation.code.functions: {path} cannot be read: {error.strerror}") from error
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
    """Every sample with its outcome, as many at a time as there are processors."""

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


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise PhfError(f"{path}: cannot be written: {error.strerror}") from error
