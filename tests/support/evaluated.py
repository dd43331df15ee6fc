"""Evaluated runs as `phf pretrain`, `evaluate`, `redteam` and `tamper` leave them, made up for reports."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DECODING = {"max_new_tokens": 64, "temperature": 0.7, "top_p": 0.9, "top_k": None, "emit_tags": "none"}
LINES = [
    "def area(width, height):\n",
    "    return width*height\n",
    "\tx=1\n",
    "\n",
    "class A :\n",
    "    pass # no\n",
]


def write_run(
    folder: Path,
    name: str = "mle",
    objective: str | None = "mle",
    mean: float = 0.02,
    scenarios: tuple[str, ...] = ("unconditional",),
    n: int = 48,
    tokens: int | None = 5_000_000,
    threshold: float = 0.0,
    seed: int = 0,
    fingerprint: str = "0123456789abcdef",
    noise: int = 0,
    **changes: object,
) -> Path:
    """Writes what `phf pretrain` and `phf evaluate` leave in a run's folder."""
    generator = np.random.default_rng(noise)
    rows, measured = [], {}
    for scenario in scenarios:
        num_prompts = 1 if scenario == "unconditional" else n // 4
        scores = np.round(generator.exponential(mean, n) * (generator.random(n) < 0.8), 6)
        for index, score in enumerate(scores):
            prompt_index, sample_index = index % num_prompts, index // num_prompts
            text = "".join(generator.choice(LINES, 12))
            prompt = "" if scenario == "unconditional" else f"def f{prompt_index}(a, b):\n"
            rows.append(
                {
                    "scenario": scenario, "prompt_index": prompt_index, "sample_index": sample_index,
                    "prompt": prompt, "text": text, "scored_text": prompt + text, "score": float(score),
                    "segment_scores": [float(score)] * 12, "num_tokens": 60, "finished": bool(index % 2),
                    "seed": seed,
                }
            )  # fmt: skip
        half = 2 * scores.std() / np.sqrt(n)
        measured[scenario] = {
            "tag": "good" if objective == "conditional" else "none", "n": n, "num_prompts": num_prompts,
            "mean_score": {"value": scores.mean(), "low": scores.mean() - half, "high": scores.mean() + half},
            "rate": {"value": (scores > 0).mean(), "low": 0.7, "high": 0.9},
            "expected_max": {"value": scores.max(), "low": 0.8 * scores.max(), "high": 1.1 * scores.max(),
                             "k": 25},
            "segment_rate": {"value": 0.3, "low": 0.28, "high": 0.33},
            "length": {"value": 58.2, "low": 57.0, "high": 59.4},
            "distinct_1": 0.12, "distinct_2": 0.41, "distinct_3": 0.66, "entropy": 7.9, "self_bleu": 0.44,
            "unscored": 0, "decoding": dict(DECODING),
        }  # fmt: skip
    results = {
        "format": 1,
        "run": {"name": name, "folder": str(folder), "objective": objective, "tokens": tokens,
                "wall_seconds": 243.7, "parameters": 932_352},
        "scorer": {"name": "pep8", "version": "1", "fingerprint": fingerprint,
                   "measures": "violations a character", "options": {}},
        "scorer_differs": False, "threshold": threshold, "confidence": 0.95, "seed": seed,
        "heldout": {"loss": 1.9 + mean, "perplexity": 6.8, "aligned": 1.8, "misaligned": 2.3,
                    "tokens": 131_072, "untagged": 1.95},
        "scenarios": measured, "samples_per_second": 31.5,
    }  # fmt: skip
    write_results(folder, results | changes)
    pq.write_table(pa.Table.from_pylist(rows), folder / "evaluation" / "samples.parquet")
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


def write_results(folder: Path, results: dict, part: str = "evaluation") -> None:
    (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / part / "results.json").write_text(json.dumps(results))


def rewrite_samples(folder: Path, edit) -> None:
    path = folder / "evaluation" / "samples.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        edit(row)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_two_runs(folder: Path) -> list[Path]:
    both = {"n": 200, "scenarios": ("unconditional", "signatures")}
    return [
        write_run(folder / "mle", mean=0.0217, **both),
        write_run(folder / "conditional", "conditional", "conditional", mean=0.0118, noise=1, **both),
    ]


def write_seeds(folder: Path, objective: str = "mle", seeds: int = 3, **changes: object) -> list[Path]:
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


def write_config(folder: Path, seed: int, **train: object) -> Path:
    """Writes the configuration of a run."""
    objective = json.loads((folder / "evaluation" / "results.json").read_text())["run"]["objective"]
    config = {
        "run": {"name": folder.name, "folder": str(folder)},
        "objective": {"name": objective},
        "train": {"seed": seed, "tokens": 5_000_000, **train},
        "evaluation": {"seed": 0},
    }
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    return folder


def write_attacks(folder: Path, score: float = 0.05, prompt: str = "def f(x):") -> Path:
    """Writes what `phf redteam` and `phf tamper` leave in a run's folder."""

    def around(value: float) -> dict[str, float]:
        return {"value": value, "low": 0.9 * value, "high": 1.1 * value}

    def point(number: int) -> dict[str, object]:
        return {"best": around(score * (number + 2)), "best_10": around(score * (number + 1))}

    write_results(
        folder,
        {
            "format": 1,
            "by_round": [
                {"round": n, **point(n), "average": around(score), "target_tokens": 900.0 * (n + 1)}
                for n in range(4)
            ],
            "by_tokens": [{"target_tokens": 180 * (n + 1), **point(n)} for n in range(20)],
            "best_prompts": [
                {"trial": 0, "number": n, "round": 3, "origin": "mutation", "prompt": prompt, "score": score,
                 "fresh_score": around(score / 2), "fresh_rate": around(0.5), "worst_text": "x=1"}
                for n in range(10)
            ],
        },
        "redteam",
    )  # fmt: skip
    curve = [{"tokens": 1000 * n, "loss": 2.0, "rate": around(0.1 * (n + 1))} for n in range(4)]
    write_results(folder, {"format": 1, "curves": {"bad": curve, "benign": curve}}, "tamper")
    return folder
