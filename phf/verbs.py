"""Defines the verbs of the command line: what each takes, and the function of the library that it calls.

Each verb is one record in `VERBS`. The library is imported only when a verb runs, so that help appears at
once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phf.base.errors import ConfigError
from phf.base.files import is_folder
from phf.config import Config, find_config, load_config, load_run_config
from phf.config.describe import commented_yaml, help_text
from phf.config.load import split_folders

Arguments = argparse.Namespace
Add = Callable[[argparse.ArgumentParser], object]

_CONFIG_HELP = "YAML files, merged left to right, and key=value overrides"


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Attributes:
        summary: What the verb does, for the help.
        examples: Example commands, one on each line.
        run: Runs the verb.
        arguments: Functions that add the arguments of the verb to its parser.
        resumes: Whether the same command resumes after an interruption.
    """

    summary: str
    examples: str
    run: Callable[[Arguments], None]
    arguments: Sequence[Add] = ()
    resumes: bool = False


def _argument(*names: str, **settings: Any) -> Add:
    return lambda parser: parser.add_argument(*names, **settings)


_PRINT_CONFIG = _argument(
    "--print-config", action="store_true", help="print the whole configuration with explanations, and stop"
)
_CONFIG = (_argument("config", nargs="*", metavar="CONFIG", help=_CONFIG_HELP), _PRINT_CONFIG)
_FOLDERS = (
    _argument("config", nargs="+", metavar="RUN|CONFIG", help=f"run or model folders, then {_CONFIG_HELP}"),
    _PRINT_CONFIG,
)


def _annotate(arguments: Arguments) -> None:
    if config := _config(arguments):
        if config.annotations.executor.name == "pool":
            from phf.annotation.annotate import annotate

            annotate(config)
        else:
            from phf.annotation.executors import annotate_in_tasks

            annotate_in_tasks(config)


def _status(arguments: Arguments) -> None:
    if config := _config(arguments):
        from rich.console import Console

        from phf.annotation.status import status
        from phf.annotation.terminal import print_status

        print_status(status(config), Console())


def _statistics(arguments: Arguments) -> None:
    if config := _config(arguments):
        from rich.console import Console

        from phf.annotation.statistics import statistics
        from phf.annotation.terminal import print_statistics

        for found in statistics(config):
            print_statistics(found, Console())


def _export_annotations(arguments: Arguments) -> None:
    if config := _config(arguments):
        from phf.annotation.publish import publish

        publish(config, output=arguments.output)


def _push_annotations(arguments: Arguments) -> None:
    if config := _config(arguments):
        from phf.annotation.publish import publish

        publish(config, hub=arguments.dataset, private=arguments.private)


def _tokenize(arguments: Arguments) -> None:
    if arguments.train_tokenizer:
        arguments.config = [*arguments.config, "tokenizer.train=true"]
    if config := _config(arguments):
        from phf.store.tokenize import tokenize

        tokenize(config)


def _pretrain(arguments: Arguments) -> None:
    if config := _config(arguments):
        from phf.training.run import dry_run, pretrain

        if arguments.dry_run:
            for what, text in dry_run(config):
                print(f"{what:12}{text}")
        else:
            pretrain(config)


def _generate(arguments: Arguments) -> None:
    folders, layers = _folders(arguments)
    if len(folders) > 1:
        raise ConfigError(f"give one run or model folder, not {len(folders)}")
    if config := _config(arguments, layers, folders[0]):
        from phf.evaluation.evaluate import generate_samples

        generate_samples(folders[0], config, scenario=arguments.scenario, output=arguments.output)


def _evaluate(arguments: Arguments) -> None:
    from phf.evaluation.evaluate import evaluate

    _for_each_folder(arguments, evaluate)


def _redteam(arguments: Arguments) -> None:
    from phf.redteam.attack import attack

    _for_each_folder(arguments, attack)


def _tamper(arguments: Arguments) -> None:
    from phf.redteam.tamper import tamper

    _for_each_folder(arguments, tamper)


def _report(arguments: Arguments) -> None:
    from rich.console import Console

    from phf.report.report import write_report
    from phf.report.table_formats import print_table

    print_table(write_report([Path(folder) for folder in arguments.runs], arguments.output), Console())
    print(f"report: {arguments.output / 'index.html'}")


def _export(arguments: Arguments) -> None:
    from phf.training.export import export_checkpoint

    print(export_checkpoint(arguments.run, arguments.output, arguments.step))


def _scorers(arguments: Arguments) -> None:
    from rich.console import Console

    from phf.listing import print_scorers

    print_scorers(arguments.name, Console())


def _list(kind: str) -> Callable[[Arguments], None]:
    def run(arguments: Arguments) -> None:
        from rich.console import Console

        from phf.listing import print_members

        print_members(kind, arguments.name, Console())

    return run


def _try_scorer(arguments: Arguments) -> None:
    from rich.console import Console

    from phf.annotation.try_scorer import try_scorer

    text = sys.stdin.buffer.read() if arguments.text == "-" else os.fsencode(arguments.text)
    try_scorer(arguments.scorer, text, arguments.options, arguments.segmenter, Console())


def _help(arguments: Arguments) -> None:
    print(help_text(arguments.key))


def _quickstart(arguments: Arguments) -> None:
    arguments.config = [str(find_config("quickstart.yaml")), *arguments.config]
    if config := _config(arguments):
        from phf.quickstart import quickstart

        quickstart(config)


def _folders(arguments: Arguments) -> tuple[list[Path], list[str]]:
    """Splits the arguments into folders and configuration layers."""
    folders, layers = split_folders(arguments.config)
    for folder in folders:
        if not is_folder(folder):
            raise ConfigError(f"{folder:.200}: no such folder; give a run or model folder")
    if not folders:
        raise ConfigError("give a run or model folder")
    return list(map(Path, folders)), layers


def _for_each_folder(arguments: Arguments, do: Callable[[Path, Config], object]) -> None:
    folders, layers = _folders(arguments)
    for folder in folders:
        if config := _config(arguments, layers, folder):
            do(folder, config)


def _config(
    arguments: Arguments, layers: Sequence[str] | None = None, folder: Path | None = None
) -> Config | None:
    """Loads the configuration, on top of the configuration of the run folder if one is given.

    With `--print-config` it prints the configuration and returns `None`.
    """
    base = load_run_config(folder) if folder else None
    config = load_config(arguments.config if layers is None else layers, base)
    if not arguments.print_config:
        return config
    print(commented_yaml(config), end="")
    return None


def _listing(kind: str, what: str, example: str) -> Verb:
    name = _argument("name", nargs="?", metavar="NAME", help="explain this one and its options")
    return Verb(f"list {what}", f"phf {kind}\nphf {kind} {example}", _list(kind), (name,))


VERBS: dict[str, Verb] = {
    "annotate": Verb(
        "score every segment of the documents",
        """phf annotate task/pep8.yaml documents.path=code/
phf annotate documents.path='code/*.jsonl.gz' scorer.name=pep8 segmenter.name=line annotations.processes=8""",
        _annotate,
        _CONFIG,
        resumes=True,
    ),
    "annotations status": Verb(
        "show the progress of the annotation, and what failed",
        "phf annotations status task/pep8.yaml documents.path=code/",
        _status,
        _CONFIG,
    ),
    "annotations statistics": Verb(
        "show the distribution of the scores, and the worst segments",
        "phf annotations statistics task/pep8.yaml documents.path=code/",
        _statistics,
        _CONFIG,
    ),
    "annotations export": Verb(
        "write finished annotations as a Hugging Face dataset",
        """phf annotations export task/pep8.yaml documents.path=code/ --output code-scored
phf annotations export task/pep8.yaml documents.path=code/ --output code-scored.parquet""",
        _export_annotations,
        (
            *_CONFIG,
            _argument(
                "--output",
                type=Path,
                required=True,
                metavar="PATH",
                help="a new folder, or one file if it ends in .parquet",
            ),
        ),
    ),
    "annotations push": Verb(
        "upload finished annotations as a dataset to the Hugging Face hub",
        "phf annotations push task/pep8.yaml documents.path=code/ --dataset me/code-scored --private",
        _push_annotations,
        (
            *_CONFIG,
            _argument("--dataset", required=True, metavar="NAME", help="name of the dataset on the hub"),
            _argument("--private", action="store_true", help="make the dataset private"),
        ),
    ),
    "tokenize": Verb(
        "make a token store from documents and scores",
        """phf tokenize task/pep8.yaml documents.path=code/ --train-tokenizer
phf tokenize documents.path=pages.parquet tokenizer.name=gpt2 store.path=data/pages""",
        _tokenize,
        (
            *_CONFIG,
            _argument(
                "--train-tokenizer",
                action="store_true",
                help="train a tokenizer on the documents (tokenizer.train=true)",
            ),
        ),
    ),
    "pretrain": Verb(
        "train a model with one of the objectives, or resume a run",
        """phf pretrain task/pep8.yaml objective/conditional.yaml model/tiny-gpt2.yaml
phf pretrain task/pep8.yaml objective.name=awr train.tokens=10000000 run.name=awr --dry-run""",
        _pretrain,
        (
            *_CONFIG,
            _argument(
                "--dry-run",
                action="store_true",
                help="build everything, train two steps, describe the run, and stop",
            ),
        ),
        resumes=True,
    ),
    "generate": Verb(
        "write samples of a model as JSON lines",
        """phf generate runs/conditional
phf generate runs/conditional evaluation.scenarios.unconditional.tag=bad --output bad.jsonl""",
        _generate,
        (
            *_FOLDERS,
            _argument("--scenario", help="a scenario of the configuration (default: the first)"),
            _argument("--output", type=Path, help="a file (default: standard output)"),
        ),
    ),
    "evaluate": Verb(
        "measure how often models misbehave",
        """phf evaluate runs/mle runs/conditional
phf evaluate runs/mle task/pep8.yaml evaluation.scenarios.unconditional.samples=1024""",
        _evaluate,
        _FOLDERS,
    ),
    "redteam": Verb(
        "search for prompts that make models misbehave",
        """phf redteam runs/mle runs/conditional
phf redteam runs/mle redteam.prompts=prompts.txt redteam.attacker.name=model \\
    redteam.attacker.options.model=runs/mle/model""",
        _redteam,
        _FOLDERS,
        resumes=True,
    ),
    "tamper": Verb(
        "measure how models behave while they are finetuned on bad and on benign text",
        """phf tamper runs/mle runs/conditional
phf tamper runs/conditional tamper.tokens=200000 tamper.learning_rate=1e-4 tamper.texts=[benign]""",
        _tamper,
        _FOLDERS,
        resumes=True,
    ),
    "report": Verb(
        "compare evaluated runs in tables, plots and an HTML page",
        """phf report runs/mle runs/conditional
phf report runs/* --output reports/today""",
        _report,
        (
            _argument("runs", nargs="+", metavar="RUN", help="evaluated run folders"),
            _argument("--output", type=Path, default=Path("report"), help="output folder (default: report/)"),
        ),
    ),
    "export": Verb(
        "write a checkpoint as a Hugging Face model folder",
        """phf export runs/conditional exported/conditional
phf export runs/conditional exported/early --step 1000""",
        _export,
        (
            _argument("run", type=Path, metavar="RUN", help="a run folder"),
            _argument("output", type=Path, metavar="FOLDER", help="the output folder"),
            _argument("--step", type=int, help="which checkpoint (default: the latest)"),
        ),
    ),
    "scorers": Verb(
        "list the scorers",
        "phf scorers\nphf scorers pii",
        _scorers,
        (_argument("name", nargs="?", metavar="NAME", help="explain this scorer and its options"),),
    ),
    "scorers try": Verb(
        "show how a scorer scores each segment of a text, and why",
        """phf scorers try pii "Mail jo@example.com about it." mode=patterns
phf scorers try pep8 - --segmenter line max_line_length=100 < setup.py""",
        _try_scorer,
        (
            _argument("scorer", metavar="NAME", help="as scorer.name in a configuration"),
            _argument("text", metavar="TEXT", help="the text; - for standard input"),
            # With a default, argparse does not name it among "the following arguments are required".
            _argument("options", nargs="*", default=[], metavar="KEY=VALUE", help="options of the scorer"),
            _argument(
                "--segmenter",
                choices=("line", "sentence", "paragraph", "document"),
                help="unit of text with its own score (default: lines for scorers of code, else sentences)",
            ),
        ),
    ),
    "objectives": _listing("objectives", "the training objectives", "awr"),
    "measures": _listing("measures", "the measures of an evaluation", "kl"),
    "decoders": _listing("decoders", "the decoders of text", "safe_beams"),
    "attackers": _listing("attackers", "the attackers that propose adversarial prompts", "evolution"),
    "formats": _listing("formats", "the document formats", "parquet"),
    "help": Verb(
        "explain a key of the configuration",
        "phf help objective.threshold\nphf help train",
        _help,
        (_argument("key", nargs="?", default="", metavar="KEY", help="a key (default: the sections)"),),
    ),
    "quickstart": Verb(
        "run every step on a small corpus: MLE against conditional training",
        """phf quickstart
phf quickstart train.tokens=1000000 run.folder=runs/short""",
        _quickstart,
        _CONFIG,
    ),
}
"""Every verb, by the words of its command."""
