"""The command line: each verb is a thin call into the library."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from phf.arguments import parse
from phf.base.errors import ConfigError, PhfError
from phf.config import Config, find_config, load_config, to_yaml
from scorers.base import ScorerError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb and returns its exit code: 0 done, 1 failed, 2 wrong usage or configuration, 75 requeue."""
    arguments = parse(argv)
    _set_up_logging()
    # Threads that spin while they wait lose most of their time on a shared machine: measured 6 times the
    # tokens a second with another process beside it. It must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return _VERBS[arguments.verb](arguments) or 0
    except (PhfError, ScorerError) as error:
        if arguments.debug:
            raise
        print(f"phf {arguments.name}: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, PhfError) else ConfigError.exit_code
    except KeyboardInterrupt:
        resumes = arguments.name in ("annotate", "pretrain", "redteam", "tamper")
        hint = "; the same command goes on from here" if resumes else ""
        print(f"phf {arguments.name}: interrupted{hint}", file=sys.stderr)
        return 130
    except Exception as error:
        if arguments.debug:
            raise
        reason = str(error).strip().partition("\n")[0]
        print(
            f"phf {arguments.name}: {type(error).__name__}: {reason} (--debug shows where)", file=sys.stderr
        )
        return 1


def _annotate(arguments: argparse.Namespace) -> int | None:
    config = _config(arguments)
    if config is None:
        return 0
    if arguments.private and not arguments.push_to_hub:
        raise ConfigError("--private goes with --push-to-hub")
    shows = arguments.status or arguments.statistics
    if arguments.export or arguments.push_to_hub:
        if shows:
            raise ConfigError("--export and --push-to-hub go without --status and --statistics")
        from phf.annotation.publish import export

        export(config, arguments.export, arguments.push_to_hub, arguments.private)
        return 0
    if shows:
        from phf.annotation.terminal import show

        show(config, arguments.status)
        return 0
    if config.annotations.executor.name != "pool":
        from phf.annotation.executors import annotate_in_tasks

        annotate_in_tasks(config)
        return 0
    from phf.annotation.annotate import annotate

    annotate(config)
    return 0


def _tokenize(arguments: argparse.Namespace) -> int | None:
    if arguments.train_tokenizer:
        arguments.config = [*arguments.config, "tokenizer.train=true"]
    config = _config(arguments)
    if config is None:
        return 0
    from phf.store.tokenize import tokenize

    tokenize(config)
    return 0


def _pretrain(arguments: argparse.Namespace) -> int | None:
    config = _config(arguments)
    if config is None:
        return 0
    from phf.training.run import dry_run, pretrain

    if arguments.dry_run:
        for what, text in dry_run(config):
            print(f"{what:12}{text}")
    else:
        pretrain(config)
    return 0


def _generate(arguments: argparse.Namespace) -> int | None:
    (folder,), rest = _folders(arguments.config, "a run or model folder", exactly=1)
    config = _config(arguments, folder, rest)
    if config is None:
        return 0
    from phf.evaluation.evaluate import generate_samples

    generate_samples(folder, config, scenario=arguments.scenario, output=arguments.output)
    return 0


def _evaluate(arguments: argparse.Namespace) -> int | None:
    folders, rest = _folders(arguments.config, "a run or model folder")
    for folder in folders:
        config = _config(arguments, folder, rest)
        if config is not None:
            from phf.evaluation.evaluate import evaluate

            evaluate(folder, config)
    return 0


def _attack(arguments: argparse.Namespace) -> int | None:
    folders, rest = _folders(arguments.config, "a run or model folder")
    for folder in folders:
        config = _config(arguments, folder, rest)
        if config is None:
            continue
        if arguments.verb == "redteam":
            from phf.redteam.attack import redteam

            redteam(folder, config)
        else:
            from phf.redteam.tamper import tamper

            tamper(folder, config)
    return 0


def _report(arguments: argparse.Namespace) -> int | None:
    from rich.console import Console

    from phf.report.report import print_table, report

    results = report([Path(folder) for folder in arguments.runs], Path(arguments.output))
    print_table(results, Console())
    print(f"report: {Path(arguments.output) / 'index.html'}")
    return 0


def _export(arguments: argparse.Namespace) -> int | None:
    from phf.training.export import export_checkpoint

    print(export_checkpoint(Path(arguments.run), Path(arguments.output), arguments.step))
    return 0


def _scorers(arguments: argparse.Namespace) -> int | None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from scorers import describe

    table = Table("name", "measures", "range", "scored by", "speed", "from", box=None, header_style="bold")
    for entry in describe():
        what = Text(f"cannot be used: {entry.problem}", "red") if entry.problem else entry.measures
        table.add_row(entry.name, what, entry.range, entry.granularity, entry.speed, entry.package)
    Console().print(table)
    return 0


def _try_scorer(arguments: argparse.Namespace) -> int | None:
    from rich.console import Console

    from phf.annotation.try_scorer import try_scorer

    text = sys.stdin.buffer.read() if arguments.text == "-" else os.fsencode(arguments.text)
    try_scorer(arguments.scorer, text, arguments.config, arguments.segmenter, Console())
    return 0


def _quickstart(arguments: argparse.Namespace) -> int | None:
    arguments.config = [str(find_config("quickstart.yaml")), *arguments.config]
    config = _config(arguments)
    if config is None:
        return 0
    from phf.quickstart import quickstart

    quickstart(config)
    return 0


_VERBS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "annotate": _annotate,
    "tokenize": _tokenize,
    "pretrain": _pretrain,
    "generate": _generate,
    "evaluate": _evaluate,
    "redteam": _attack,
    "tamper": _attack,
    "report": _report,
    "export": _export,
    "scorers": _scorers,
    "quickstart": _quickstart,
    "try": _try_scorer,
}


def _folders(arguments: Sequence[str], what: str, exactly: int | None = None) -> tuple[list[Path], list[str]]:
    """Splits folders from configuration; whatever is neither YAML nor key=value is a folder."""
    rest = [a for a in arguments if a.endswith((".yaml", ".yml")) or ("=" in a and not Path(a).is_dir())]
    folders = [Path(a) for a in arguments if a not in rest]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder; give {what}")
    if not folders or (exactly is not None and len(folders) != exactly):
        raise ConfigError(f"give {what}" + (f", {exactly} and not {len(folders)}" if folders else ""))
    return folders, rest


def _config(
    arguments: argparse.Namespace, folder: Path | None = None, layers: Sequence[str] | None = None
) -> Config | None:
    """The configuration, over that of the run folder if there is one; `None` if it was only to be printed."""
    base = (
        load_config([str(folder / "config.yaml")]) if folder and (folder / "config.yaml").is_file() else None
    )
    config = load_config(arguments.config if layers is None else layers, base)
    if not arguments.print_config:
        return config
    print(to_yaml(config), end="")
    return None


def _set_up_logging() -> None:
    """The project's own lines on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("phf")
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


if __name__ == "__main__":
    sys.exit(main())
