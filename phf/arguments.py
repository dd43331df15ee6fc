"""What the command line takes: verbs, arguments, options, and their help."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from phf import __version__

_CONFIG_HELP = "YAML files, merged left to right, and key=value overrides"

VERBS: dict[str, tuple[str, str]] = {
    "annotate": (
        "score every segment of the documents",
        """phf annotate configs/task/pep8.yaml documents.path=code/
phf annotate documents.path='code/*.jsonl.gz' scorer.name=pep8 segmenter.name=line annotations.processes=8
phf annotate configs/task/pep8.yaml documents.path=code/ --statistics
phf annotate configs/task/pep8.yaml documents.path=code/ --export code-scored""",
    ),
    "tokenize": (
        "make a token store of documents and scores",
        """phf tokenize configs/task/pep8.yaml documents.path=code/ --train-tokenizer
phf tokenize documents.path=pages.parquet tokenizer.name=gpt2 store.path=data/pages""",
    ),
    "pretrain": (
        "train a model with one of the objectives, or go on with a run",
        """phf pretrain configs/task/pep8.yaml configs/objective/conditional.yaml configs/model/tiny-gpt2.yaml
phf pretrain configs/task/pep8.yaml objective.name=awr train.tokens=10000000 run.name=awr --dry-run""",
    ),
    "generate": (
        "write samples of a model, as jsonl",
        """phf generate runs/conditional
phf generate runs/conditional evaluation.scenarios.unconditional.tag=bad --output bad.jsonl""",
    ),
    "evaluate": (
        "measure how often models misbehave",
        """phf evaluate runs/mle runs/conditional
phf evaluate runs/mle configs/task/pep8.yaml evaluation.scenarios.unconditional.samples=1024""",
    ),
    "redteam": (
        "search for prompts after which models misbehave",
        """phf redteam runs/mle runs/conditional
phf redteam runs/mle redteam.attacker=model redteam.model=runs/mle/model redteam.prompts=prompts.txt
phf redteam runs/mle redteam.attacker=endpoint redteam.model=gpt redteam.base_url=http://localhost:8000/v1""",
    ),
    "tamper": (
        "measure how models behave while they are finetuned on bad and on benign text",
        """phf tamper runs/mle runs/conditional
phf tamper runs/conditional tamper.tokens=200000 tamper.learning_rate=1e-4 tamper.texts=[benign]""",
    ),
    "report": (
        "compare evaluated runs: a table, plots, one HTML page",
        """phf report runs/mle runs/conditional
phf report runs/* --output reports/today""",
    ),
    "export": (
        "write a checkpoint as a Hugging Face model folder",
        """phf export runs/conditional exported/conditional
phf export runs/conditional exported/early --step 1000""",
    ),
    "scorers": (
        "list the scorers, or try one on a text",
        """phf scorers
phf scorers try pii "Mail jo@example.com about it." mode=patterns
phf scorers try pep8 - --segmenter line max_line_length=100 < setup.py""",
    ),
    "quickstart": (
        "the whole way on a small embedded corpus: MLE against conditional training",
        """phf quickstart
phf quickstart train.tokens=1000000 run.folder=runs/short""",
    ),
}
"""For each its summary and examples."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of a command; `verb` is what to do, and `name` the verb that it is a part of.

    Wrong usage ends the process with a line on standard error and exit code 2.
    """
    arguments, rest = _parser().parse_known_args(argv)
    # argparse takes the arguments up to an option, and leaves those behind it over.
    if rest:
        verb: argparse.ArgumentParser = arguments.parser
        listed: list[str] | None = vars(arguments).get("config", vars(arguments).get("runs"))
        if listed is None or any(argument.startswith("-") for argument in rest):
            verb.error(f"unrecognized arguments: {' '.join(rest)}")
        listed += rest
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="phf",
        description="Pretraining language models with human feedback.",
        epilog="phf VERB --help has examples. docs/ has more.",
    )
    parser.add_argument("--version", action="version", version=f"phf {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, (summary, examples) in VERBS.items():
        verb = verbs.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog="examples:\n" + "".join(f"  {line}\n" for line in examples.splitlines()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.set_defaults(verb=name, name=name, parser=verb)
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
        _add_arguments(verb, name)
    return parser


def _add_arguments(verb: argparse.ArgumentParser, name: str) -> None:
    if name in ("generate", "evaluate", "redteam", "tamper"):
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
    elif name == "pretrain":
        verb.add_argument(
            "--dry-run",
            action="store_true",
            help="build all, train two steps, say what the run will be, stop",
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
    verb.set_defaults(verb="try", parser=verb)
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
