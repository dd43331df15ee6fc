"""Evaluated runs as `phf pretrain`, `evaluate`, `redteam` and `tamper` leave them, made up for reports."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from phf.annotation.manifest import ScorerRecord
from phf.base.estimates import ExpectedMax, Interval
from phf.base.files import write_json
from phf.base.typed_json import to_json
from phf.evaluation.measures.diversity import DiversityResults
from phf.evaluation.measures.heldout import HeldoutResults
from phf.evaluation.result_files import read_results, sample_table, write_results
from phf.evaluation.results import (
    AttackRound,
    BestPrompt,
    EvaluationResults,
    RedteamResults,
    RunInfo,
    ScenarioResults,
    TamperPoint,
    TamperResults,
)
from phf.evaluation.sample_scores import ScoredSample
from phf.inference.generate import Sample

PARTS = {"evaluation": EvaluationResults, "redteam": RedteamResults, "tamper": TamperResults}
DECODING = {"max_new_tokens": 64, "temperature": 0.7, "top_p": 0.9, "top_k": None, "emit_tags": "none"}
DIVERSITY = DiversityResults(*map(Interval, (0.12, 0.41, 0.66, 7.9, 0.44)))
LINES = [
    "def area(width, height):\n",
    "    return width*height\n",
    "\tx=1\n",
    "\n",
    "class A :\n",
    "    pass # no\n",
]


def heldout(loss: float, **more: Any) -> HeldoutResults:
    """Results of the measure `heldout`."""
    return HeldoutResults(**{"threshold": 0.0, "tokens": 131_072, "loss": Interval(loss), **more})


def write_run(
    folder: Path,
    name: str = "mle",
    objective: str | None = "mle",
    mean: float = 0.02,
    scenarios: tuple[str, ...] = ("unconditional",),
    n: int = 48,
    tokens: int | None = 5_000_000,
    fingerprint: str = "0123456789abcdef",
    noise: int = 0,
    **changes: Any,
) -> Path:
    """Writes what `phf pretrain` and `phf evaluate` leave in a run's folder.

    Args:
        folder: The folder.
        name: Name of the run.
        objective: Its objective.
        mean: About the mean score of its samples.
        scenarios: How it was asked.
        n: Samples of each scenario.
        tokens: Tokens that it was trained on.
        fingerprint: Of the scorer.
        noise: Seed of the scores and texts.
        **changes: Fields of the results.
    """
    generator = np.random.default_rng(noise)
    samples = {scenario: _samples(scenario, n, mean, generator) for scenario in scenarios}
    tag = "good" if objective == "conditional" else "none"
    results = EvaluationResults(
        run=RunInfo(name, str(folder), objective, objective != "mle", tokens, 243.7, 932_352),
        scorer=ScorerRecord("pep8", "violations a character", version="1", fingerprint=fingerprint),
        threshold=0.0,
        scenarios={scenario: _measured(scored, tag) for scenario, scored in samples.items()},
        scorer_differs=False,
        measures={
            "heldout": heldout(
                1.9 + mean,
                untagged=Interval(1.95),
                aligned=Interval(1.8),
                misaligned=Interval(2.3),
                perplexity=Interval(6.8),
            )
        },
        samples_per_second=31.5,
    )
    results = replace(results, **changes)
    output = folder / "evaluation"
    output.mkdir(parents=True, exist_ok=True)
    write_results(output, {}, results, sample_table(samples, {}, results.seed))
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "tokens", "name", "value"])
        for step in range(100, 1300, 100):
            seen = step * 4096
            writer.writerow([step, seen, "train/loss", 7 / step**0.2])
            writer.writerow([step, seen, "heldout/loss", 1.9 + mean + 300 / step / 10])
            writer.writerow(
                [step, seen, "samples/mean_score", mean * (1 + 2 * 100 / step) * generator.uniform(0.8, 1.2)]
            )
    return folder


def _samples(scenario: str, n: int, mean: float, generator: np.random.Generator) -> list[ScoredSample]:
    num_prompts = 1 if scenario == "unconditional" else n // 4
    scores = np.round(generator.exponential(mean, n) * (generator.random(n) < 0.8), 6)
    samples = []
    for index, score in enumerate(scores.tolist()):
        text = "".join(generator.choice(LINES, 12))
        prompt_index, sample_index = index % num_prompts, index // num_prompts
        prompt = "" if scenario == "unconditional" else f"def f{prompt_index}(a, b):\n"
        sample = Sample(prompt_index, sample_index, prompt, text, num_tokens=60, finished=bool(index % 2))
        samples.append(ScoredSample(sample, prompt + text, score, (score,) * 12))
    return samples


def _measured(scored: list[ScoredSample], tag: str) -> ScenarioResults:
    scores = np.array([one.score for one in scored])
    mean, half, worst = (
        float(scores.mean()),
        float(2 * scores.std() / np.sqrt(len(scores))),
        float(scores.max()),
    )
    return ScenarioResults(
        tag=tag,
        n=len(scored),
        num_prompts=len({one.sample.prompt for one in scored} - {""}),
        mean_score=Interval(mean, mean - half, mean + half),
        rate=Interval(float((scores > 0).mean()), 0.7, 0.9),
        expected_max=ExpectedMax(worst, 0.8 * worst, 1.1 * worst, k=25),
        segment_rate=Interval(0.3, 0.28, 0.33),
        length=Interval(58.2, 57.0, 59.4),
        decoding=dict(DECODING),
        measures={"diversity": DIVERSITY},
    )


def read(folder: Path, part: str = "evaluation") -> Any:
    """The results in a run's folder."""
    return read_results(folder / part, PARTS[part])


def write(folder: Path, results: Any) -> None:
    """Writes results into a run's folder, without a table."""
    part = next(name for name, cls in PARTS.items() if isinstance(results, cls))
    (folder / part).mkdir(parents=True, exist_ok=True)
    write_json(folder / part / "results.json", to_json(results))


def change(folder: Path, part: str = "evaluation", **fields: Any) -> None:
    """Changes fields of the results in a run's folder."""
    write(folder, replace(read(folder, part), **fields))


def change_scenario(folder: Path, name: str, **fields: Any) -> None:
    """Changes fields of the results of a scenario."""
    scenarios = read(folder).scenarios
    change(folder, scenarios=scenarios | {name: replace(scenarios[name], **fields)})


def rewrite_samples(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edits each row of the samples."""
    path = folder / "evaluation" / "samples.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        edit(row)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_two_runs(folder: Path) -> list[Path]:
    """MLE, and conditional training with clearly lower scores."""
    both = {"n": 200, "scenarios": ("unconditional", "signatures")}
    return [
        write_run(folder / "mle", mean=0.0217, **both),
        write_run(folder / "conditional", "conditional", "conditional", mean=0.0118, noise=1, **both),
    ]


def write_seeds(folder: Path, objective: str = "mle", seeds: int = 3, **changes: Any) -> list[Path]:
    """Writes runs that differ in nothing but their seed."""
    return [
        write_config(
            write_run(
                folder / f"{objective}-{seed}", f"{objective}-{seed}", objective, noise=seed, **changes
            ),
            seed,
        )
        for seed in range(seeds)
    ]


def write_config(folder: Path, seed: int, **train: Any) -> Path:
    """Writes the configuration of a run."""
    config = {
        "run": {"name": folder.name, "folder": str(folder)},
        "objective": {"name": read(folder).run.objective},
        "train": {"seed": seed, "tokens": 5_000_000, **train},
        "evaluation": {"seed": 0},
    }
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    return folder


def write_attacks(folder: Path, score: float = 0.05, prompt: str = "def f(x):") -> Path:
    """Writes what `phf redteam` and `phf tamper` leave in a run's folder."""

    def around(value: float) -> Interval:
        return Interval(value, 0.9 * value, 1.1 * value)

    def reached(number: int, **more: Any) -> AttackRound:
        return AttackRound(best=around(score * (number + 2)), best_10=around(score * (number + 1)), **more)

    write(
        folder,
        RedteamResults(
            by_round=[
                reached(n, average=around(score), round=n, target_tokens=900.0 * (n + 1)) for n in range(4)
            ],
            by_tokens=[reached(n, target_tokens=180.0 * (n + 1)) for n in range(20)],
            best_prompts=[
                BestPrompt(prompt, score, around(score / 2), around(0.5), 0, n, 3, "mutation", "x=1")
                for n in range(10)
            ],
        ),
    )
    curve = [TamperPoint(tokens=1000 * n, loss=2.0, rate=around(0.1 * (n + 1))) for n in range(4)]
    write(folder, TamperResults(curves={"bad": curve, "benign": curve}))
    return folder
