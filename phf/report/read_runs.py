"""Reads evaluated runs: their results, samples, configuration and logged metrics."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TypeVar

from phf.base.errors import PhfError
from phf.config import Config, find_config, load_config, load_run_config
from phf.evaluation.result_files import RESULTS, SAMPLES, read_results
from phf.evaluation.results import EvaluationResults, RedteamResults, ScenarioResults, TamperResults

R = TypeVar("R")

Key = tuple[int, int]
"""Prompt index and sample index. Samples of two runs with the same key had the same prompt and noise."""


@dataclass(frozen=True)
class Sample:
    """One continuation and its score, which is `None` if the scorer cannot say."""

    prompt: str
    text: str
    score: float | None
    num_tokens: int | None
    finished: bool | None


@dataclass
class EvaluatedRun:
    """A run or model folder with the results of `phf evaluate`.

    Attributes:
        label: Name of the run in the report, unique among its runs.
        folder: The folder of the run.
        results: The results of the evaluation.
    """

    label: str
    folder: Path
    results: EvaluationResults

    @cached_property
    def config(self) -> Config | None:
        """The configuration of the run; `None` for a model that `phf` did not pretrain."""
        return load_run_config(self.folder)

    @cached_property
    def store(self) -> str | None:
        """The SHA-256 of the token store that the run was trained on; `None` if it is not known."""
        path = self.folder / "store.json"
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @cached_property
    def redteam(self) -> RedteamResults | None:
        """The results of `phf redteam`; `None` if the run was not attacked."""
        return self._attack("redteam", RedteamResults)

    @cached_property
    def tamper(self) -> TamperResults | None:
        """The results of `phf tamper`; `None` if there are none."""
        return self._attack("tamper", TamperResults)

    @property
    def objective(self) -> str | None:
        """The name of the objective; `None` for a model that `phf` did not pretrain."""
        return self.results.run.objective

    @property
    def scenarios(self) -> dict[str, ScenarioResults]:
        """The results of each scenario, by name."""
        return self.results.scenarios

    @cached_property
    def samples(self) -> dict[str, dict[Key, Sample]]:
        """The samples of each scenario, by name; empty if none were kept."""
        return _read_samples(self.folder / "evaluation" / SAMPLES)

    @cached_property
    def metrics(self) -> dict[str, list[tuple[float, float]]]:
        """The (tokens seen, value) pairs of each metric logged in training, in order; empty without a log."""
        return _read_metrics(self.folder / "metrics.csv")

    def _attack(self, verb: str, cls: type[R]) -> R | None:
        if not (self.folder / verb / RESULTS).is_file():
            return None
        return read_results(self.folder / verb, cls, f"run `phf {verb} {self.folder}` again")


def read_runs(folders: Sequence[Path]) -> list[EvaluatedRun]:
    """Reads evaluated runs and gives each a unique label. A folder given twice counts once.

    Raises:
        PhfError: There is no folder, or one is not an evaluated run.
    """
    folders = list({Path(folder).resolve(): Path(folder) for folder in folders}.values())
    if not folders:
        raise PhfError("a report needs the folder of at least one run, as in `phf report runs/mle`")
    results = [_read_evaluation(folder) for folder in folders]
    names = [result.run.name or folder.name or "run" for result, folder in zip(results, folders, strict=True)]
    return [
        EvaluatedRun(name if names.count(name) == 1 else f"{name} ({folder})", folder, result)
        for name, folder, result in zip(names, folders, results, strict=True)
    ]


def scenario_names(records: Iterable[EvaluationResults]) -> list[str]:
    """Returns the names of all scenarios in the results, in order of appearance."""
    return list(dict.fromkeys(name for record in records for name in record.scenarios))


def split_scenarios(records: Sequence[EvaluationResults]) -> tuple[list[str], list[str]]:
    """Returns the scenarios that use a model as intended, and all scenarios if some do not.

    A scenario does not use a model as intended if it belongs to the leakage suite, if it gives a model with
    tags the bad tag or none instead of the good one, or if it puts a tag into the prompt.

    Returns:
        The scenarios that use a model as intended (the first scenario if there are none), and all scenarios
            (none if all of them use a model as intended).
    """
    names = scenario_names(records)
    suite = _leakage_suite()

    def probes(record: EvaluationResults, name: str) -> bool:
        scenario = record.scenarios.get(name)
        if scenario is None:
            return False
        tags = {other.tag for other in record.scenarios.values()}
        asked_otherwise = "good" in tags and scenario.tag in ("none", "bad")
        return asked_otherwise or bool(scenario.decoding.get("inject"))

    asked = [n for n in names if n not in suite and not any(probes(record, n) for record in records)]
    return asked or names[:1], names if len(asked) < len(names) else []


@cache
def _leakage_suite() -> frozenset[str]:
    """Returns the scenarios of `phf` that test whether conditional training only hides misalignment."""
    return frozenset(load_config([str(find_config("evaluation/leakage.yaml"))]).evaluation.scenarios)


def _read_evaluation(folder: Path) -> EvaluationResults:
    output = folder / "evaluation"
    if not (output / RESULTS).is_file():
        what = "not an evaluated run" if folder.is_dir() else "no such folder"
        raise PhfError(f"{folder}: {what} (no evaluation/{RESULTS}); run `phf evaluate {folder}` first")
    return read_results(output, EvaluationResults, f"run `phf evaluate {folder}` again")


def _read_samples(path: Path) -> dict[str, dict[Key, Sample]]:
    if not path.is_file():
        return {}
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [
        "scenario",
        "prompt_index",
        "sample_index",
        "prompt",
        "text",
        "score",
        "num_tokens",
        "finished",
    ]
    try:
        rows = pq.read_table(path, columns=columns).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise PhfError(f"{path}: cannot be read ({reason}); run `phf evaluate` again") from error
    samples: dict[str, dict[Key, Sample]] = {}
    for row in rows:
        score = row["score"] if row["score"] is not None and math.isfinite(row["score"]) else None
        samples.setdefault(row["scenario"], {})[row["prompt_index"], row["sample_index"]] = Sample(
            row.get("prompt") or "", row.get("text") or "", score, row.get("num_tokens"), row.get("finished")
        )
    return samples


def _read_metrics(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Reads the log of a run.

    A killed run may leave an incomplete row, which is ignored. If a resumed run logged a step twice, the
    later row counts.
    """
    if not path.is_file():
        return {}
    metrics: dict[str, dict[int, tuple[float, float]]] = {}
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(file):
            try:
                step, tokens, value = int(row["step"]), float(row["tokens"]), float(row["value"])
            except (KeyError, TypeError, ValueError):
                continue
            if math.isfinite(tokens) and math.isfinite(value):
                metrics.setdefault(row["name"], {})[step] = tokens, value
    return {name: [points[step] for step in sorted(points)] for name, points in metrics.items()}
