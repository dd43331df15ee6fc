"""Reads and writes the files of a measurement: `results.json`, a parquet table, and a manifest of both.

The manifest records everything that decided the results, so that the same measurement is not repeated.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from phf.base.errors import ConfigError, PhfError
from phf.base.files import replacing, write_json
from phf.base.typed_json import from_json, to_json
from phf.config import EvaluationConfig, SegmenterConfig, decisive
from phf.evaluation.measures import MEASURES
from phf.evaluation.results import FORMAT, EvaluationResults, TamperResults

if TYPE_CHECKING:
    import pyarrow as pa

    from phf.evaluation.sample_scores import ScoredSample
    from phf.inference.generate import Sample
    from phf.model.model_folder import ModelFolder

log = logging.getLogger("phf")

R = TypeVar("R")

RESULTS, MANIFEST, SAMPLES = "results.json", "manifest.json", "samples.parquet"


def result_identity(
    source: ModelFolder,
    evaluation: EvaluationConfig,
    scorer_fingerprint: str,
    segmenter: SegmenterConfig,
    prompts: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Collects everything that decides the results, to tell whether results on disk are still valid."""
    files = sorted(path for path in source.weights.iterdir() if path.is_file())
    store = Path(source.facts.store) / MANIFEST if source.facts and source.facts.store else None
    identity = {
        "format": FORMAT,
        "phf": version("phf"),
        "model": {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files},
        "run": source.run and to_json(source.run),
        "evaluation": decisive(evaluation),
        "scorer": scorer_fingerprint,
        "segmenter": asdict(segmenter),
        "prompts": hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
        "store": hashlib.sha256(store.read_bytes()).hexdigest() if store and store.is_file() else None,
    }
    return cast("dict[str, Any]", json.loads(json.dumps(identity, default=str)))


def finished_results(output: Path, identity: dict[str, Any], cls: type[R], table: str = SAMPLES) -> R | None:
    """Returns the results on disk if measuring again would give the same ones; else `None`."""
    try:
        manifest = json.loads((output / MANIFEST).read_text(encoding="utf-8"))
        same = manifest.get("identity") == identity and (output / table).is_file()
        return read_results(output, cls) if same else None
    except (OSError, ValueError, PhfError):
        return None


def read_results(output: Path, cls: type[R], again: str = "measure again") -> R:
    """Reads the results in a folder, including results that an earlier version wrote.

    Args:
        output: The folder.
        cls: The class of the results.
        again: What to do if the results cannot be read, for the error message.

    Raises:
        PhfError: The results cannot be read.
    """
    path = output / RESULTS
    try:
        # NaN is not valid JSON, but earlier versions wrote it for unknown values.
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except (OSError, ValueError) as error:
        raise PhfError(f"{path}: cannot be read ({error}); {again}") from error
    if not isinstance(content, dict) or content.get("format") not in (1, FORMAT):
        raise PhfError(f"{path}: not results of format 1 or {FORMAT}; {again}")
    _upgrade(content)
    found = from_json(cls, content, path, again)
    if isinstance(found, EvaluationResults):
        parts = [found.measures, *(scenario.measures for scenario in found.scenarios.values())]
        type_measures(parts, found.measured_by, path, again)
    elif isinstance(found, TamperResults):
        parts = [point.measures for curve in found.curves.values() for point in curve]
        type_measures(parts, found.measured_by, path, again)
    return found


def type_measures(
    parts: Sequence[dict[str, Any]], measured_by: dict[str, str], where: Path, again: str = "measure again"
) -> None:
    """Converts results of measures, as read from JSON, to their classes.

    Results of a measure that can no longer be imported are dropped, with a warning.

    Args:
        parts: For each model or scenario, its results by name of the measure; changed in place.
        measured_by: Where `MEASURES` finds the class of each measure; a missing entry becomes the name.
        where: The file, for error messages.
        again: What to do if the results cannot be read, for the error message.

    Raises:
        PhfError: The results do not fit the measure.
    """
    for name in dict.fromkeys(name for part in parts for name in part):
        try:
            cls = MEASURES.find(measured_by.setdefault(name, name))
        except ConfigError as error:
            log.warning("%s: the results of %s are left out: %s", where, name, error)
            for part in parts:
                part.pop(name, None)
            continue
        for part in parts:
            if name in part:
                part[name] = from_json(cls.Results, part[name], f"{where}: {name}", again)


def write_results(
    output: Path, identity: Mapping[str, Any], results: Any, table: pa.Table, name: str = SAMPLES
) -> None:
    """Writes `results.json`, a table beside it, and, last, the manifest of both.

    Args:
        output: The folder; created if it does not exist.
        identity: Everything that decides the results, as `finished_results` compares it.
        results: A dataclass without NaN values.
        table: The table.
        name: The file name of the table.

    Raises:
        PhfError: The files cannot be written.
    """
    import pyarrow.parquet as pq

    manifest = {
        "identity": identity,
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("phf", "torch", "transformers")},
        },
        f"num_{name.partition('.')[0]}": table.num_rows,
    }
    (output / MANIFEST).unlink(missing_ok=True)
    with replacing(output / name) as temporary:
        pq.write_table(table, temporary)
    write_json(output / RESULTS, to_json(results))
    write_json(output / MANIFEST, manifest)


def sample_schema() -> pa.Schema:
    """The columns of `samples.parquet`."""
    import pyarrow as pa

    return pa.schema(
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
    """Converts a sample to a row of a file."""
    row = asdict(sample)
    del row["prompt_cut"]
    return row


def sample_table(
    scored: Mapping[str, Sequence[ScoredSample]],
    others: Mapping[str, Mapping[str, Sequence[ScoredSample]]],
    seed: int,
) -> pa.Table:
    """Builds the table of the samples of all scenarios.

    Args:
        scored: The samples of each scenario.
        others: The same samples with the scores of each other scorer, by scorer and then by scenario. These
            scores go to the columns `score_NAME` and `segment_scores_NAME`.
        seed: The seed that decided the samples.
    """
    import pyarrow as pa

    schema = sample_schema()
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


def _upgrade(content: dict[str, Any]) -> None:
    """Converts results that an earlier version wrote to the current form, in place."""
    run = content.get("run")
    if isinstance(run, dict) and "uses_scores" not in run and run.get("objective") is not None:
        run["uses_scores"] = run["objective"] != "mle"
    if content.get("format") != 1:
        return
    if "scenarios" not in content:  # results of an attack: their format is still number 1
        _upgrade_decoding(content.get("scenario") or {})
        for point in (point for curve in (content.get("curves") or {}).values() for point in curve):
            _upgrade_samples(point)
        attacker = content.get("attacker")
        if isinstance(attacker, dict) and (model := attacker.pop("model", None)):
            attacker["options"] = {"model": model}
        return
    content["format"] = FORMAT
    for scenario in (content["scenarios"] or {}).values():
        _upgrade_samples(scenario)
        _upgrade_decoding(scenario.get("decoding") or {})
    measures: dict[str, Any] = {
        name: content.pop(name, None) for name in ("heldout", "kl", "ranking", "code")
    }
    if heldout := measures["heldout"]:
        intervals = heldout.pop("intervals", {})
        heldout.setdefault("threshold", content.get("threshold"))  # it was always the evaluation's threshold
        for name in ("loss", "untagged", "aligned", "misaligned", "perplexity"):
            heldout[name] = {"value": heldout.get(name), **intervals.get(name, {})}
        for part in heldout.get("deciles") or []:
            part["loss"], part["perplexity"] = ({"value": part.get(k)} for k in ("loss", "perplexity"))
    content["measures"] = {name: found for name, found in measures.items() if found}


def _upgrade_samples(measured: dict[str, Any]) -> None:
    diversity = {name: {"value": measured.pop(name)} for name in _DIVERSITY if name in measured}
    if diversity:
        measured["measures"] = {"diversity": diversity}
    if isinstance(share := measured.get("finished"), int | float):
        measured["finished"] = {"value": share}


def _upgrade_decoding(decoding: dict[str, Any]) -> None:
    for name, option in (("guidance", "weight"), ("safe_beams", "beams")):
        if value := decoding.pop(name, None):
            decoding["decoder"] = {"name": name, "options": {option: value}}


_DIVERSITY = ("distinct_1", "distinct_2", "distinct_3", "entropy", "self_bleu")
