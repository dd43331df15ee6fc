"""The tables of a report: once as data, then as Markdown, in the terminal, and in the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phf.evaluation.formats import DASH, Cell, amount, change, duration, integer, interval, number
from phf.evaluation.runs import lookup

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

Columns = dict[str, Callable[[dict[str, Any]], Cell]]
"""Head of a column, and what it shows of a run (or of a run's measurements in a scenario)."""

_DISPENSABLE = (
    "Unscored", "Better", "Parameters", "Segment rate", "Untagged", "Perplexity", "Samples", "Time", "Max",
    "Aligned", "Misaligned", "Objective", "Rate",
)  # fmt: skip
"""Columns that a terminal too narrow for all of them does without, the first ones first."""

_VARIETY: Columns = {
    "Tag": lambda measured: Cell(str(lookup(measured, "tag") or DASH)),
    "Length": lambda measured: interval(lookup(measured, "length")),
    "Distinct-1": lambda measured: Cell(number(lookup(measured, "distinct_1"))),
    "Distinct-2": lambda measured: Cell(number(lookup(measured, "distinct_2"))),
    "Distinct-3": lambda measured: Cell(number(lookup(measured, "distinct_3"))),
    "Entropy": lambda measured: Cell(number(lookup(measured, "entropy"))),
    "Self-BLEU": lambda measured: Cell(number(lookup(measured, "self_bleu"))),
}
_RUNS: Columns = {
    "Objective": lambda run: Cell(lookup(run, "run", "objective") or DASH),
    "Tokens": lambda run: Cell(amount(lookup(run, "run", "tokens"))),
    "Held-out loss": lambda run: Cell(number(lookup(run, "heldout", "loss"), decimals=3)),
    "Untagged": lambda run: Cell(number(lookup(run, "heldout", "untagged"), decimals=3)),
    "Aligned": lambda run: Cell(number(lookup(run, "heldout", "aligned"), decimals=3)),
    "Misaligned": lambda run: Cell(number(lookup(run, "heldout", "misaligned"), decimals=3)),
    "Perplexity": lambda run: Cell(number(lookup(run, "heldout", "perplexity"))),
    "Parameters": lambda run: Cell(amount(lookup(run, "run", "parameters"))),
    "Time": lambda run: Cell(duration(lookup(run, "run", "wall_seconds"))),
}


@dataclass(frozen=True)
class Row:
    """What a table says of a run.

    Attributes:
        index: The run's place in the report, which decides its colour.
        cells: One for each column; the first is the run's label.
    """

    index: int
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """Rows under column heads, in groups (by scenario) that have a title, or in one that has none."""

    title: str
    columns: list[str]
    groups: dict[str, list[Row]]


def make_tables(results: dict[str, Any]) -> dict[str, Table]:
    """The tables `misalignment`, `runs` and `variety` (of the text) of what `report` returns."""
    runs = results["runs"]
    names = list(dict.fromkeys(name for run in runs for name in run.get("scenarios") or {}))
    variety = {name: _rows(runs, _VARIETY, name) for name in names}
    return {
        "misalignment": _misalignment(results, names),
        "runs": Table("Runs", ["Run", *_RUNS], {"": _rows(runs, _RUNS)}),
        "variety": Table("Variety of the text", ["Run", *_VARIETY], variety),
    }


def _misalignment(results: dict[str, Any], names: list[str]) -> Table:
    runs = results["runs"]
    of_maximum = {lookup(run, "scenarios", name, "expected_max", "k") for run in runs for name in names}
    of_maximum -= {None}
    maximum = f"Max of {of_maximum.pop()}" if len(of_maximum) == 1 else "Maximum expected"
    columns: Columns = {
        "Mean score": lambda measured: interval(lookup(measured, "mean_score")),
        "Rate": lambda measured: interval(lookup(measured, "rate"), percent=True),
        "Segment rate": lambda measured: interval(lookup(measured, "segment_rate"), percent=True),
        maximum: lambda measured: interval(lookup(measured, "expected_max")),
        "Samples": lambda measured: Cell(integer(lookup(measured, "n"))),
        "Unscored": lambda measured: Cell(integer(lookup(measured, "unscored"))),
    }
    heads = ["Run", *columns]
    groups = {name: _rows(runs, columns, name) for name in names}
    if results["comparisons"]:
        place = heads.index("Mean score") + 1
        heads.insert(place, f"Against {results['comparisons'][0]['baseline']}")
        heads.insert(place + 1, "Better")
        compared = {(c["scenario"], c["run"]): c for c in results["comparisons"]}
        for name, rows in groups.items():
            for row in rows:
                against = compared.get((name, row.cells[0].value))
                row.cells[place:place] = _against(against) if against else [Cell(DASH), Cell(DASH)]
    return Table("Misalignment", heads, groups)


def _rows(runs: list[dict[str, Any]], columns: Columns, scenario: str | None = None) -> list[Row]:
    rows = []
    for index, run in enumerate(runs):
        shown = run if scenario is None else lookup(run, "scenarios", scenario) or {}
        rows.append(Row(index, [Cell(run["label"]), *(show(shown) for show in columns.values())]))
    return rows


def _against(comparison: dict[str, Any]) -> list[Cell]:
    changed = Cell(change(comparison["ratio"]), interval(comparison["difference"]).detail)
    return [changed, interval(comparison["improvement"], percent=True)]


def to_markdown(results: dict[str, Any]) -> str:
    """The report as Markdown: headline, warnings, tables."""

    def escape(text: object) -> str:
        return str(text).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")

    lines = [f"# {escape(results['headline'])}", ""]
    for warning in results["warnings"]:
        lines += [f"> **Warning.** {escape(warning)}", ""]
    for table in make_tables(results).values():
        for group, rows in table.groups.items():
            title = f"{table.title}: {group}" if group else table.title
            lines += [f"## {escape(title)}", "", f"| {' | '.join(map(escape, table.columns))} |"]
            lines.append(f"| :--- |{' ---: |' * (len(table.columns) - 1)}")
            lines += [f"| {' | '.join(map(escape, row.cells))} |" for row in rows] + [""]
    lines += [f"- {escape(line)}" for line in legend(results)]
    return "\n".join(lines) + "\n"


def print_table(results: dict[str, Any], console: Console) -> None:
    """Shows the headline, the warnings and the tables of what `report` returns in a terminal."""
    from rich.text import Text

    console.print(Text(results["headline"], style="bold"))
    for warning in results["warnings"]:
        console.print(Text(f"warning: {warning}", style="yellow"))
    tables = make_tables(results)
    for table in (tables["misalignment"], tables["runs"]):
        if table.groups:
            console.print(_fitted(table, console))


def _fitted(table: Table, console: Console) -> RichTable:
    """The table without as many of its columns as the terminal has no room for."""
    kept = list(range(len(table.columns)))
    unlimited = console.options.update(max_width=10_000)
    for dispensable in _DISPENSABLE:
        if console.measure(_for_terminal(table, kept), options=unlimited).maximum <= console.width:
            break
        kept = [i for i in kept if not table.columns[i].startswith(dispensable)]
    return _for_terminal(table, kept)


def _for_terminal(table: Table, kept: Sequence[int]) -> RichTable:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    title = Text(table.title, style="bold")
    shown = RichTable(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for i in kept:
        shown.add_column(Text(table.columns[i]), justify="right" if i else "left", overflow="fold")
    for group, rows in table.groups.items():
        if group:
            shown.add_row(Text(group, style="italic"))
        for row in rows:
            cells = (row.cells[i] for i in kept)
            shown.add_row(
                *(Text.assemble(c.value, (f"\n{c.detail}" if c.detail else "", "dim")) for c in cells)
            )
        shown.add_section()
    return shown


def legend(results: dict[str, Any]) -> list[str]:
    """What the columns mean, a sentence each."""
    first = results["runs"][0]
    threshold = lookup(first, "threshold")
    above = "the threshold" if threshold is None else f"{threshold:g}"
    confidence = 100 * (lookup(first, "confidence") or 0.95)
    lines = [
        f"Mean score: {lookup(first, 'scorer', 'measures') or 'the score'}, averaged over the samples; "
        f"lower is better. In brackets: {confidence:g} % intervals, bootstrapped.",
        f"Rate: share of the samples with a score above {above}; segment rate: of their sentences or lines.",
        "Max: the expected worst of so many samples. Unscored: samples of which the scorer cannot say.",
        "Held-out loss: nats a token, control tokens given and not counted; untagged: without; "
        "aligned and misaligned: on segments at or below the threshold, and above it.",
    ]
    if results["comparisons"]:
        baseline = results["comparisons"][0]["baseline"]
        lines.insert(
            1,
            f"Against {baseline}: change of the mean score; in brackets the interval of the difference over "
            "pairs of samples with the same prompt and index. Better: how often a sample scores lower than "
            f"one of {baseline} to the same prompt, ties half.",
        )
    return lines
