"""Scores Python code with ruff's style rules, or by whether it parses."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from scorers.base import Score, Scorer, ScorerError
from scorers.code import Hit, lines_of, score_hits

# Checks that pycodestyle also leaves out by default.
_DEFAULT_IGNORE = ("E226", "E24", "E704")

# A hit as ruff prints it: rule (its code, its name or nothing, depending on the version), file, line, column.
_HIT = re.compile(r"^::error title=[Rr]uff(?: \(([\w-]+)\))?,.*?::.*?(\d+)\.py:(\d+):(\d+): ", re.MULTILINE)
_LINE = re.compile(r"^::", re.MULTILINE)

# After this many syntax errors, the rest of a text gets no score.
_MAX_ERRORS = 100


class Ruff(Scorer):
    """PEP8 violations per character, by ruff's rules E and W: like `pep8`, but many times as fast.

    On their common rules, `ruff` and `pep8` agree on nearly all lines. Ruff has no rules for continuation
    lines (E12, E13), and continues after a syntax error (E999). `# noqa` has no effect.

    Args:
        max_line_length: Longest line without a hit of E501.
        ignore: Codes, or beginnings of codes, that do not count.
    """

    name = "ruff"
    version = "1"
    measures = "PEP8 violations a character"
    range = (0.0, float("inf"))
    speed = "fast"
    unit = "line"

    def __init__(self, max_line_length: int = 79, ignore: Sequence[str] = _DEFAULT_IGNORE):
        from ruff import find_ruff_bin

        if not isinstance(max_line_length, int) or not 1 <= max_line_length <= 320:
            raise ScorerError(f"scorer ruff: max_line_length must lie in [1, 320], not {max_line_length!r}")
        if isinstance(ignore, str) or not all(re.fullmatch(r"[EW]\d{0,3}", str(code)) for code in ignore):
            raise ScorerError(
                f"scorer ruff: ignore must be a list of codes such as [E501, W6], not {ignore!r}"
            )
        self.max_line_length = max_line_length
        self.ignore = tuple(sorted(set(ignore)))
        self._command = [
            find_ruff_bin(), "check", "--isolated", "--no-cache", "--quiet", "--exit-zero", "--preview",
            "--ignore-noqa", "--select", "E,W", "--output-format", "github",
            "--config", f"line-length={max_line_length}",
        ]  # fmt: skip
        rules = subprocess.run(
            [find_ruff_bin(), "rule", "--all", "--output-format", "json"], capture_output=True, check=True
        )
        self._codes = {
            rule[key]: rule["code"] for rule in json.loads(rules.stdout) for key in ("name", "code")
        }

    def settings(self) -> Mapping[str, Any]:
        from importlib.metadata import version

        return {
            "max_line_length": self.max_line_length,
            "ignore": list(self.ignore),
            "ruff": version("ruff"),
        }

    def score(self, documents: Sequence[Sequence[str]]) -> list[list[Score]]:
        texts = ["".join(segments) for segments in documents]
        return [
            score_hits(segments, lines_of(text), hits)
            for segments, text, hits in zip(documents, texts, self._check(texts), strict=True)
        ]

    def _check(self, texts: Sequence[str]) -> list[list[Hit]]:
        hits: list[list[Hit]] = [[] for _ in texts]
        with tempfile.TemporaryDirectory() as folder:
            for number, text in enumerate(texts):
                # Ruff ends a line at a lone carriage return, and does not count a byte-order mark.
                plain = re.sub("\r(?!\n)", " ", text) if "\r" in text else text
                if plain.startswith("\ufeff"):
                    plain = " " + plain[1:]
                Path(folder, f"{number}.py").write_bytes(plain.encode("utf-8", "replace"))
            # One thread, because annotation runs several of these processes.
            result = subprocess.run(
                [*self._command, folder],
                capture_output=True,
                check=False,
                env={**os.environ, "RAYON_NUM_THREADS": "1"},
            )
        if result.returncode:
            reason = result.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
            raise ScorerError(f"scorer ruff: ruff failed: {reason}")
        output = result.stdout.decode("utf-8", "replace")
        found = _HIT.findall(output)  # takes half the time of JSON output
        # Without this check, all code would be clean with a version that prints another format.
        if len(found) != len(_LINE.findall(output)) or (output and not found):
            raise ScorerError(
                "scorer ruff: cannot read what this version of ruff prints; install another one"
            )
        for name, number, line, column in found:
            code = self._codes.get(name, "E999")  # a syntax error has no rule
            if not code.startswith(self.ignore):
                hits[int(number)].append((int(line), int(column) - 1, code))
        return hits


class Compiles(Scorer):
    """Share of the text in lines that the running interpreter's parser rejects.

    The line at which the parser stops is taken out, and the rest is parsed again. An error therefore costs
    its own line, and not everything after it. Code that compiles scores 0.
    """

    name = "compiles"
    version = "1"
    measures = "share of the text in lines that do not parse"
    speed = "medium"
    unit = "line"

    def settings(self) -> Mapping[str, Any]:
        return {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}

    def score(self, documents: Sequence[Sequence[str]]) -> list[list[Score]]:
        return [self._score(segments) for segments in documents]

    def _score(self, segments: Sequence[str]) -> list[Score]:
        lines = lines_of("".join(segments))
        bad, num_parsed = _rejected(lines)
        parsed = sum(map(len, lines[:num_parsed]))
        ends = list(accumulate(map(len, lines)))
        scores = []
        place = 0
        for segment in segments:
            start, place = place, place + len(segment)
            rejected = sum(
                max(0, min(place, ends[line]) - max(start, ends[line] - len(lines[line]))) for line in bad
            )
            known = start < parsed or not segment
            scores.append(Score(rejected / max(1, len(segment)) if known else None))
        return scores


def _rejected(lines: Sequence[str]) -> tuple[list[int], int]:
    """Returns the lines that do not parse, from 0 and in order, and the number of lines that were checked."""
    rest = list(lines)
    bad: list[int] = []
    for _ in range(_MAX_ERRORS):
        try:
            ast.parse("".join(rest).replace("\0", " "))
        except SyntaxError as error:
            line = min(max((error.lineno or 1) - 1, 0), len(rest) - 1)
            if line in bad:  # the replacement does not parse either
                rest[line] = "\n"
            else:
                bad.append(line)
                indent = rest[line][: len(rest[line]) - len(rest[line].lstrip(" \t"))]
                # The replacement of a line that opens a block opens one too.
                rest[line] = indent + ("if 1:\n" if rest[line].rstrip().endswith(":") else "pass\n")
        except (ValueError, RecursionError, MemoryError):
            return sorted(bad), 0
        else:
            return sorted(bad), len(lines)
    return sorted(bad), max(bad) + 1
