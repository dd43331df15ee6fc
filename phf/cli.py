"""The command line: finds the verb, reads its arguments, runs it, and turns errors into one line."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Sequence

from phf.base.errors import ConfigError, PhfError
from phf.base.version import __version__
from phf.verbs import VERBS, Verb
from scorers.base import ScorerError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb and returns the exit code.

    The codes are 0 (done), 1 (failed), 2 (wrong usage or configuration), 75 (requeue) and 130 (interrupted).
    """
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output, such as `head`, has stopped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(argv: list[str]) -> int:
    name, rest = _find_verb(argv)
    verb = VERBS[name]
    arguments = _parser(name, verb).parse_intermixed_args(rest)
    _set_up_logging()
    # Waiting threads that spin waste most of their time on a shared machine. With another process running,
    # passive waiting gave 6 times as many tokens a second. It must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        verb.run(arguments)
    except KeyboardInterrupt:
        hint = "; the same command goes on from here" if verb.resumes else ""
        print(f"phf {name}: interrupted{hint}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        if arguments.debug:
            raise
        print(f"phf {name}: {_line(error)}", file=sys.stderr)
        if isinstance(error, ScorerError):
            return ConfigError.exit_code
        return error.exit_code if isinstance(error, PhfError) else 1
    return 0


def _line(error: Exception) -> str:
    if isinstance(error, PhfError | ScorerError):
        return str(error)
    reason = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {reason} (--debug shows where)"


def _find_verb(argv: list[str]) -> tuple[str, list[str]]:
    """Returns the verb that the arguments begin with, and the remaining arguments.

    `--help` and `--version` print and exit. Wrong usage prints a line to standard error and exits with 2.
    """
    for length in (2, 1):
        if (name := " ".join(argv[:length])) in VERBS:
            return name, argv[length:]
    group = argv[0] if argv else ""
    below = [name for name in VERBS if name.startswith(f"{group} ")]
    words, is_group = (argv[1:], True) if below else (argv, False)
    if words and words[0] == "--version" and not is_group:
        print(f"phf {__version__}")
        raise SystemExit(0)
    if not words or words[0] in ("-h", "--help"):
        print(_overview(below or list(VERBS)))
        raise SystemExit(0 if words else ConfigError.exit_code)
    wanted = f"{group} {words[0]}" if is_group else words[0]
    nearest = difflib.get_close_matches(wanted, VERBS, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else "phf --help lists the verbs"
    print(f"phf: no verb {wanted!r:.200}; {hint}", file=sys.stderr)
    raise SystemExit(ConfigError.exit_code)


def _overview(names: Sequence[str]) -> str:
    width = max(map(len, names)) + 2
    return "\n".join(
        [
            "usage: phf [--version] VERB ...",
            "",
            "Pretraining language models with human feedback.",
            "",
            "verbs:",
            *(f"  {name:{width}}{VERBS[name].summary}" for name in names),
            "",
            "phf VERB --help shows examples; phf help KEY explains a key of the configuration.",
        ]
    )


def _parser(name: str, verb: Verb) -> argparse.ArgumentParser:
    examples = "".join(f"  {line}\n" for line in verb.examples.splitlines())
    parser = argparse.ArgumentParser(
        prog=f"phf {name}",
        description=f"{verb.summary[0].upper()}{verb.summary[1:]}.",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    for add in verb.arguments:
        add(parser)
    return parser


def _set_up_logging() -> None:
    """Sends the log lines of `phf` to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("phf")
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
