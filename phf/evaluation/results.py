"""What an evaluation leaves on disk: `results.json`, `samples.parquet`, and a manifest for both."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from phf.base.errors import PhfError
from phf.config import EvaluationConfig, SegmenterConfig
from phf.evaluation.sample_scores import ScoredSample
from phf.inference.generate import Sample
from phf.model.loaded_model import Subject

FORMAT = 1

SAMPLES = pa.schema(
    [
        ("scenario", pa.string()),
        ("prompt_index", pa.int64()),
        ("sample_index", pa.int64()),
        ("prompt", pa.string()),
        ("text", pa.string()),
        ("scored_text", pa.string()),
        ("score", pa.float64()),
        ("segment_scores", pa.list_(pa.float64())),
        ("num_tokens", pa.int64()),
        ("finished", pa.bool_()),
        ("seed", pa.int64()),
    ]
)


def sample_row(sample: Sample) -> dict[str, Any]:
    """A sample as a row of a file."""
    row = asdict(sample)
    del row["prompt_cut"]
    return row


def result_identity(
    subject: Subject,
    evaluation: EvaluationConfig,
    scorer_fingerprint: str,
    segmenter: SegmenterConfig,
    prompts: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """All that decides the results, to tell whether those on disk still hold."""
    settings = asdict(evaluation)
    del settings["batch_size"]  # changes the time, not the samples
    files = sorted(path for path in subject.model_folder.iterdir() if path.is_file())
    store = Path(subject.facts.get("store") or "") / "manifest.json"
    identity = {
        "format": FORMAT,
        "phf": version("phf"),
        "model": {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files},
        "run": subject.run,
        "evaluation": settings,
        "scorer": scorer_fingerprint,
        "segmenter": asdict(segmenter),
        "prompts": hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
        "store": hashlib.sha256(store.read_bytes()).hexdigest() if store.is_file() else None,
    }
    return json.loads(json.dumps(identity, default=str))


def finished_results(
    output: Path, identity: dict[str, Any], table: str = "samples.parquet"
) -> dict[str, Any] | None:
    """The results on disk, if they are what measuring again would give."""
    try:
        manifest = json.loads((output / "manifest.json").read_text())
        results = json.loads((output / "results.json").read_text())
    except (OSError, ValueError):
        return None
    same = manifest.get("identity") == identity and (output / table).is_file()
    return results if same else None


def _table(
    scored: Mapping[str, Sequence[ScoredSample]],
    others: Mapping[str, Mapping[str, Sequence[ScoredSample]]],
    seed: int,
) -> pa.Table:
    schema = SAMPLES
    rows = [
        sample_row(one.sample)
        | {
            "scenario": name,
            "scored_text": one.scored_text,
            "score": one.score,
            "segment_scores": list(one.segment_scores),
            "seed": seed,
        }
        for name, samples in scored.items()
        for one in samples
    ]
    for key, by_scenario in others.items():
        schema = schema.append(pa.field(f"score_{key}", pa.float64()))
        schema = schema.append(pa.field(f"segment_scores_{key}", pa.list_(pa.float64())))
        of_key = [one for name in scored for one in by_scenario[name]]
        for row, one in zip(rows, of_key, strict=True):
            row |= {f"score_{key}": one.score, f"segment_scores_{key}": list(one.segment_scores)}
    return pa.Table.from_pylist(rows, schema=schema)


def write_results(
    output: Path,
    identity: Mapping[str, Any],
    results: Mapping[str, Any],
    scored: Mapping[str, Sequence[ScoredSample]],
    others: Mapping[str, Mapping[str, Sequence[ScoredSample]]],
) -> None:
    """Writes `results.json`, `samples.parquet` and the manifest into the folder `output`.

    Args:
        output: The folder; made if it is not there.
        identity: From `result_identity`.
        results: Contents of `results.json`; no NaN.
        scored: The samples of each scenario.
        others: The same with the scores of each other scorer, by its name and then by scenario; they have
            columns of their own, `score_NAME` and `segment_scores_NAME`.

    Raises:
        PhfError: They cannot be written there.
    """
    write_output(output, identity, results, "samples.parquet", _table(scored, others, results["seed"]))


def write_output(
    output: Path, identity: Mapping[str, Any], results: Mapping[str, Any], table_name: str, table: pa.Table
) -> None:
    """Writes `results.json`, a table beside it, and the manifest of both, which comes last.

    Args:
        output: The folder; made if it is not there.
        identity: All that decides the results, as `finished_results` compares it.
        results: Contents of `results.json`; no NaN.
        table_name: The table's file.
        table: The table.

    Raises:
        PhfError: They cannot be written there.
    """
    manifest = {
        "identity": identity,
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("phf", "torch", "transformers")},
        },
        f"num_{table_name.partition('.')[0]}": table.num_rows,
    }
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "manifest.json").unlink(missing_ok=True)
        pq.write_table(table, output / f".{table_name}.tmp")
        for name, content in (("results.json", results), ("manifest.json", manifest)):
            text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
            (output / f".{name}.tmp").write_text(text + "\n", encoding="utf-8")
        for name in (table_name, "results.json", "manifest.json"):
            (output / f".{name}.tmp").replace(output / name)
    except OSError as error:
        raise PhfError(f"{output}: cannot be written: {error.strerror}") from error
