"""An evaluated run as the report reads it: its results, its samples and its metrics."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from phf.base.errors import PhfError
from phf.config import find_config

Key = tuple[int, int]
"""Prompt index and sample index; samples of two runs with one key had the same prompt and noise."""


@dataclass(frozen=True)
class Sample:
    """One continuation and its score (`None`: the scorer cannot say)."""

    prompt: str
    text: str
    score: float | None
    num_tokens: int | None
    finished: bool | None


@dataclass
class EvaluatedRun:
    """What `phf evaluate` left in a folder.

    Attributes:
        label: Names the run in the report; no other run of the report has it.
        folder: Where it lies.
        results: Its `evaluation/results.json`.
    """

    label: str
    folder: Path
    results: dict[str, Any]

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """The run's `config.yaml`; `None` for a model that was not pretrained here."""
        return _read_config(self.folder / "config.yaml")

    @cached_property
    def redteam(self) -> dict[str, Any] | None:
        """What `phf redteam` found; `None` if the run was not attacked."""
        return _read_attack(self.folder, "redteam")

    @cached_property
    def tamper(self) -> dict[str, Any] | None:
        """What `phf tamper` measured; `None` if it did not."""
        return _read_attack(self.folder, "tamper")

    @property
    def record(self) -> dict[str, Any]:
        """All that the report says of the run: its results, its label, and what attacks found."""
        return {**self.results, "label": self.label, "redteam": self.redteam, "tamper": self.tamper}

    @property
    def objective(self) -> str | None:
        """The objective's name; `None` for a model that was not pretrained here."""
        return lookup(self.results, "run", "objective")

    @property
    def scenarios(self) -> dict[str, dict[str, Any]]:
        """The measurements of each scenario, by its name."""
        return self.results.get("scenarios") or {}

    @cached_property
    def samples(self) -> dict[str, dict[Key, Sample]]:
        """The samples of each scenario; empty if none were kept."""
        return _read_samples(self.folder / "evaluation" / "samples.parquet")

    @cached_property
    def metrics(self) -> dict[str, list[tuple[float, float]]]:
        """For each metric logged in training its (tokens seen, value) in order; empty if there is no log."""
        return _read_metrics(self.folder / "metrics.csv")


def read_runs(folders: Sequence[Path]) -> list[EvaluatedRun]:
    """Reads evaluated runs, and gives each a label of its own.

    Raises:
        PhfError: There is no folder, or one is not an evaluated run.
    """
    folders = list({Path(folder).resolve(): Path(folder) for folder in folders}.values())
    if not folders:
        raise PhfError("a report needs the folder of at least one run; give it as in `phf report runs/mle`")
    results = [_read_results(folder) for folder in folders]
    names = [
        lookup(result, "run", "name") or folder.name or "run"
        for result, folder in zip(results, folders, strict=True)
    ]
    return [
        EvaluatedRun(name if names.count(name) == 1 else f"{name} ({folder})", folder, result)
        for name, folder, result in zip(names, folders, results, strict=True)
    ]


def scenario_names(runs: Iterable[EvaluatedRun]) -> list[str]:
    """Every scenario that some run has, in order of appearance."""
    return list(dict.fromkeys(name for run in runs for name in run.scenarios))


def lookup(node: Any, *path: str) -> Any:
    """The value under nested keys; `None` where one is missing, null or not a number that exists (NaN)."""
    for key in path:
        node = node.get(key) if isinstance(node, dict) else None
    return None if isinstance(node, float) and not math.isfinite(node) else node


def split_scenarios(records: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """The scenarios that ask a model as it is meant to be asked, and all of them if some do not.

    Those that do not are the leakage suite, and others that give a model with tags another one than the good
    one or put a tag into the prompt.
    """
    names = list(dict.fromkeys(name for record in records for name in record.get("scenarios") or {}))
    suite = _leakage_suite()

    def probes(record: dict[str, Any], name: str) -> bool:
        tags = {lookup(record, "scenarios", other, "tag") for other in names}
        asked_otherwise = "good" in tags and lookup(record, "scenarios", name, "tag") in ("none", "bad")
        return asked_otherwise or bool(lookup(record, "scenarios", name, "decoding", "inject"))

    asked = [n for n in names if n not in suite and not any(probes(record, n) for record in records)]
    return asked or names[:1], names if len(asked) < len(names) else []


@cache
def _leakage_suite() -> frozenset[str]:
    """The scenarios that come with `phf` to find out what conditional training only hides."""
    import yaml

    path = find_config("evaluation/leakage.yaml")
    return frozenset(yaml.safe_load(path.read_text(encoding="utf-8"))["evaluation"]["scenarios"])


def ranking(run: dict[str, Any], kind: str) -> Any:
    """The ranking accuracy of a model as it is meant to be used: with the good tag, if it has tags."""
    found = lookup(run, "ranking", "good_tag", kind)
    return lookup(run, "ranking", "no_tag", kind) if found is None else found


def decile_losses(run: dict[str, Any]) -> dict[str, tuple[float, Any]]:
    """The loss of each part of the held-out text, with the middle of the deciles that it is."""
    losses = {}
    for part in lookup(run, "heldout", "deciles") or []:
        if numbers := lookup(part, "deciles"):
            span = f"{numbers[0]}\u2013{numbers[-1]}" if len(numbers) > 1 else f"{numbers[0]}"
            losses[span] = (numbers[0] + numbers[-1]) / 2, lookup(part, "loss")
    return losses


def _read_results(folder: Path, verb: str = "evaluate", part: str = "evaluation") -> dict[str, Any]:
    path = folder / part / "results.json"
    try:
        text = path.read_text(encoding="utf-8")
        results = json.loads(text, parse_constant=lambda _: None)  # NaN is no JSON
    except (FileNotFoundError, NotADirectoryError):
        what = "not an evaluated run" if folder.is_dir() else "no such folder"
        raise PhfError(
            f"{folder}: {what} (no {part}/results.json); run `phf {verb} {folder}` first"
        ) from None
    except (OSError, ValueError) as error:
        raise PhfError(f"{path}: cannot be read ({error}); run `phf {verb} {folder}` again") from error
    if not isinstance(results, dict) or results.get("format") != 1:
        raise PhfError(f"{path}: not results of format 1; run `phf {verb} {folder}` again")
    return results


def _read_attack(folder: Path, verb: str) -> dict[str, Any] | None:
    there = (folder / verb / "results.json").is_file()
    return _read_results(folder, verb, part=verb) if there else None


def _read_config(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    import yaml

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).partition("\n")[0]
        raise PhfError(f"{path}: cannot be read ({reason}); restore it, or move it away") from error
    return config if isinstance(config, dict) else None


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
        score = lookup(row, "score")
        samples.setdefault(row["scenario"], {})[row["prompt_index"], row["sample_index"]] = Sample(
            row.get("prompt") or "", row.get("text") or "", score, row.get("num_tokens"), row.get("finished")
        )
    return samples


def _read_metrics(path: Path) -> dict[str, list[tuple[float, float]]]:
    """A killed run may have left half a row; a resumed one logs a step twice: the later row holds."""
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
