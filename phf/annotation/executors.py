"""Annotation as independent tasks, by datatrove's executors: processes of one machine, a SLURM array, Ray.

A task scores one part of the shards as `annotate` does. The sidecars alone tell what is done: every call
gives datatrove a new folder for its logs, and a task for each part in which a sidecar is missing, so that its
own marks of what is completed are never relied on.

This module is imported only where such an executor is configured: it needs the extra `datatrove`.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from phf.annotation.manifest import summarize
from phf.annotation.pool import num_cores
from phf.annotation.sidecars import sidecar_path
from phf.annotation.tasks import Part, end_with_parent
from phf.base.errors import ConfigError, PhfError
from phf.config import Config
from phf.documents.documents import Shard
from phf.documents.fingerprints import outputs
from phf.documents.shards import list_shards
from scorers.registry import scorer_class

log = logging.getLogger("phf")

_CLASSES = {"local": "LocalPipelineExecutor", "slurm": "SlurmPipelineExecutor", "ray": "RayPipelineExecutor"}
# Set here, or of no use: a second node would score the same shards, the tasks are what is missing, and Python
# objects do not come from YAML.
_NOT_OPTIONS = {
    "pipeline", "tasks", "logging_dir", "skip_completed", "depends", "job_id_retriever", "nodes_per_task",
    "local_tasks", "local_rank_offset",
}  # fmt: skip


def annotate_in_tasks(config: Config) -> None:
    """Scores every segment of the configured documents in `annotations.parts` tasks.

    `local` and `ray` wait for the tasks; `slurm` submits them, and waits only with `sbatch --wait`.

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
        scorer_class(scorer.name)
    missing = {shard.name for shard in _missing(config, shards)}
    parts = [
        part
        for part in range(settings.parts)
        if any(shard.name in missing for shard in shards[part :: settings.parts])
    ] or [0]  # it looks whether what is there fits the configuration
    logs = Path(settings.path).resolve() / ".tasks" / f"{get_timestamp()}_{get_random_str()}"
    executor = _executor(config, parts, logs)
    if name == "local":
        _run_here(executor)
    elif name == "slurm":
        _submit(executor, settings.parts, logs)
        if "wait" not in (settings.executor.options.get("sbatch_args") or {}):
            return
    else:
        _run_on_ray(executor)
    missing = {shard.name for shard in _missing(config, shards)}
    if missing:
        raise PhfError(
            f"{len(missing)} of {len(shards)} shards are not annotated; {logs}/logs tells why, and the same "
            "command goes on with them"
        )
    for key in config.scorers():
        folder = Path(settings.path) / key
        summarize(folder, json.loads((folder / "manifest.json").read_text(encoding="utf-8")))


def _missing(config: Config, shards: Sequence[Shard]) -> list[Shard]:
    """Shards without a sidecar of each scorer."""
    folders = [Path(config.annotations.path) / key for key in config.scorers()]
    return [s for s in shards if not all(sidecar_path(folder, s.name).is_file() for folder in folders)]


def _executor(config: Config, parts: Sequence[int], logs: Path) -> Any:
    """Builds datatrove's executor.

    Raises:
        ConfigError: It has no such option, needs another, or does not take the value.
    """
    name, options = config.annotations.executor.name, dict(config.annotations.executor.options)
    module = importlib.import_module(f"datatrove.executor.{name}")
    cls = getattr(module, _CLASSES[name])
    _check_options(name, cls, options)
    processes, workers = config.annotations.processes, None
    if name == "local":
        workers = options.setdefault("workers", min(processes or num_cores(), len(parts)))
        processes = 1
    elif not processes and not options.get("gpus_per_task"):
        processes = options.get("cpus_per_task", 1)
    if name == "slurm":
        options = _slurm_options(options, logs)
    try:
        return cls(
            [Part(config, parts, logs, processes, workers)],
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
    """The options with what lets a job run as this process does."""
    # YAML reads 24:00:00 as a number of seconds, and SLURM that number as minutes.
    if not isinstance(options["time"], str):
        raise ConfigError(
            f"annotations.executor.options.time={options['time']}: not a text such as '24:00:00' "
            "(YAML needs the quotes)"
        )
    if shlex.quote(str(logs)) != str(logs):
        raise ConfigError(f"annotations.path: {logs}: no spaces or special characters with slurm")
    cpus = str(options.get("cpus_per_task", 1))
    # datatrove's own default is a QOS that not every cluster has; a job that is requeued would empty its log;
    # a step has one CPU, whatever its job has.
    options = {"qos": None, "job_name": "phf-annotate", **options}
    options["sbatch_args"] = {"open-mode": "append", **(options.get("sbatch_args") or {})}
    options["srun_args"] = {"cpus-per-task": cpus, **(options.get("srun_args") or {})}
    if not any(options.get(key) for key in ("env_command", "condaenv", "venv_path")):
        options["env_command"] = f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"'
    return options


def _run_here(executor: Any) -> None:
    """Runs the tasks in processes of this machine.

    Raises:
        PhfError: A task failed, or its process was killed.
    """
    import multiprocess

    done, killed = threading.Event(), threading.Event()

    def watch() -> None:
        # A pool replaces a process that was killed, and waits for its task for ever.
        seen: set[int] = set()
        while not done.wait(0.2):
            seen |= {child.pid for child in multiprocess.active_children() if "PoolWorker" in child.name}
            if len(seen) > executor.workers:
                killed.set()
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                return

    def forked() -> None:  # of what datatrove forks, the manager of its queue would stay for ever
        if not done.is_set():
            threading.Thread(target=end_with_parent, args=(main,), daemon=True).start()

    main = os.getpid()
    os.register_at_fork(after_in_child=forked)
    # Not SIGINT, which a command in the background ignores.
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    if executor.workers > 1:
        threading.Thread(target=watch, daemon=True).start()
    try:
        executor.run()
    except KeyboardInterrupt:
        if not killed.is_set():
            raise
        raise PhfError(
            "a scoring process was killed (out of memory?); the same command goes on from here, with fewer "
            "annotations.processes if need be"
        ) from None
    finally:
        done.set()
        signal.signal(signal.SIGUSR1, before)


def _submit(executor: Any, num_parts: int, logs: Path) -> None:
    """Submits the tasks as a job array.

    Raises:
        PhfError: There is no SLURM, it refuses the job, or the job failed (`sbatch --wait`).
    """
    # A job that merges what datatrove measured, and that stays in the queue for ever if a task fails.
    executor.launch_merge_stats = _nothing
    try:
        executor.launch_job()  # and not run(), which takes a job that it is called in for its own
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
    """Runs the tasks on the Ray cluster of RAY_ADDRESS or of this machine, or on one started here."""
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
