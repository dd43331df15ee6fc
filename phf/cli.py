"""The command line: each verb is a thin call into the library."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from phf import __version__
from phf.config import Config, find_config, load_config, to_yaml
from phf.errors import ConfigError, PhfError
from scorers.base import ScorerError

_CONFIG_HELP = "YAML files, merged left to right, and key=value overrides"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb and returns its exit code: 0 done, 1 failed, 2 wrong usage or configuration, 75 requeue."""
    arguments = _parse(argv)
    _set_up_logging()
    # Threads that spin while they wait lose most of their time on a shared machine: measured 6 times the
    # tokens a second with another process beside it. It must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return arguments.verb(arguments) or 0
    except (PhfError, ScorerError) as error:
        if arguments.debug:
            raise
        print(f"phf {arguments.name}: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, PhfError) else ConfigError.exit_code
    except KeyboardInterrupt:
        hint = "; the same command goes on from here" if arguments.name in ("annotate", "pretrain") else ""
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


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    arguments, rest = _parser().parse_known_args(argv)
    # argparse takes the arguments up to an option, and leaves those behind it over.
    if rest:
        verb: argparse.ArgumentParser = arguments.parser
        listed: list[str] | None = vars(arguments).get("config", vars(arguments).get("runs"))
        if listed is None or any(argument.startswith("-") for argument in rest):
            verb.error(f"unrecognized arguments: {' '.join(rest)}")
        listed += rest
    return arguments


def _annotate(arguments: argparse.Namespace) -> int | None:
    config = _config(arguments)
    if config is None:
        return 0
    if arguments.private and not arguments.push_to_hub:
        raise ConfigError("--private goes with --push-to-hub")
    if arguments.export or arguments.push_to_hub:
        from phf.data.export import export

        export(config, arguments.export, arguments.push_to_hub, arguments.private)
        return 0
    if arguments.status or arguments.statistics:
        from phf.data.tables import show

        show(config, arguments.status)
        return 0
    if config.annotations.executor.name != "pool":
        from phf.data.executors import annotate_in_tasks

        annotate_in_tasks(config)
        return 0
    from phf.data.annotate import annotate

    annotate(config)
    return 0


def _tokenize(arguments: argparse.Namespace) -> int | None:
    if arguments.train_tokenizer:
        arguments.config = [*arguments.config, "tokenizer.train=true"]
    config = _config(arguments)
    if config is None:
        return 0
    from phf.data.tokenize import tokenize

    tokenize(config)
    return 0


def _pretrain(arguments: argparse.Namespace) -> int | None:
    config = _config(arguments)
    if config is None:
        return 0
    from phf.training.run import pretrain

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


def _report(arguments: argparse.Namespace) -> int | None:
    from rich.console import Console

    from phf.evaluation.report import print_table, report

    results = report([Path(folder) for folder in arguments.runs], Path(arguments.output))
    print_table(results, Console())
    print(f"report: {Path(arguments.output) / 'index.html'}")
    return 0


def _export(arguments: argparse.Namespace) -> int | None:
    from phf.training.run import export_checkpoint

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

    from phf.data.trial import try_scorer

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


_VERBS: dict[str, tuple[Callable[[argparse.Namespace], int | None], str, str]] = {
    "annotate": (
        _annotate,
        "score every segment of the documents",
        """phf annotate configs/task/pep8.yaml documents.path=code/
phf annotate documents.path='code/*.jsonl.gz' scorer.name=pep8 segmenter.name=line annotations.processes=8
phf annotate configs/task/pep8.yaml documents.path=code/ --statistics
phf annotate configs/task/pep8.yaml documents.path=code/ --export code-scored""",
    ),
    "tokenize": (
        _tokenize,
        "make a token store of documents and scores",
        """phf tokenize configs/task/pep8.yaml documents.path=code/ --train-tokenizer
phf tokenize documents.path=pages.parquet tokenizer.name=gpt2 store.path=data/pages""",
    ),
    "pretrain": (
        _pretrain,
        "train a model with one of the objectives, or go on with a run",
        """phf pretrain configs/task/pep8.yaml configs/objective/conditional.yaml configs/model/tiny-gpt2.yaml
phf pretrain configs/task/pep8.yaml objective.name=awr train.tokens=10000000 run.name=awr --print-config""",
    ),
    "generate": (
        _generate,
        "write samples of a model, as jsonl",
        """phf generate runs/conditional
phf generate runs/conditional evaluation.scenarios.unconditional.tag=bad --output bad.jsonl""",
    ),
    "evaluate": (
        _evaluate,
        "measure how often models misbehave",
        """phf evaluate runs/mle runs/conditional
phf evaluate runs/mle configs/task/pep8.yaml evaluation.scenarios.unconditional.samples=1024""",
    ),
    "report": (
        _report,
        "compare evaluated runs: a table, plots, one HTML page",
        """phf report runs/mle runs/conditional
phf report runs/* --output reports/today""",
    ),
    "export": (
        _export,
        "write a checkpoint as a Hugging Face model folder",
        """phf export runs/conditional exported/conditional
phf export runs/conditional exported/early --step 1000""",
    ),
    "scorers": (
        _scorers,
        "list the scorers, or try one on a text",
        """phf scorers
phf scorers try pii "Mail jo@example.com about it." mode=patterns
phf scorers try pep8 - --segmenter line max_line_length=100 < setup.py""",
    ),
    "quickstart": (
        _quickstart,
        "the whole way on a small embedded corpus: MLE against conditional training",
        """phf quickstart
phf quickstart train.tokens=1000000 run.folder=runs/short""",
    ),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="phf",
        description="Pretraining language models with human feedback.",
        epilog="phf VERB --help has examples. docs/ has more.",
    )
    parser.add_argument("--version", action="version", version=f"phf {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, (function, summary, examples) in _VERBS.items():
        verb = verbs.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog="examples:\n" + "".join(f"  {line}\n" for line in examples.splitlines()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.set_defaults(verb=function, name=name, parser=verb)
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
        _add_arguments(verb, name)
    return parser


def _add_arguments(verb: argparse.ArgumentParser, name: str) -> None:
    if name in ("generate", "evaluate"):
        verb.add_argument(
            "config", nargs="+", metavar="RUN|CONFIG", help=f"run or model folders, then {_CONFIG_HELP}"
        )
    elif name in ("annotate", "tokenize", "pretrain", "quickstart"):
        verb.add_argument("config", nargs="*", metavar="CONFIG", help=_CONFIG_HELP)
    if name not in ("report", "export", "scorers"):
        verb.add_argument(
            "--print-config", action="store_true", help="print the resolved configuration and stop"
        )
    if name == "annotate":
        verb.add_argument(
            "--export",
            type=Path,
            metavar="PATH",
            help="write finished annotations as a Hugging Face dataset: a folder, or one file if .parquet",
        )
        verb.add_argument(
            "--push-to-hub", metavar="NAME", help="upload them as a dataset of the Hugging Face hub"
        )
        verb.add_argument("--private", action="store_true", help="only you may see it there")
        show = verb.add_mutually_exclusive_group()
        show.add_argument("--status", action="store_true", help="show how far it has come, and what failed")
        show.add_argument(
            "--statistics", action="store_true", help="show what the scores are like, and the worst segments"
        )
    elif name == "tokenize":
        verb.add_argument(
            "--train-tokenizer", action="store_true", help="train one on the documents (tokenizer.train=true)"
        )
    elif name == "generate":
        verb.add_argument("--scenario", help="a scenario of the configuration (default: the first)")
        verb.add_argument("--output", type=Path, help="a file (default: standard output)")
    elif name == "report":
        verb.add_argument("runs", nargs="+", metavar="RUN", help="evaluated run folders")
        verb.add_argument("--output", default="report", help="where to write (default: report/)")
    elif name == "export":
        verb.add_argument("run", metavar="RUN", help="a run folder")
        verb.add_argument("output", metavar="FOLDER", help="where to write")
        verb.add_argument("--step", type=int, help="which checkpoint (default: the latest)")
    elif name == "scorers":
        _add_try(verb.add_subparsers(title="actions", metavar="try"))


def _add_try(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    summary = "show what a scorer says of each segment of a text, and why"
    verb = actions.add_parser("try", help=summary, description=summary[0].upper() + summary[1:] + ".")
    verb.set_defaults(verb=_try_scorer, parser=verb)
    verb.add_argument("scorer", metavar="NAME", help="as scorer.name in a configuration")
    verb.add_argument("text", metavar="TEXT", help="the text; - for standard input")
    # With a default it is not among "the following arguments are required".
    verb.add_argument("config", nargs="*", default=[], metavar="KEY=VALUE", help="options of the scorer")
    verb.add_argument(
        "--segmenter",
        choices=("line", "sentence", "paragraph", "document"),
        help="what gets a score of its own (default: lines for scorers of code, else sentences)",
    )
    # Without a default: it would overwrite what stands before `try`.
    verb.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )


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
