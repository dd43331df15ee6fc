"""Lists the members of the open sets in the terminal, and explains one with its options."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from phf.config.describe import describe
from scorers import SCORERS, describe_scorers
from scorers.open_set import OpenSet

_SETS = {
    "objectives": "phf.training.objective:OBJECTIVES",
    "measures": "phf.evaluation.measures:MEASURES",
    "decoders": "phf.inference.decoders:DECODERS",
    "attackers": "phf.redteam.attackers:ATTACKERS",
    "formats": "phf.documents.formats:FORMATS",
}
"""The module and variable of each set. The module is imported only when the set is shown."""


def print_members(kind: str, name: str | None, console: Console) -> None:
    """Lists the members of a set, or explains one member.

    Raises:
        ConfigError: There is no such member, or it cannot be imported.
    """
    module, _, variable = _SETS[kind].partition(":")
    members: OpenSet[Any] = getattr(importlib.import_module(module), variable)
    if name is not None:
        cls = members.find(name)
        console.print(Text(inspect.getdoc(cls) or ""), soft_wrap=True)
        for key in describe(cls.Options):
            details = ", ".join(
                filter(None, (key.kind, key.default and f"default {key.default}", key.bounds))
            )
            console.print(
                Text.assemble("\n", (key.name, "bold"), f": {details}\n  {key.sentence}"), soft_wrap=True
            )
        return
    table = Table("name", "what it does", "options", "from", box=None, header_style="bold")
    for member in members.members():
        if member.cls is None:
            table.add_row(member.name, _problem(member.problem), "", member.package)
        else:
            options = ", ".join(key.name for key in describe(member.cls.Options))
            table.add_row(member.name, _summary(member.cls), options, member.package)
    console.print(table)


def print_scorers(name: str | None, console: Console) -> None:
    """Lists the scorers, or explains one.

    Raises:
        ScorerError: There is no such scorer, or it cannot be imported.
    """
    if name is not None:
        console.print(Text(inspect.getdoc(SCORERS.find(name)) or ""), soft_wrap=True)
        return
    table = Table("name", "measures", "range", "scored by", "speed", "from", box=None, header_style="bold")
    for entry in describe_scorers():
        what = _problem(entry.problem) if entry.problem else Text(entry.measures)
        table.add_row(entry.name, what, entry.range, entry.granularity, entry.speed, entry.package)
    console.print(table)


def _summary(cls: type) -> Text:
    """Returns the first paragraph of the docstring of a class."""
    return Text(" ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split()))


def _problem(reason: str) -> Text:
    return Text(f"cannot be used: {reason}", "red")
