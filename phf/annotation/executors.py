"""Divides annotation into independent tasks and runs them with datatrove, on SLURM or Ray.

A task scores one part of the shards as `annotate` does. Only the sidecars tell which shards are done. Every
call gives datatrove a new log folder, and a task for each part in which a sidecar is missing. Datatrove's own
marks of completed tasks are therefore never used.

This module is imported only if such an executor is configured, because it needs the extra `datatrove`.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import logging
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from phf.annotation.annotations import Annotations
from phf.annotation.tasks import Part
from phf.base.errors import ConfigError, PhfError
from phf.config import Config
from phf.documents.fingerprints import outputs
from phf.documents.shards import Shard, list_shards
from scorers.registry import SCORERS

log = logging.getLogger("phf")

_CLASSES = {"slurm": "SlurmPipelineExecutor", "ray": "RayPipelineExecutor"}
# Options that are set here or are of no use: a second node would score the same shards, there is a task for
# each missing part, and Python objects cannot come from YAML.
_NOT_OPTIONS = {
    "pipeline", "tasks", "logging_dir", "skip_completed", "depends", "job_id_retriever", "nodes_per_task",
}  # fmt: skip


def annotate_in_tasks(config: Config) -> None:
    """Scores every segment of the configured documents in `annotations.parts` tasks.

    `ray` waits for the tasks. `slurm` submits them, and waits only with `sbatch --wait`.

    Args:
        config: As for `annotate`, with `annotations.executor`.

    Raises:
        ConfigError: There are no documents, or the executor has no such option.
        PhfError: A task failed, or could not be started.
        scorers.ScorerError: There is no such scorer.
    """
    from datatrove.utils.logging import get_random_str, get_timestamp

    name, settings = config.annotations.executor.name, config.annotations
    shards = list_shards(config.documents, leave_out=outputs(config))
    for scorer in config.scorers().values():
        SCORERS.find(scorer.name)
    missing = {shard.name for shard in _missing(config, shards)}
    parts = [
        part
        for part in range(settings.parts)
        if any(shard.name in missing for shard in shards[part :: settings.parts])
    ] or [0]  # one task checks that the existing annotations fit the configuration
    logs = Path(settings.path).resolve() / ".tasks" / f"{get_timestamp()}_{get_random_str()}"
    executor = _executor(config, parts, logs)
    if name == "slurm":
        _submit(executor, settings.parts, logs)
        if "wait" not in (settings.executor.options.get("sbatch_args") or {}):
            return
    else:
        _run_on_ray(executor)
    missing = {shard.name for shard in _missing(config, shards)}
    if missing:
        raise PhfError(
            f"{len(missing)} of {len(shards)} shards are not annotated; see {logs}/logs for the reason; the "
            "same command goes on with them"
        )
    for one in _all_annotations(config):
        one.summarize()


def _missing(config: Config, shards: Sequence[Shard]) -> list[Shard]:
    """Returns the shards that at least one scorer has not annotated."""
    every = _all_annotations(config)
    return [s for s in shards if not all(one.is_done(s.name) for one in every)]


def _all_annotations(config: Config) -> list[Annotations]:
    return [Annotations(Path(config.annotations.path) / key) for key in config.scorers()]


def _executor(config: Config, parts: Sequence[int], logs: Path) -> Any:
    """Builds datatrove's executor.

    Raises:
        ConfigError: An option is unknown or missing, or its value is not accepted.
    """
    name, options = config.annotations.executor.name, dict(config.annotations.executor.options)
    module = importlib.import_module(f"datatrove.executor.{name}")
    cls = getattr(module, _CLASSES[name])
    _check_options(name, cls, options)
    processes = config.annotations.processes
    if not processes and not options.get("gpus_per_task"):
        processes = options.get("cpus_per_task", 1)
    if name == "slurm":
        options = _slurm_options(options, logs)
    try:
        return cls(
            [Part(config, parts, logs, processes)],
            tasks=len(parts),
            logging_dir=str(logs),
            skip_completed=False,
            **options,
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"annotations.executor.options: {str(error).partition(chr(10))[0]}") from error


def _check_options(name: str, cls: type, options: Mapping[str, Any]) -> None:
    parameters = {k: p for k, p in inspect.signature(cls).parameters.items() if k not in _NOT_OPTIONS}
    for option in options:
        if option not in parameters:
            nearest = difflib.get_close_matches(option, parameters, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"it has {', '.join(parameters)}"
            raise ConfigError(f"annotations.executor.options: {name} takes no option {option!r} here; {hint}")
    needed = [k for k, p in parameters.items() if p.default is p.empty and k not in options]
    if needed:
        raise ConfigError(f"annotations.executor.options: {name} needs {' and '.join(needed)}")


def _slurm_options(options: dict[str, Any], logs: Path) -> dict[str, Any]:
    """Adds the options that let a job run in the environment of this process."""
    # YAML reads 24:00:00 without quotes as a number of seconds, and SLURM reads that number as minutes.
    if not isinstance(options["time"], str):
        raise ConfigError(
            f"annotations.executor.options.time={options['time']}: not a text such as '24:00:00' "
            "(YAML needs the quotes)"
        )
    if shlex.quote(str(logs)) != str(logs):
        raise ConfigError(f"annotations.path: {logs}: no spaces or special characters with slurm")
    cpus = str(options.get("cpus_per_task", 1))
    # Not every cluster has the QOS that datatrove sets by default. Without `open-mode`, a requeued job would
    # empty its log. Without `cpus-per-task` for srun, a step has one CPU, whatever its job has.
    options = {"qos": None, "job_name": "phf-annotate", **options}
    options["sbatch_args"] = {"open-mode": "append", **(options.get("sbatch_args") or {})}
    options["srun_args"] = {"cpus-per-task": cpus, **(options.get("srun_args") or {})}
    if not any(options.get(key) for key in ("env_command", "condaenv", "venv_path")):
        options["env_command"] = f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"'
    return options


def _submit(executor: Any, num_parts: int, logs: Path) -> None:
    """Submits the tasks as a job array.

    Raises:
        PhfError: SLURM is not installed, it refuses the job, or the job failed (`sbatch --wait`).
    """
    # Without this, datatrove submits a second job to merge its statistics. If a task fails, that job stays in
    # the queue forever.
    executor.launch_merge_stats = _nothing
    try:
        executor.launch_job()  # inside a SLURM job, run() would take that job for its own
    except FileNotFoundError as error:
        raise PhfError(f"annotations.executor.name=slurm: no {error.filename} on this machine") from error
    except subprocess.CalledProcessError as error:
        raise PhfError(f"sbatch refused the job, or with --wait the job failed; logs: {logs}") from error
    log.info(
        "SLURM job %s: %d of %d parts; logs: %s; once it has ended, the same command submits what is missing",
        executor.job_id, executor.tasks, num_parts, logs,
    )  # fmt: skip


def _nothing() -> None:
    pass


def _run_on_ray(executor: Any) -> None:
    """Runs the tasks on the Ray cluster of RAY_ADDRESS or of this machine; starts one if there is none."""
    try:
        import ray
    except ImportError as error:
        raise PhfError(
            "annotations.executor.name=ray needs ray, which is not installed: pip install 'phf[ray]'"
        ) from error
    mine = not ray.is_initialized()
    if mine:
        ray.init(logging_level=logging.WARNING)
    try:
        executor.run()
    finally:
        if mine:
            ray.shutdown()
